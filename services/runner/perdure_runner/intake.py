"""The one door through which work starts: a doorbell comes in, the log decides, an attempt is claimed or nothing is.

The rules are `core.claim`; here is their I/O. The order everywhere: append, then arm, then ack. Whatever goes wrong
before the claim leaves the doorbell alone: it comes back when the lease runs out.
"""

import contextlib
from collections.abc import Awaitable, Callable

import structlog
from msgspec import Struct

from perdure import probe
from perdure.bus.belief import Lease
from perdure.bus.delivery import Delivery
from perdure.bus.doorbell import Doorbells
from perdure.bus.entry import Stored
from perdure.bus.eventlog import EventLog
from perdure.bus.heartbeat import Heartbeats
from perdure.bus.inbox import Tell, reminded
from perdure.clock import Chance, Clock
from perdure.core import event as ev
from perdure.core.alarm import due, reminder_named
from perdure.core.claim import Asleep, Decided, Ended, Held, Start, claim, crashed_out
from perdure.core.event import AnyData
from perdure.core.machine import JobState
from perdure.engine.workflow import Workflow
from perdure.errors import BrokenLog, Interrupted, Malformed, NotFound, OutcomeUnknown, Unavailable, UnsupportedVersion
from perdure.ids import EventId, RunnerId
from perdure.jobs.alarms import arm
from perdure.jobs.desk import Desk
from perdure.jobs.joblog import JobLog
from perdure.jobs.parent import tell_parent
from perdure_runner.flows import Flows
from perdure_runner.langflow.flow import LangflowFlow
from perdure_runner.suspect import Suspects

log = structlog.get_logger(__name__)


class Claimed(Struct, frozen=True):
    """An attempt that is this runner's: what the executor gets."""

    delivery: Delivery
    lease: Lease
    joblog: JobLog
    attempt_id: EventId
    workflow: Workflow | LangflowFlow


class Suspected(Struct, frozen=True):
    """The job is to be claimed by a process of its own."""


Execute = Callable[[Claimed], Awaitable[None]]


