"""What has become of one request, told from its job's log: votes, comments, and its history in the order of the log."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import msgspec

from perdure.core import event as ev
from perdure.core.comment import comments_on
from perdure.core.event import AnyEvent
from perdure.core.machine import JobState
from perdure.core.vote import counted, tally
from perdure.ids import RequestId


def votes(job: JobState, asked: ev.Request) -> dict[str, Any]:
    """`votes[]` and `tally[]` of an open request that a quorum decides: those on what it shows now."""
    if asked.quorum is None or asked.id not in job.asked:
        return {}
    given = counted(job, asked)
    return {
        "votes": [
            _present(by=vote.by, action=vote.action, at=at, comment=vote.comment, payload_digest=vote.payload_digest)
            for vote, at in given
        ],
        "tally": msgspec.to_builtins(tally([vote for vote, _ in given])),
    }


def told(events: Sequence[AnyEvent], job: JobState, request: RequestId) -> dict[str, Any]:
    """`comments[]` and `history[]`."""
    comments = [
        {"seq": event.seq, "at": event.at, "by": event.data.by, "text": event.data.payload["text"]}
        for event in comments_on(events, request)
    ]
    history = sorted([*_history(events, request), *_commented(comments)], key=lambda entry: entry["seq"])
    if job.terminal and request not in job.settled:
        history.append({"seq": job.seq, "at": job.ended_at, "kind": "withdrawn", "reason": "job_ended"})
    return {"comments": comments, "history": history}


def _commented(comments: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for comment in comments:
        yield {"seq": comment["seq"], "at": comment["at"], "kind": "commented", "by": comment["by"]}


def _history(events: Sequence[AnyEvent], request: RequestId) -> Iterator[dict[str, Any]]:
    stated = [e for e in events if isinstance(e, ev.InputRequested) and e.data.request.id == request]
    for first in stated[:1]:
        yield {"seq": first.seq, "at": first.at, "kind": "asked", "revision": first.data.request.revision}
    for before, after in pairwise(stated):
        yield _restated(before.data.request, after)
    for event in events:
        match event:
            case ev.InputVoted(data=data) if data.request_id == request:
                yield _entry(event, "voted", by=data.by, action=data.action)
            case ev.InputAnswered(data=data) if data.request_id == request:
                yield _entry(event, "answered", by=data.by, action=data.action)
            case ev.InputExpired(data=data) if data.request_id == request:
                yield _entry(event, "expired", by=data.by, cause=data.cause)
            case ev.InputWithdrawn(data=data) if data.request_id == request:
                yield _entry(event, "withdrawn", by=data.by, reason=data.reason)
            case _:
                pass


def _restated(before: ev.Request, event: ev.InputRequested) -> dict[str, Any]:
    after = event.data.request
    if len(after.delegations) > len(before.delegations):
        last = after.delegations[-1]
        return _entry(event, "delegated", revision=after.revision, by=last.by, to=last.to)
    return _entry(event, "escalated" if after.escalated > before.escalated else "restated", revision=after.revision)


def _entry(event: AnyEvent, kind: str, **members: Any) -> dict[str, Any]:
    return {"seq": event.seq, "at": event.at, "kind": kind} | _present(**members)


def _present(**members: Any) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}
