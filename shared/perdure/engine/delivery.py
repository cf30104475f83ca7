"""Delivery: one recorded event at a time to whom it concerns, in log order; noticing code that does not fit the log.

A keyed event goes to the call with its key. When its branch is not there yet the event waits as long as some branch
hangs; when nothing hangs, or the branch waits in another call or has ended, the code is not the one that wrote the
log.
"""

import asyncio

from perdure.core import event as ev
from perdure.core.cause import RETRY_NOW
from perdure.core.event import AnyEvent
from perdure.core.journal import Entry, changed, entry, fits
from perdure.engine.bench import Bench
from perdure.engine.branches import Branch
from perdure.engine.calls import Call
from perdure.engine.signals import received
from perdure.engine.trace import place
from perdure.errors import ConcurrencyError


async def deliver(bench: Bench, hang_seconds: float) -> AnyEvent:
    """Deliver the next event; the branches that it moves are not still yet when this returns.

    Raises CodeChanged, and ConcurrencyError when a branch hangs for `hang_seconds` before the call that the event is
    for.
    """
    event = bench.journal.peek()
    assert event is not None, "there is something to deliver"
    recorded = entry(event)
    call = None if recorded is None else await _caller(bench, recorded, hang_seconds)
    bench.journal.advance()
    match event:
        case ev.CancelRequested():
            if not bench.branches.cancelling:
                bench.branches.cancel()
        case ev.InputAnswered(data=settling) | ev.InputExpired(data=settling) | ev.InputWithdrawn(data=settling):
            asked = bench.asks.pop(settling.request_id, None)
            if asked is not None and not asked.abandoned:
                asked.hear(event)
        case ev.SignalReceived(data=signal) if signal.name == RETRY_NOW:
            for waiting in bench.branches.parked():
                if (wait := waiting.waiting()) is not None and wait.kind == "backoff":
                    waiting.hear(event)
        case ev.SignalReceived(data=signal) if not signal.name.startswith("$"):
            await received(bench, event)
        case ev.Output(data=output):
            bench.outputs.add(output.name)
        case _:
            pass  # for the call with its key, or for nobody
    if call is not None:
        call.hear(event)
    return event


async def _caller(bench: Bench, recorded: Entry, hang_seconds: float) -> Call | None:
    """The call that `recorded` belongs to; None when its branch has stopped waiting for it."""
    while True:
        if recorded.key in bench.abandoned:
            return None
        branch = bench.branches.by_path.get(recorded.key.path)
        if branch is not None:
            call = branch.call
            if call is not None and call.entry is not None and call.entry.key == recorded.key:
                if not fits(recorded, call.entry):
                    raise changed(recorded, call.entry)
                return call
            if branch.done:
                raise changed(recorded, "end")
            if call is not None and call.entry is not None:
                raise changed(recorded, call.entry)
        hanging = bench.branches.hanging()
        if not hanging:
            raise changed(recorded, "gather" if branch is not None else _instead(bench, recorded.key.path))
        bench.branches.stirred.clear()
        try:
            async with asyncio.timeout(hang_seconds):
                await bench.branches.stirred.wait()
        except TimeoutError:
            raise hung(hanging, f"so the recorded {recorded} cannot be delivered") from None
        await bench.branches.still()  # if it never is, the next look at the branches says so


def _instead(bench: Bench, path: str) -> str:
    """What there is in place of a branch that never started: what the one is at that should have started it."""
    while path and path not in bench.branches.by_path:
        path = path.rpartition("/")[0]
    parent = bench.branches.by_path[path]
    return f"no such branch: {path or '/'} is at {'its end' if parent.done else parent.call}"


def hung(branches: list[Branch], why: str) -> ConcurrencyError:
    """The error for branches that wait for something that Perdure does not know."""
    where = "; ".join(f"branch {b.path or '/'} at {place(b.driven.coroutine)}" for b in branches[:3])
    return ConcurrencyError(f"nothing moves, {why}: {where}. Reading, writing and waiting belong into a step")
