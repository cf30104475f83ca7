"""Calls on jobs."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Literal

import aiohttp
import msgspec
import uuid_utils

from perdure.client.call import Caller, part, present
from perdure.client.events import STALL_SECONDS, EventStream
from perdure.client.follow import Follow
from perdure.client.problem import error_of
from perdure.client.records import HumanRequest, Job, Page
from perdure.core.event import TERMINAL, Status

LONGEST_WAIT: Final = 60.0  # what a gateway holds one call for at most
SETTLED: Final = TERMINAL | {Status.SUSPENDED}


class JobCalls(Caller):
    """What can be done with jobs."""

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
        wait: float = 0.0,
    ) -> Job:
        """Submit a job of `flow` (name, id or name@version); the job as it is now, or after up to `wait` seconds (60)
        when it has ended or sleeps before.

        Without an `idempotency_key` a new one is sent, so that a try that is repeated makes no second job.
        """
        body = {
            "flow": flow, "input": input, "session_id": session_id, "tags": tags, "queue": queue, "priority": priority,
            "not_before": not_before, "deadline_seconds": deadline_seconds, "max_failures": max_failures,
        }  # fmt: skip
        key = {"Idempotency-Key": idempotency_key or str(uuid_utils.uuid7())}
        wait = min(wait, LONGEST_WAIT)
        return await self._call(Job, "POST", "/api/jobs", json=present(body), headers=key, wait=wait)

    async def job(self, job_id: str) -> Job:
        """The job as its log says it is."""
        return await self._call(Job, "GET", f"/api/jobs/{part(job_id)}")

    async def wait(self, job_id: str, seconds: float) -> Job:
        """The job once it has ended or sleeps, or as it is after so many seconds."""
        until = self._clock.monotonic() + seconds
        while True:
            left = until - self._clock.monotonic()
            hold = max(1.0, min(left, LONGEST_WAIT))
            found = await self._call(Job, "GET", f"/api/jobs/{part(job_id)}", wait=hold)
            if found.status in SETTLED or left <= hold:
                return found

    async def jobs(
        self,
        *,
        status: str | None = None,
        flow: str | None = None,
        tag: str | None = None,
        session: str | None = None,
        owner: str | None = None,
        parent: str | None = None,
        waiting: Literal["person"] | None = None,
        created_after: str | None = None,
        created_before: str | None = None,
        updated_after: str | None = None,
        order: Literal["created", "updated"] | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Job]:
        """A page of jobs, newest first; lists of values with commas, tags as `name:value`. May be a second behind."""
        query = {
            "status": status, "flow": flow, "tag": tag, "session": session, "owner": owner, "parent": parent,
            "waiting": waiting, "created_after": created_after, "created_before": created_before,
            "updated_after": updated_after, "order": order, "limit": str(limit), "cursor": cursor,
        }  # fmt: skip
        return await self._call(Page[Job], "GET", "/api/jobs", params=query)

    async def cancel(
        self, job_id: str, *, reason: str | None = None, grace_seconds: float | None = None, force: bool = False
    ) -> Job:
        """Cancel a job; its state after it. One that runs ends within its grace, one that has ended stays as it is."""
        body = {"reason": reason, "grace_seconds": grace_seconds, "force": force or None}
        return await self._call(Job, "POST", f"/api/jobs/{part(job_id)}/cancel", json=present(body))

    async def signal(
        self,
        job_id: str,
        name: str,
        payload: Any = msgspec.UNSET,  # Any: user value
        *,
        idempotency_key: str | None = None,
    ) -> int:
        """Send a signal; the `seq` of its event. The same key sends it once. Raises Conflict for a job that ended."""
        key = {"Idempotency-Key": idempotency_key or str(uuid_utils.uuid7())}
        body = {} if payload is msgspec.UNSET else {"payload": payload}
        path = f"/api/jobs/{part(job_id)}/signals/{part(name)}"
        return (await self._call(_Sent, "POST", path, json=body, headers=key)).seq

    async def retry(self, job_id: str) -> Job:
        """End a back-off, or the wait for code that fits, now. Raises Conflict for a job that does not wait so."""
        return await self._call(Job, "POST", f"/api/jobs/{part(job_id)}/retry")

    async def delete(self, job_id: str) -> None:
        """Delete a job that has ended. Raises Conflict for one that has not."""
        await self._send("DELETE", f"/api/jobs/{part(job_id)}")

    async def state(self, job_id: str, *, at: int | None = None) -> dict[str, Any]:  # Any: user values inside
        """The fold of the job's log, whole or up to the event `at`: job, steps, messages, outputs, requests, offset."""
        query = {"at": None if at is None else str(at)}
        return await self._call(dict[str, Any], "GET", f"/api/jobs/{part(job_id)}/state", params=query)

    async def requests(self, job_id: str) -> list[HumanRequest]:
        """Every request that the job ever asked, settled ones too."""
        return (await self._call(Page[HumanRequest], "GET", f"/api/jobs/{part(job_id)}/requests")).data

    async def blob(self, job_id: str, sha256: str) -> bytes:
        """A value that an event of this job refers to, as it was stored (JSON)."""
        return await self._send("GET", f"/api/jobs/{part(job_id)}/blobs/{part(sha256)}")

    def events(
        self,
        job_id: str,
        *,
        after: int | str = 0,
        types: Sequence[str] = (),
        until: str | None = None,
        deltas: bool = True,
        on_gap: Literal["raise", "snapshot"] = "raise",
        reconnect_seconds: float = 120.0,
    ) -> EventStream:
        """The frames behind `follow`, as they come: `async for frame in client.events(j).frames()`.

        `after` is an offset: a `seq`, or what `EventStream.offset` said. `types` narrows (`job.*`, `message`).
        """
        query = present(
            {
                "until": until,
                "types": ",".join(types) or None,
                "deltas": None if deltas else "false",
                "gap": "snapshot" if on_gap == "snapshot" else None,
            }
        )

        @asynccontextmanager
        async def connect(offset: str) -> AsyncIterator[aiohttp.ClientResponse]:
            headers = {"Accept": "text/event-stream", "Last-Event-ID": offset}
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=STALL_SECONDS)
            url = f"{self.url}/api/jobs/{part(job_id)}/events"
            async with self._session.get(
                url, params=query, headers=headers, timeout=timeout, allow_redirects=False
            ) as response:
                if response.status not in (200, 204):
                    raise error_of(response.status, await response.read())
                yield response

        return EventStream(
            connect,
            self._clock,
            self._chance,
            after=str(after),
            narrowed=bool(types),
            reconnect_seconds=reconnect_seconds,
        )

    def follow(
        self,
        job_id: str,
        *,
        after: int | str = 0,
        types: Sequence[str] = (),
        until: str | None = None,
        deltas: bool = True,
        on_gap: Literal["raise", "snapshot"] = "raise",
        reconnect_seconds: float = 120.0,
    ) -> Follow:
        """What the job says after `after`: events, each once and in order, and live words between them, to its end.

        It connects again by itself and goes on where it stood. `types` narrows (`job.*`, `message`), `until` ends it
        early (`suspended`, `head`, a type). With `on_gap="snapshot"` events that are kept nowhere any more become a
        Snapshot. Raises NotFound, StreamGap, Unauthenticated, Forbidden, Invalid; Unavailable when nothing could be
        reached for `reconnect_seconds`.
        """
        return Follow(
            self.events(
                job_id,
                after=after,
                types=types,
                until=until,
                deltas=deltas,
                on_gap=on_gap,
                reconnect_seconds=reconnect_seconds,
            )
        )

    async def log(self, job_id: str) -> bytes:
        """The whole log as it is now, an event a line (application/jsonl)."""
        headers = {"Accept": "application/jsonl"}
        return await self._send("GET", f"/api/jobs/{part(job_id)}/events", headers=headers)


class _Sent(msgspec.Struct):
    seq: int
