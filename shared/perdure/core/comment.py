"""Comments on a request: signals of Perdure's own in the job's log. They wake nobody and reach no workflow."""

from collections.abc import Iterable
from typing import Any, Final

from perdure.core import event as ev
from perdure.core.machine import JobState
from perdure.core.request import WATCHER
from perdure.core.standing import Standing, visible
from perdure.errors import Conflict, Fault, Invalid, NotFound
from perdure.ids import EventId, RequestId

SIGNAL: Final = "$comment"
MAX_CHARACTERS: Final = 4096
MAX_COMMENTS: Final = 200  # on one request, so that no conversation fills the log of its job


def comment(
    job: JobState, asked: ev.Request | None, who: Standing, text: str, signal_id: EventId, via: ev.Via | None = None
) -> ev.SignalData:
    """The event by which `who` comments on `asked`, settled or not, as long as the job is open.

    Raises NotFound, Conflict (`job-terminal`), Invalid (`/text`).
    """
    if asked is None or not visible(asked, who, watcher=WATCHER in who.rights):
        raise NotFound("no such request")
    if job.terminal:
        raise Conflict("job-terminal", "the job has ended", {"job_status": job.status})
    if not text.strip() or len(text) > MAX_CHARACTERS:
        fault = Fault("out-of-range", f"must be a text of at most {MAX_CHARACTERS} characters", pointer="/text")
        raise Invalid([fault])
    payload: dict[str, Any] = {"request_id": asked.id, "text": text}
    return ev.SignalData(signal_id=signal_id, name=SIGNAL, payload=payload, by=who.principal, via=via)


def see_room(log: Iterable[ev.AnyEvent], request: RequestId) -> None:
    """See that `request` takes one more comment. Raises Conflict (`comments-full`)."""
    if len(comments_on(log, request)) >= MAX_COMMENTS:
        raise Conflict("comments-full", f"a request takes {MAX_COMMENTS} comments", {"limit": MAX_COMMENTS})


def commented(job: JobState, said: ev.SignalData) -> ev.Request | None:
    """The request that `said` comments on, as last stated; None when it is no comment."""
    if said.name != SIGNAL or not isinstance(said.payload, dict):
        return None
    request = RequestId(str(said.payload.get("request_id")))
    settled = job.settled.get(request)
    return job.asked.get(request) if settled is None else settled.request


def comments_on(log: Iterable[ev.AnyEvent], request: RequestId) -> list[ev.SignalReceived]:
    """The comments on `request`, in their order; `data.payload` is `{request_id, text}`."""
    return [
        event
        for event in log
        if isinstance(event, ev.SignalReceived)
        and event.data.name == SIGNAL
        and isinstance(event.data.payload, dict)
        and event.data.payload.get("request_id") == request
    ]
