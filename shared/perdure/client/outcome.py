"""What became of a job: its outputs, or an error that says how it ended."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

import msgspec
from msgspec import Struct

from perdure.client.events import decode
from perdure.client.follow import Snapshot
from perdure.client.jobs import JobCalls
from perdure.client.people import InboxCalls
from perdure.client.records import HumanRequest, Job
from perdure.core import event as ev
from perdure.core.event import Status
from perdure.errors import Conflict, Expired, PerdureError


class JobEnded(PerdureError):
    """A job did not complete. `job` is the job as it is."""

    def __init__(self, job: Job, what: str) -> None:
        super().__init__(f"job {job.id} {what}")
        self.job = job


class JobFailed(JobEnded):
    """It failed; `job.error` says why."""


class JobCancelled(JobEnded):
    """Somebody, or something, cancelled it."""


class JobTimedOut(JobEnded):
    """Its deadline is over."""


class NeedsPerson(JobEnded):
    """It waits for an answer that nobody here gives; `job.requests` are open. It goes on when they are answered."""


class WaitTimeout(JobEnded):
    """It has not ended in time. It goes on."""


class Reply(Struct, frozen=True, kw_only=True):
    """How to answer a request. UNSET: nothing is said."""

    action: str
    payload: Any = msgspec.UNSET  # Any: user value
    proposal: Any = msgspec.UNSET  # Any: user value
    comment: str | None = None


# An ordinary function is called in a thread of its own, so that it may wait, and call a SyncClient.
OnRequest = Callable[[HumanRequest], Awaitable[Reply] | Reply]


class OutcomeCalls(JobCalls, InboxCalls):
    """Waiting for what a job makes."""

    async def run(
        self,
        flow: str,
        input: Any = None,  # Any: user value
        *,
        on_request: OnRequest | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  # the error says more than a TimeoutError
    ) -> dict[str, Any]:  # Any: user values
        """Submit a job of `flow` and give its outputs by name. See `result`."""
        return await self.result((await self.submit(flow, input)).id, on_request=on_request, timeout=timeout)

    async def result(
        self,
        job_id: str,
        *,
        on_request: OnRequest | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  # the error says more than a TimeoutError
    ) -> dict[str, Any]:  # Any: user values
        """The outputs of a job by name, once it has completed; `on_request` answers what it asks.

        Raises JobFailed, JobCancelled, JobTimedOut, NeedsPerson (it asks, and there is no `on_request`), WaitTimeout
        after `timeout` seconds, and what other calls raise.
        """
        try:
            async with asyncio.timeout(timeout):
                if not await self._to_its_end(job_id, on_request):
                    raise NeedsPerson(await self.job(job_id), "waits for a person")
        except TimeoutError:
            raise WaitTimeout(await self.job(job_id), f"has not ended within {timeout:g} s") from None
        job = await self.job(job_id)
        if job.status is Status.COMPLETED:
            return job.outputs or {}
        raise _ended(job)

    async def next_request(
        self,
        job_id: str,
        name: str | None = None,
        *,
        timeout: float | None = None,  # noqa: ASYNC109  # the error says more than a TimeoutError
    ) -> HumanRequest:
        """The earliest request of the job that is open, of this `name` where one is given, once there is one.

        Raises JobEnded where the job ends without asking (JobFailed, JobCancelled, JobTimedOut where it did),
        WaitTimeout after `timeout` seconds, and what other calls raise.
        """
        try:
            async with (
                asyncio.timeout(timeout),
                self.follow(job_id, types=["input.requested", "job.*"], on_gap="snapshot") as told,
            ):
                async for record in told:
                    match record:
                        case ev.InputRequested(data=data) if name in (None, data.request.name):
                            asked = [await self.request(data.request.id)]
                        case Snapshot():
                            asked = [r for r in await self.requests(job_id) if name in (None, r.name)]
                        case _:
                            continue
                    for request in asked:
                        if request.status == "pending":  # an old one, told again, may be settled
                            return request
        except TimeoutError:
            what = "nothing" if name is None else f"no {name!r}"
            raise WaitTimeout(await self.job(job_id), f"has asked {what} within {timeout:g} s") from None
        raise _ended(await self.job(job_id))

    async def _to_its_end(self, job_id: str, on_request: OnRequest | None) -> bool:
        """Follow the job to its end; False where it sleeps for an answer that nobody gives."""
        asked: set[str] = set()
        async with aclosing(self.events(job_id, deltas=False, on_gap="snapshot").frames()) as frames:
            async for frame in frames:
                match decode(frame):
                    case ev.InputRequested(data=data):
                        asked.add(data.request.id)
                    case ev.InputAnswered(data=done) | ev.InputExpired(data=done) | ev.InputWithdrawn(data=done):
                        asked.discard(done.request_id)
                    case ev.JobSuspended(data=sleep):
                        for waiting in sleep.waiting:
                            if waiting.request_id is None or waiting.request_id not in asked:
                                continue
                            request = await self.request(waiting.request_id)
                            if request.status != "pending":  # an old sleep, told again
                                continue
                            if on_request is None:
                                return False
                            await self._reply(request, await _asked(on_request, request))
                    case _:
                        pass
        return True

    async def _reply(self, request: HumanRequest, reply: Reply) -> None:
        try:
            await self.answer(
                request, reply.action, payload=reply.payload, proposal=reply.proposal, comment=reply.comment
            )
        except (Conflict, Expired) as exc:
            if exc.code not in ("already-answered", "request-withdrawn", "request-expired"):
                raise  # else somebody was quicker, and the stream says what counts


async def _asked(on_request: OnRequest, request: HumanRequest) -> Reply:
    """What `on_request` says."""
    said: Reply | Awaitable[Reply]
    if inspect.iscoroutinefunction(on_request):
        said = on_request(request)
    else:
        said = await asyncio.to_thread(on_request, request)
    return said if isinstance(said, Reply) else await said


def _ended(job: Job) -> JobEnded:
    """The error for a job whose end is not what was waited for."""
    match job.status:
        case Status.COMPLETED:
            return JobEnded(job, "has completed")
        case Status.CANCELLED:
            return JobCancelled(job, "was cancelled")
        case Status.TIMED_OUT:
            return JobTimedOut(job, "timed out")
        case _:
            return JobFailed(job, f"failed: {job.error.code if job.error is not None else job.status}")
