"""One person's turn at a request: load, let time decide first, look up who it is, decide, append by compare-and-set.

    load ─► time has decided something? append that, ring, again
         └► who is it, now? ─► decide ─► refused: nothing was written, nobody woken
                                      └► append ─► news came first: again, from the top

Rights and groups are looked up anew for each state that is decided on, so that no answer rests on a right that was gone
when it was appended, as far as the gateway can know. However long that takes: what time has decided meanwhile goes
first. While the broker's time is not known nothing is declared over by it: the append decides.
"""

from collections.abc import Awaitable, Callable

from perdure import probe
from perdure.bus.entry import Stored
from perdure.core import event as ev
from perdure.core.machine import JobState
from perdure.core.request import asked_in, decided_by_time, values_of, with_values
from perdure.core.standing import Standing
from perdure.errors import BrokenLog, Malformed, NotFound, OutcomeUnknown
from perdure.ids import Digest, EventId, JobRef, RequestId, Tenant, parse_request_id
from perdure.jobs.alarms import arm
from perdure.jobs.desk import BUDGET_SECONDS, Desk, ring
from perdure.jobs.joblog import JobLog

Who = Standing | Callable[[], Awaitable[Standing]]
Decide = Callable[[JobState, ev.Request | None, Standing], ev.AnyData | None]


async def begin(desk: Desk, tenant: Tenant, request_id: str) -> tuple[JobLog, RequestId]:
    """The log of the job that asked. Raises NotFound for what is no request id, Unavailable."""
    try:
        job_id, _ = parse_request_id(request_id)
    except Malformed:
        raise NotFound("no such request") from None
    return await JobLog.load(desk.eventlog, JobRef(tenant, job_id), desk.clock), RequestId(request_id)


async def standing(who: Who) -> Standing:
    """Who it is at this moment."""
    return who if isinstance(who, Standing) else await who()


async def take(
    desk: Desk, log: JobLog, request: RequestId, who: Who, decide: Decide, *, event_id: EventId | None = None
) -> Stored | None:
    """Append what `decide` says of the newest state, the request as last stated, and `who`; None when it says None.

    Whatever `decide` raises is raised, and nothing of it is in the log. Raises OutcomeUnknown (with the job's id; the
    same again is safe), Unavailable, TooLarge.
    """
    deadline = desk.clock.monotonic() + BUDGET_SECONDS
    values: dict[Digest, bytes] = {}
    while True:
        await _let_time_decide(desk, log, request)
        somebody, seq = await standing(who), log.state.seq

        def decided(job: JobState, seq: int = seq, somebody: Standing = somebody) -> ev.AnyData | None:
            if job.seq != seq or _overtaken(desk, job, request):
                raise _News
            asked = asked_in(log.events, request)
            if asked is not None:
                if lacking := [digest for digest in values_of(job, asked) if digest not in values]:
                    raise _Lacking(lacking)
                job, asked = with_values(job, asked, values)
            return decide(job, asked, somebody)

        try:
            left = max(0.0, deadline - desk.clock.monotonic())
            return await log.append(decided, budget_seconds=left, event_id=event_id)
        except OutcomeUnknown as exc:
            raise OutcomeUnknown(str(exc), log.ref.job) from exc
        except _News:
            continue
        except _Lacking as exc:
            for digest in exc.digests:
                values[digest] = await _value(desk, log.ref, digest)


def _overtaken(desk: Desk, job: JobState, request: RequestId) -> bool:
    """Whether time has decided something about the request that is not in the log."""
    return desk.clock.broker_known and decided_by_time(job, request, desk.clock.broker_now()) is not None


class _News(Exception):  # no error: somebody else appended first, or time goes first
    pass


class _Lacking(Exception):  # no error: blobs to read before anything can be judged
    def __init__(self, digests: list[Digest]) -> None:
        super().__init__()
        self.digests = digests


async def _value(desk: Desk, ref: JobRef, digest: Digest) -> bytes:
    try:
        return await desk.eventlog.blobs.get(ref.tenant, digest)
    except (NotFound, Malformed) as exc:
        raise BrokenLog(f"job {ref.job}: {exc}") from exc


async def _let_time_decide(desk: Desk, log: JobLog, request: RequestId) -> None:
    """Append what time has decided about the request, in its order. Whoever looks writes it down."""
    if not desk.clock.broker_known:
        return
    now = desk.clock.broker_now()
    while True:
        try:
            written = await log.append(lambda job: decided_by_time(job, request, now), budget_seconds=BUDGET_SECONDS)
        except OutcomeUnknown as exc:
            raise OutcomeUnknown(str(exc), log.ref.job) from exc
        if written is None:
            return
        probe.hit("time.after_append")
        if isinstance(written.event, ev.InputRequested):  # a restatement wakes nobody
            await arm(desk.doorbells, log.ref, log.state, desk.clock.broker_now())
        else:
            await ring(desk, log.ref, log.state)
