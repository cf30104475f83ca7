"""Bounds that all callers share: open streams of a key, attaches at once, bytes of bodies in flight."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

from perdure_gateway.problems import Problem

STREAMS_PER_KEY: Final = 100
ATTACHES_AT_ONCE: Final = 32  # a restarted gateway gets all its followers back in a moment
BODY_BYTES: Final = 64 * 1024 * 1024


class Limits:
    """What is in use now."""

    def __init__(self) -> None:
        self._streams: Counter[str] = Counter()
        self._attaches = asyncio.Semaphore(ATTACHES_AT_ONCE)
        self._body_bytes = 0

    @contextmanager
    def stream(self, key_id: str) -> Iterator[None]:
        """One open stream of a key. Raises Problem (`too-many-streams`)."""
        if self._streams[key_id] >= STREAMS_PER_KEY:
            retry = {"Retry-After": "5"}
            raise Problem("too-many-streams", f"a key may have {STREAMS_PER_KEY} open streams", headers=retry)
        self._streams[key_id] += 1
        try:
            yield
        finally:
            self._streams[key_id] -= 1
            if not self._streams[key_id]:
                del self._streams[key_id]

    @asynccontextmanager
    async def attaching(self) -> AsyncIterator[None]:
        """One attach, of ATTACHES_AT_ONCE; the others wait their turn."""
        async with self._attaches:
            yield

    @contextmanager
    def body(self, size: int) -> Iterator[None]:
        """A body of up to `size` bytes in memory. Raises Problem (`unavailable`) when too much is in flight."""
        if self._body_bytes + size > BODY_BYTES:
            raise Problem(
                "unavailable", "too many large bodies at once", headers={"Retry-After": "1", "Connection": "close"}
            )
        self._body_bytes += size
        try:
            yield
        finally:
            self._body_bytes -= size
