"""A job's events and live words as records, one after the other: what most readers of `Client.events` want."""

from collections.abc import AsyncGenerator
from typing import Any, Self

import msgspec
from msgspec import Struct

from perdure.client.events import Delta, Event, EventStream, decode

SNAPSHOT = "stream.snapshot"


class Snapshot(Struct, frozen=True):
    """What the job came to, in place of events that are kept nowhere any more: they lie before `offset`."""

    offset: str
    state: dict[str, Any]  # Any: as `Client.state`, user values inside


Told = Event | Delta | Snapshot


class Follow:
    """An async iterator over what a job says; `async with` closes its connection where it is not read to its end.

    `offset` is behind what was yielded last: another `follow` with `after=offset` goes on there.
    """

    def __init__(self, stream: EventStream) -> None:
        self._stream = stream
        self._told = _told(stream)

    @property
    def offset(self) -> str:
        """Where it stands: a `seq`, or `seq.n` behind a delta."""
        return self._stream.offset

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Told:
        return await anext(self._told)

    async def aclose(self) -> None:
        """End it; nothing more comes. The job is left alone."""
        await self._told.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


async def _told(stream: EventStream) -> AsyncGenerator[Told, None]:
    frames = stream.frames()
    try:
        async for frame in frames:
            if frame.type == SNAPSHOT:
                yield Snapshot(stream.offset, msgspec.json.decode(frame.data, type=dict[str, Any]))
            elif (record := decode(frame)) is not None:
                yield record
    finally:
        await frames.aclose()
