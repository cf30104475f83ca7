"""The Python client of the HTTP API: typed calls, and a job's events as an iterator that survives every disconnect."""

from perdure.client.events import Delta, Event, EventStream, Frame, StreamGap, UnknownEvent, decode
from perdure.client.follow import Follow, Snapshot
from perdure.client.http import Client
from perdure.client.outcome import JobCancelled, JobEnded, JobFailed, JobTimedOut, NeedsPerson, Reply, WaitTimeout
from perdure.client.problem import ApiError
from perdure.client.records import (
    Answered,
    AnswerLink,
    Flow,
    Group,
    HumanRequest,
    Job,
    Key,
    NewKey,
    Page,
    QueueDepth,
    Runner,
)
from perdure.client.sync import SyncClient, SyncFollow

__all__ = [
    "AnswerLink",
    "Answered",
    "ApiError",
    "Client",
    "Delta",
    "Event",
    "EventStream",
    "Flow",
    "Follow",
    "Frame",
    "Group",
    "HumanRequest",
    "Job",
    "JobCancelled",
    "JobEnded",
    "JobFailed",
    "JobTimedOut",
    "Key",
    "NeedsPerson",
    "NewKey",
    "Page",
    "QueueDepth",
    "Reply",
    "Runner",
    "Snapshot",
    "StreamGap",
    "SyncClient",
    "SyncFollow",
    "UnknownEvent",
    "WaitTimeout",
    "decode",
]
