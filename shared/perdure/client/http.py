"""The HTTP calls: one method a route. Each may be repeated safely, so each is tried again while nothing answers."""

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Final, Self, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec
import uuid_utils

from perdure.client.events import STALL_SECONDS, EventStream
from perdure.client.problem import error_of
from perdure.client.records import Answered, Flow, HumanRequest, Job, Page
from perdure.clock import Chance, Clock, SystemChance, SystemClock
from perdure.errors import Conflict, NotFound, OutcomeUnknown, PerdureError, Unavailable

T = TypeVar("T")
FIRST_PAUSE: Final = 0.2
LAST_PAUSE: Final = 5.0
MAX_RETRY_AFTER: Final = 30.0


class Client:
    """The client of one gateway; an async context manager.

    Errors are those of `perdure.errors`: Invalid, Unauthenticated, Forbidden, NotFound, Conflict, Expired,
    OutcomeUnknown, Unavailable, and ApiError for what nobody foresaw. `timeout` seconds bound one try, `retry_seconds`
    all tries of a call.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        timeout: float = 30.0,
        retry_seconds: float = 20.0,
        clock: Clock | None = None,
        chance: Chance | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self._key, self._timeout, self._retry_seconds = key, timeout, retry_seconds
        self._clock, self._chance = clock or SystemClock(), chance or SystemChance()
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        headers = {"Authorization": f"Bearer {self._key}", "User-Agent": "perdure-python"}
        self._session = aiohttp.ClientSession(headers=headers)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    # ------------------------------------------------------------------------------------------------ jobs

    async def submit(
        self,
        flow: str,
        input: Any = None,  # Any: user value
        *,
        idempotency_key: str | None = None,
        session_id: str | None = None,
        tags: Mapping[str, str] | None = None,
        queue: str | None = None,
        priority: str | None = None,
        not_before: str | None = None,
        deadline_seconds: float | None = None,
        max_failures: int | None = None,
    ) -> Job:
        """Submit a job of `flow` (name, id or name@version); the job as it is now.

        Without an `idempotency_key` a new one is sent, so that a try that is repeated makes no second job.
        """
        body = {
            "flow": flow, "input": input, "session_id": session_id, "tags": tags, "queue": queue, "priority": priority,
            "not_before": not_before, "deadline_seconds": deadline_seconds, "max_failures": max_failures,
        }  # fmt: skip
        key = idempotency_key or str(uuid_utils.uuid7())
        return await self._call(Job, "POST", "/api/jobs", json=_present(body), headers={"Idempotency-Key": key})

    async def job(self, job_id: str) -> Job:
        """The job as its log says it is."""
        return await self._call(Job, "GET", f"/api/jobs/{_part(job_id)}")

    async def jobs(
        self, *, status: str | None = None, flow: str | None = None, limit: int = 50, cursor: str | None = None
    ) -> Page[Job]:
        """A page of jobs, newest first; the list may be a second behind."""
        query = {"status": status, "flow": flow, "limit": str(limit), "cursor": cursor}
        return await self._call(Page[Job], "GET", "/api/jobs", params=query)

    async def cancel(
        self, job_id: str, *, reason: str | None = None, grace_seconds: float | None = None, force: bool = False
    ) -> Job:
        """Cancel a job; its state after it. One that runs ends within its grace, one that has ended stays as it is."""
        body = {"reason": reason, "grace_seconds": grace_seconds, "force": force or None}
        return await self._call(Job, "POST", f"/api/jobs/{_part(job_id)}/cancel", json=_present(body))

    def events(
        self,
        job_id: str,
        *,
        after: int = 0,
        until: str | None = None,
        deltas: bool = True,
        reconnect_seconds: float = 120.0,
    ) -> EventStream:
        """The job's events after `after`: `async for frame in client.events(j).frames()`. Ends with job or `until`."""
        query = _present({"until": until, "deltas": None if deltas else "false"})

        @asynccontextmanager
        async def connect(offset: int) -> AsyncIterator[aiohttp.ClientResponse]:
            headers = {"Accept": "text/event-stream", "Last-Event-ID": str(offset)}
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=STALL_SECONDS)
            url = f"{self.url}/api/jobs/{_part(job_id)}/events"
            async with self._session.get(
                url, params=query, headers=headers, timeout=timeout, allow_redirects=False
            ) as response:
                if response.status not in (200, 204):
                    raise error_of(response.status, await response.read())
                yield response

        return EventStream(connect, self._clock, self._chance, after=after, reconnect_seconds=reconnect_seconds)

    # ------------------------------------------------------------------------------------------------ requests

    async def inbox(
        self, *, status: str | None = None, limit: int = 50, cursor: str | None = None
    ) -> Page[HumanRequest]:
        """A page of requests, the pending ones unless `status` says otherwise; may be a second behind."""
        query = {"status": status, "limit": str(limit), "cursor": cursor}
        return await self._call(Page[HumanRequest], "GET", "/api/inbox", params=query)

    async def request(self, request_id: str) -> HumanRequest:
        """One request, from its job's log."""
        return await self._call(HumanRequest, "GET", f"/api/inbox/{_part(request_id)}")

    async def answer(
        self,
        request: HumanRequest,
        action: str,
        *,
        payload: Any = msgspec.UNSET,  # Any: user value
        proposal: Any = msgspec.UNSET,  # Any: user value
        comment: str | None = None,
    ) -> Answered:
        """Answer what `request` shows. Raises Conflict (answered otherwise, the proposal changed), Expired, Invalid."""
        body: dict[str, Any] = _present(
            {"action": action, "proposal_digest": request.proposal_digest, "comment": comment}
        )
        if payload is not msgspec.UNSET:
            body["payload"] = payload
        if proposal is not msgspec.UNSET:
            body["proposal"] = proposal
        raw = await self._send("POST", f"/api/inbox/{_part(request.id)}/answer", json=body)
        answered: HumanRequest = msgspec.json.decode(raw, type=HumanRequest)
        return Answered(request=answered, replayed=msgspec.json.decode(raw, type=_Replayed).replayed)

    # ------------------------------------------------------------------------------------------------ flows

    async def flows(self, *, limit: int = 50, cursor: str | None = None) -> Page[Flow]:
        """A page of flows."""
        return await self._call(Page[Flow], "GET", "/api/flows", params={"limit": str(limit), "cursor": cursor})

    async def flow(self, flow: str) -> Flow:
        """One flow at its newest version, by name or id."""
        return await self._call(Flow, "GET", f"/api/flows/{_part(flow)}")

    async def push_flow(self, name: str, definition: Any, *, kind: str = "graph") -> Flow:  # Any: user value
        """Publish `definition` as the newest version of the flow `name`; the same definition makes no new version.

        Raises Invalid (`invalid-flow`) with pointers into the body, Conflict when somebody publishes another meanwhile.
        """
        refused: Conflict | None = None
        for _ in range(2):
            try:
                flow = await self.flow(name)
                if flow.definition == definition:
                    return flow
                path, etag = f"/api/flows/{_part(flow.id)}", {"If-Match": f'"{flow.version}"'}
                return await self._call(Flow, "PUT", path, json={"definition": definition}, headers=etag)
            except NotFound:
                pass
            except Conflict as exc:
                refused = exc  # changed meanwhile, perhaps by a try of ours whose answer was lost: look again
                continue
            try:
                body = {"name": name, "kind": kind, "definition": definition}
                return await self._call(Flow, "POST", "/api/flows", json=body)
            except Conflict as exc:
                refused = exc
        flow = await self.flow(name)
        if flow.definition == definition:
            return flow
        raise Conflict("name-taken", f"somebody else publishes {name} at this moment") from refused

    # ------------------------------------------------------------------------------------------------ one call

    async def _call(self, result: type[T], method: str, path: str, **request: Any) -> T:
        return msgspec.json.decode(await self._send(method, path, **request), type=result)

    async def _send(
        self,
        method: str,
        path: str,
        *,
        json: Any = msgspec.UNSET,  # Any: a body
        params: Mapping[str, str | None] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        """The body of a 2xx. Tries again while nobody answers, or the answer says that it could not be done now."""
        body = None if json is msgspec.UNSET else msgspec.json.encode(json)
        sent = dict(headers or {}) | ({} if body is None else {"Content-Type": "application/json"})
        until = self._clock.monotonic() + self._retry_seconds
        tries = 0
        while True:
            pause: float | None = None
            try:
                async with self._session.request(
                    method,
                    self.url + path,
                    data=body,
                    params={k: v for k, v in (params or {}).items() if v is not None},
                    headers=sent,
                    allow_redirects=False,  # the key goes where the caller said, nowhere else
                    timeout=aiohttp.ClientTimeout(total=self._timeout),
                ) as response:
                    text = await response.read()
                    if response.status < 300:
                        return text
                    error: PerdureError = error_of(response.status, text)
                    if not isinstance(error, Unavailable | OutcomeUnknown):
                        raise error
                    pause = _retry_after(response.headers.get("Retry-After"))
            except (aiohttp.ClientError, TimeoutError, ConnectionError) as exc:
                error = Unavailable(f"{self.url} cannot be reached ({type(exc).__name__})")
            if pause is None:
                pause = min(LAST_PAUSE, FIRST_PAUSE * 2.0**tries) * self._chance.random()
            tries += 1
            if self._clock.monotonic() + pause > until:
                raise error
            await self._clock.sleep(pause)


class _Replayed(msgspec.Struct):
    replayed: bool = False


def _present(values: Mapping[str, Any]) -> dict[str, Any]:  # Any: members of a body
    return {k: v for k, v in values.items() if v is not None}


def _part(text: str) -> str:
    """One segment of a path: what a user typed must not become another route."""
    if text in ("", ".", ".."):
        raise NotFound("an empty name")
    return quote(text, safe="@")


def _retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After, at most MAX_RETRY_AFTER; a date is not obeyed."""
    return min(MAX_RETRY_AFTER, float(value)) if value and re.fullmatch(r"[0-9]{1,9}", value) else None
