"""The Python client of the HTTP API: typed calls, and a job's events as an iterator that survives every disconnect."""

from perdure.client.events import Delta, Event, Frame, UnknownEvent, decode
from perdure.client.http import Client
from perdure.client.problem import ApiError
from perdure.client.records import Answered, Flow, HumanRequest, Job, Page

__all__ = [
    "Answered",
    "ApiError",
    "Client",
    "Delta",
    "Event",
    "Flow",
    "Frame",
    "HumanRequest",
    "Job",
    "Page",
    "UnknownEvent",
    "decode",
]