class Intake:
    """Turns deliveries into attempts. One call of `handle` per delivery; calls run side by side."""

    def __init__(
        self,
        runner: RunnerId,
        eventlog: EventLog,
        doorbells: Doorbells,
        heartbeats: Heartbeats,
        flows: Flows,
        execute: Execute,
        clock: Clock,
        chance: Chance,
        tell: Tell,
        suspects: Suspects | None = None,
    ) -> None:
        """`suspects`: who runs jobs whose runners died; without it this process is such a one, and runs them itself."""
        self._runner = runner
        self._eventlog = eventlog
        self._doorbells = doorbells
        self._desk = Desk(eventlog, doorbells, clock)
        self._heartbeats = heartbeats
        self._flows = flows
        self._execute = execute
        self._clock = clock
        self._chance = chance
        self._tell = tell
        self._suspects = suspects
        self.stopping = False
        self.crowded: Callable[[], bool] = lambda: False
        """Whether other doorbells may wait for this runner: then what time has decided about their jobs goes first."""

    async def handle(self, delivery: Delivery) -> None:
        """See to one doorbell, to the end of the attempt if it starts one."""
        probe.hit("claim.after_fetch")
        if self.stopping:
            await delivery.nak(0)
            return
        lease = self._heartbeats.hold(delivery, delivery.lease_seconds)
        with structlog.contextvars.bound_contextvars(tenant=delivery.ref.tenant, job_id=delivery.ref.job):
            try:
                match await self._claim(delivery, lease):
                    case Claimed() as claimed:
                        await self._execute(claimed)
                    case Suspected() if self._suspects is not None:
                        await self._suspects.run(delivery, lease)
                    case _:
                        pass
            except (Unavailable, OutcomeUnknown) as exc:
                log.warning("doorbell left to its lease", error=str(exc))
            except Interrupted as exc:
                log.warning("attempt interrupted", why=str(exc))
            except UnsupportedVersion as exc:
                log.warning("doorbell handed back", error=str(exc))
                await delivery.nak(1.0 + 9.0 * self._chance.random())
            except (BrokenLog, Malformed) as exc:  # nothing that a runner can mend; the sweeper quarantines the row
                log.error("job cannot be run", error=str(exc))
                await delivery.ack()
            finally:
                lease.release()

    async def _claim(self, delivery: Delivery, lease: Lease) -> Claimed | Suspected | None:
        """Claim the job, or ack the doorbell and return None, or leave both to a process of the job's own."""
        joblog = await self._open(delivery)
        probe.hit("claim.after_read")
        await self._remind(delivery, joblog.state)
        timed, confirmed = delivery.doorbell.alarm is not None, False
        while True:
            match claim(joblog.state, self._clock.broker_now(), delivery.bell):
                case Ended() | Asleep() | Held() if not confirmed:
                    confirmed = True  # what appends is refused where a replica was behind; what acks has to ask
                    await joblog.refresh()
                case Ended():
                    await tell_parent(self._desk, delivery.ref, joblog.state)
                    await self._ack(delivery, lease)
                    return None
                case Asleep():
                    await arm(self._doorbells, delivery.ref, joblog.state, self._clock.broker_now())
                    await self._ack(delivery, lease)
                    return None
                case Decided():
                    decided = await joblog.append(self._due, budget_seconds=self._believed(lease))
                    timed = True
                    if decided is not None and isinstance(decided.event, ev.JobCancelled):
                        probe.hit("cancel.after_grace")
                    else:
                        probe.hit("time.after_append")
                case Held(bell=bell, start=start):
                    if await self._doorbells.holds(delivery.queue, delivery.priority, delivery.ref, bell):
                        await self._ack(delivery, lease)
                        return None
                    if await joblog.refresh() == 0:
                        claimed = await self._start(delivery, lease, joblog, start)
                        if claimed is not None:
                            return claimed
                case Start() if timed and self.crowded():
                    # Thousands may be due in one second: all of them are written down before any of them runs.
                    await self._doorbells.ring(delivery.ref, delivery.queue, delivery.priority)
                    await self._ack(delivery, lease)
                    return None
                case Start() as start:
                    claimed = await self._start(delivery, lease, joblog, start)
                    if claimed is not None:
                        return claimed

    async def _remind(self, delivery: Delivery, job: JobState) -> None:
        """Tell whoever listens that a request waits, when it is a reminder that rang. The sweeper tells it again."""
        reminder = reminder_named(job, delivery.doorbell.alarm, self._clock.broker_now())
        if reminder is None:
            return
        try:
            await self._tell([(delivery.ref.tenant, reminded(reminder, job.seq))])
            probe.hit("remind.after_tell")
        except Unavailable as exc:
            log.warning("reminder left to the sweeper", request_id=reminder.request.id, error=str(exc))

    async def _open(self, delivery: Delivery) -> JobLog:
        """The job's log, perhaps without its end: of a new small job by what the doorbell carries, else as any replica
        has it. What is appended to less than all of it is refused.
        """
        first = delivery.submitted
        if first is not None:
            return JobLog(self._eventlog, delivery.ref, self._clock, [first])
        return JobLog(self._eventlog, delivery.ref, self._clock, await self._eventlog.replay(delivery.ref))

    async def _start(
        self, delivery: Delivery, lease: Lease, joblog: JobLog, start: Start
    ) -> Claimed | Suspected | None:
        """Append `attempt.started`; None when the log has moved: claim from the beginning."""
        before = joblog.state
        if (end := crashed_out(before)) is not None:
            await joblog.append(lambda job: end if job is before else None, budget_seconds=self._believed(lease))
            return None
        if before.submitted is None:
            return None
        if start.suspect and self._suspects is not None:
            return Suspected()
        workflow = await self._flows.workflow(delivery.ref.tenant, before.submitted.flow, before.submitted)
        with contextlib.suppress(NotFound, Malformed):  # then the attempt says so in the log; Unavailable starts none
            await joblog.resolve()
        data = ev.AttemptData(
            runner=self._runner,
            doorbell=delivery.bell,
            reason=start.reason,
            because_seq=start.because_seq,
            cause=start.cause,
            code_digest=workflow.digest if before.submitted.flow.kind == "python" else None,
        )
        stored: Stored | None = await joblog.append(
            lambda job: data if job is before else None, budget_seconds=self._believed(lease)
        )
        if stored is None or joblog.state.attempt_id != stored.event.id:
            return None
        probe.hit("claim.after_append")
        # A person would miss only what is out of the ordinary: a busy runner starts a thousand attempts a second.
        tell = log.info if start.reason in ("lease_lost", "rung") else log.debug
        tell("attempt started", attempt=joblog.state.attempt, reason=start.reason)
        return Claimed(delivery, lease, joblog, stored.event.id, workflow)

    async def _ack(self, delivery: Delivery, lease: Lease) -> None:
        """Ack, unless the doorbell may be in somebody else's hands by now: a late ack takes it from under them. Raises
        Interrupted.
        """
        self._believed(lease)
        await delivery.ack()

    def _due(self, job: JobState) -> AnyData | None:
        return due(job, self._clock.broker_now())

    def _believed(self, lease: Lease) -> float:
        """Seconds for which the lease is believed. Raises Interrupted when there are none."""
        left = lease.believed_until - self._clock.monotonic()
        if left <= 0:
            raise Interrupted("the lease is in doubt")
        return left
