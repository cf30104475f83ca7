"""`python -m benchmarks.crowd URL JOB COUNT`, keys on stdin: COUNT readers of a job's events in a process of their own.

Each comes back when it is cut off. A line of JSON on stdout says each time when all are attached, by `monotonic`.
"""

import asyncio
import json
import random
import re
import sys
import time
from collections.abc import AsyncIterator
from typing import Final
from urllib.parse import urlsplit

from benchmarks.cluster import many_files

AT_ONCE: Final = 500  # connects in flight, as a listener's backlog has room for
PAUSE_SECONDS: Final = 1.0  # at most, before a reader that was cut off tries again
SEEN: Final = b"event: job.suspended\n"
OFFSET: Final = re.compile(rb"^id: (\d+)$", re.M)


class Crowd:
    """Who is attached."""

    def __init__(self, host: str, port: int, job: str, keys: list[str], count: int) -> None:
        self._host, self._port, self._job, self._keys, self._count = host, port, job, keys, count
        self._attached = 0
        self._connects = asyncio.Semaphore(AT_ONCE)

    async def stand(self) -> None:
        """Until the process ends."""
        await asyncio.gather(*(self._reader(number) for number in range(self._count)))

    async def _reader(self, number: int) -> None:
        key = self._keys[number // 95]
        request = (
            f"GET /api/jobs/{self._job}/events HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n"
            f"Authorization: Bearer {key}\r\nLast-Event-ID: "
        )
        at = b"0"
        while True:
            try:
                async for offset in self._attach(request.encode(), at):
                    at = offset
            except (OSError, asyncio.IncompleteReadError):
                await asyncio.sleep(random.random() * PAUSE_SECONDS)

    async def _attach(self, request: bytes, at: bytes) -> AsyncIterator[bytes]:
        """Follow behind `at` until the line is cut; the offset from which to go on."""
        async with self._connects:
            reader, writer = await asyncio.open_connection(self._host, self._port, limit=4096)
            try:
                writer.write(request + at + b"\r\n\r\n")
                status = await reader.readuntil(b"\r\n")
                if b" 200 " not in status:
                    raise ConnectionError(status)
                if at == b"0":
                    yield OFFSET.findall(await reader.readuntil(SEEN))[-1]
                else:
                    await reader.readuntil(b"retry: ")
            except BaseException:
                writer.close()
                raise
        self._attached += 1
        if self._attached == self._count:
            sys.stdout.write(json.dumps({"attached": self._attached, "at": time.monotonic()}) + "\n")
            sys.stdout.flush()
        try:
            while await reader.read(4096):
                pass
        finally:
            self._attached -= 1
            writer.close()


async def main(url: str, job: str, count: str) -> None:
    """Stand there."""
    at = urlsplit(url)
    assert at.hostname is not None
    assert at.port is not None
    await Crowd(at.hostname, at.port, job, json.load(sys.stdin), int(count)).stand()


if __name__ == "__main__":
    many_files()
    asyncio.run(main(*sys.argv[1:]))
