"""A job as its log says after any of its events: what a reader who comes late needs instead of all of them."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import Raw

from perdure.core import event as ev
from perdure.core.event import AnyEvent
from perdure.core.machine import JobState, fold
from perdure.core.request import asked_in
from perdure.core.stream import withheld
from perdure.core.stream.delta import Said, Settled, join
from perdure.ids import JobRef
from perdure_gateway import views

_STEP: Final = ("path", "step", "occurrence")


def state(ref: JobRef, events: Sequence[AnyEvent], said: Sequence[Said], *, values: bool) -> dict[str, Any]:
    """The fold of `events`, which begin with the first, with the deltas `said` that none of them has settled.

    Steps stand in the order in which their last event came. `values`: whether users' values show.
    """
    job = fold(events)
    view: dict[str, Any] = {
        "offset": str(job.seq),
        "job": views.job_of_state(ref, job),
        "steps": _steps(events),
        "messages": [_with_seq(e) for e in events if isinstance(e, ev.Message)],
        "outputs": [_with_seq(e) for e in events if isinstance(e, ev.Output)],
        "requests": _requests(job, events),
        "deltas": [Raw(each.body) for each in _open(events, said)],
    }
    return view if values else _withheld(view)


def _steps(events: Sequence[AnyEvent]) -> list[dict[str, Any]]:
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for event in events:
        match event:
            case ev.StepCompleted() | ev.StepFailed() | ev.StepSkipped():
                step = _with_seq(event)
                step["status"] = _WORD[type(event)]
                key = tuple(step.get(name) for name in _STEP)
                found.pop(key, None)
                found[key] = step
            case _:
                pass
    return list(found.values())


def _with_seq(event: AnyEvent) -> dict[str, Any]:
    members: dict[str, Any] = msgspec.to_builtins(event.data)
    return {"seq": event.seq, "at": event.at} | members


def _requests(job: JobState, events: Sequence[AnyEvent]) -> list[dict[str, Any]]:
    flow = job.submitted.flow if job.submitted is not None else None
    found = []
    for event in events:
        if isinstance(event, ev.InputRequested) and event.data.request.revision == 1:
            asked = asked_in(events, event.data.request.id)
            if asked is not None:
                found.append(views.request_of_state(job, asked, job.settled.get(asked.id), flow))
    return found


def _open(events: Sequence[AnyEvent], said: Sequence[Said]) -> list[Said]:
    settled = Settled(most=len(events) + 1)
    for event in events:
        settled.note(event)
    attempt = events[-1].attempt
    return join((s for s in said if s.delta.attempt == attempt and not settled.covers(s.delta)), whole=True)


def _withheld(view: dict[str, Any]) -> dict[str, Any]:
    job = views.job_shown(view["job"], values=False)
    shown: dict[str, Any] = msgspec.to_builtins(view | {"job": job, "deltas": []})
    for name, kind in (("steps", "step"), ("messages", "message"), ("outputs", "output"), ("requests", "request")):
        shown[name] = [withheld.data(each, kind) for each in shown[name]]
    return shown


_WORD: Final = {ev.StepCompleted: "completed", ev.StepFailed: "failed", ev.StepSkipped: "skipped"}
