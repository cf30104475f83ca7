"""A runner by hand: what a runner would append to a job's log, said by a test event by event through a real JobLog."""

import contextlib
from collections.abc import Sequence
from typing import Any, Final

from msgspec import UNSET

from perdure.bus.entry import Stored
from perdure.core import event as ev
from perdure.core.event import AnyData
from perdure.core.instant import Instant
from perdure.core.request import proposal_digest
from perdure.errors import Unavailable
from perdure.ids import JobRef, Principal, RequestId, new_ring, new_runner_id, request_id
from perdure.jobs.desk import Desk
from perdure.jobs.joblog import JobLog

TITLE: Final = "Publish this?"
APPROVAL: Final = (ev.Action(id="approve"), ev.Action(id="reject", requires=("comment",)))


class Hand:
    """One job's runner. Nothing here rings, holds a lease or runs code."""

    def __init__(self, desk: Desk, ref: JobRef) -> None:
        self.ref = ref
        self.log = JobLog(desk.eventlog, ref, desk.clock)
        self._desk = desk
        self._runner = new_runner_id()

    async def add(self, data: AnyData) -> Stored:
        """Append `data` to the end of the log, wherever that is now; a broker that is away is waited for."""
        with contextlib.suppress(Unavailable):  # then the append looks
            await self.log.refresh()
        stored = await self.log.append(lambda job: data)
        assert stored is not None, f"{type(data).__name__} cannot follow {self.log.state.status}"
        return stored

    async def start(self) -> Stored:
        """`attempt.started`."""
        await self.log.refresh()
        reason: Any = "first" if self.log.state.attempt == 0 else "resumed"
        return await self.add(
            ev.AttemptData(runner=self._runner, doorbell=ev.Bell(seq=1, ring=new_ring()), reason=reason)
        )

    async def step(self, name: str, result: Any = None, *, occurrence: int = 1, path: str = "") -> Stored:
        """`step.completed`."""
        now = self._desk.clock.broker_now()
        return await self.add(
            ev.StepCompletedData(
                step=name, occurrence=occurrence, path=path, result=result, started_at=now, duration_seconds=0.0
            )
        )

    async def ask(
        self,
        *,
        name: str = "review",
        actions: Sequence[ev.Action] = APPROVAL,
        proposal: Any = UNSET,
        **members: Any,
    ) -> RequestId:
        """`input.requested`; the id of the request. `members` are those of core.event.Request."""
        await self.log.refresh()
        asked = request_id(self.ref.job, self.log.state.seq + 1)
        given: dict[str, Any] = {}
        if proposal is not UNSET:
            given = {"proposal": proposal, "proposal_digest": proposal_digest(TITLE, None, proposal)}
        request = ev.Request(
            id=asked,
            job_id=self.ref.job,
            name=name,
            occurrence=1,
            revision=1,
            asked_at=self._desk.clock.broker_now(),
            asked_for=Principal("user:ann"),
            actions=tuple(actions),
            **({"kind": "approval", "title": TITLE} | given | members),
        )
        await self.add(ev.RequestedData(request=request))
        return asked

    async def suspend(self, *requests: RequestId, until: Instant | None = None) -> Stored:
        """`job.suspended`, waiting for `requests`."""
        waiting = tuple(ev.Waiting(kind="input", name="review", request_id=r, until=until) for r in requests)
        return await self.add(ev.SuspendedData(waiting=waiting))

    async def complete(self, **outputs: Any) -> Stored:
        """`job.completed`."""
        await self.log.refresh()
        assert self.log.state.fingerprint is not None
        return await self.add(ev.CompletedData(outputs=outputs, fingerprint=self.log.state.fingerprint))
