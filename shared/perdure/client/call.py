"""One call: sent with the key, tried again while nobody answers, its refusal raised as the error it stands for."""

import re
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec

from perdure.client.problem import error_of
from perdure.client.withheld import readable
from perdure.clock import Chance, Clock, SystemChance, SystemClock
from perdure.errors import NotFound, OutcomeUnknown, PerdureError, Unavailable

T = TypeVar("T")
FIRST_PAUSE: Final = 0.2
LAST_PAUSE: Final = 5.0
MAX_RETRY_AFTER: Final = 30.0


class Caller:
    """The connection to one gateway; an async context manager. See `Client`."""

    def __init__(
        self,
        url: str,
        key: str,
        *,
        timeout: float = 30.0,
        retry_seconds: float = 20.0,
        clock: Clock | None = None,
        chance: Chance | None = None,
        channel: str | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self._timeout, self._retry_seconds = timeout, retry_seconds
        self._clock, self._chance = clock or SystemClock(), chance or SystemChance()
        self._headers = {"Authorization": f"Bearer {key}", "User-Agent": "perdure-python"}
        self._headers |= {} if channel is None else {"Perdure-Channel": channel}
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(headers=self._headers)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def _call(self, result: type[T], method: str, path: str, **request: Any) -> T:
        return msgspec.json.decode(readable(await self._send(method, path, **request)), type=result)

    async def _send(
        self,
        method: str,
        path: str,
        *,
        json: Any = msgspec.UNSET,  # Any: a body
        params: Mapping[str, str | None] | None = None,
        headers: Mapping[str, str] | None = None,
        wait: float = 0.0,
        once: bool = False,
    ) -> bytes:
        """The body of a 2xx. Tries again while nobody answers, or the answer says that it could not be done now.

        `wait`: seconds that the gateway may hold the call by our own wish. `once`: a call whose repetition would do
        something else than the first try; it is never tried again.
        """
        body = None if json is msgspec.UNSET else msgspec.json.encode(json)
        sent = dict(headers or {}) | ({} if body is None else {"Content-Type": "application/json"})
        if wait:
            sent["Prefer"] = f"wait={max(1, round(wait))}"
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
                    timeout=aiohttp.ClientTimeout(total=self._timeout + wait),
                ) as response:
                    text = await response.read()
                    if response.status < 300:
                        return text
                    if response.status == 404 and method == "DELETE" and tries:
                        return b""  # an earlier try did it, and its answer was lost
                    error: PerdureError = error_of(response.status, text)
                    if once or not isinstance(error, Unavailable | OutcomeUnknown):
                        raise error
                    pause = retry_after(response.headers.get("Retry-After"))
            except (aiohttp.ClientError, TimeoutError, ConnectionError) as exc:
                error = Unavailable(f"{self.url} cannot be reached ({type(exc).__name__})")
                if once:
                    raise error from exc
            if pause is None:
                pause = min(LAST_PAUSE, FIRST_PAUSE * 2.0**tries) * self._chance.random()
            tries += 1
            if self._clock.monotonic() + pause > until:
                raise error
            await self._clock.sleep(pause)


def present(values: Mapping[str, Any]) -> dict[str, Any]:  # Any: members of a body
    """Those of `values` that have one."""
    return {k: v for k, v in values.items() if v is not None}


def part(text: str) -> str:
    """One segment of a path: what a user typed must not become another route. Raises NotFound."""
    if text in ("", ".", ".."):
        raise NotFound("an empty name")
    return quote(text, safe="@")


def retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After, at most MAX_RETRY_AFTER; a date is not obeyed."""
    return min(MAX_RETRY_AFTER, float(value)) if value and re.fullmatch(r"[0-9]{1,9}", value) else None
