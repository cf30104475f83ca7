"""Logs put into a real broker event by event, for tests of what reads them."""

from perdure.bus.eventlog import EventLog
from perdure.core.event import AnyEvent
from perdure.ids import JobRef, StreamSeq, Tenant, new_job_id
from perdure.testing.factory import Story


class Told:
    """A new job of `tenant` whose log grows in the broker as it is told."""

    def __init__(self, eventlog: EventLog, tenant: Tenant) -> None:
        self.ref = JobRef(tenant, new_job_id())
        self.story = Story(self.ref.job)
        self.at: list[StreamSeq] = []
        self._eventlog = eventlog

    @property
    def last(self) -> StreamSeq:
        """The stream sequence of the last event; 0 when there is none."""
        return self.at[-1] if self.at else StreamSeq(0)

    async def put(self, event: AnyEvent) -> StreamSeq:
        """Append an event that `story` has just made."""
        self.at.append(await self._eventlog.append(self.ref, event, self.last))
        return self.last

    async def begin(self, steps: int = 0) -> "Told":
        """Submitted, started, and so many steps completed."""
        await self.put(self.story.submitted())
        await self.put(self.story.started())
        for number in range(steps):
            await self.put(self.story.step(f"s{number}"))
        return self
