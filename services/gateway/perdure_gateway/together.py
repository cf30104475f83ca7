"""The streams of several jobs as one: their frames as they come, each with its place in its data, since an id would say
nothing of the others.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Final

import msgspec

from perdure.core.stream.adapter import Manners
from perdure.core.stream.frame import Frame
from perdure.errors import Expired, NotFound
from perdure.ids import JobId

MOST_AHEAD: Final = 4  # frames of one job that wait for the others
Heard = tuple[Frame, asyncio.Semaphore]


class Chorus:
    """How a stream of several jobs behaves, and its last words."""

    manners = Manners(moves=False)

    def close(self, reason: str) -> tuple[Frame, ...]:
        """`stream.close{reason}`."""
        return (Frame(None, "stream.close", msgspec.json.encode({"reason": reason})),)


async def together(sources: Sequence[tuple[JobId, AsyncGenerator[Frame]]]) -> AsyncGenerator[Frame]:
    """The frames of all `sources`, until each has ended; one whose job is gone says so and ends, the others go on.

    Raises what any other ends with.
    """
    heard: asyncio.Queue[Heard | None] = asyncio.Queue()
    pouring = [asyncio.ensure_future(_pour(job, frames, heard)) for job, frames in sources]
    for each in pouring:
        each.add_done_callback(lambda _: heard.put_nowait(None))
    try:
        left = len(pouring)
        while left:
            said = await heard.get()
            if said is not None:
                frame, room = said
                room.release()
                yield frame
                continue
            left -= 1
            for each in pouring:
                if each.done():
                    each.result()
    finally:
        for each in pouring:
            each.cancel()
        await asyncio.gather(*pouring, return_exceptions=True)


async def _pour(job: JobId, frames: AsyncGenerator[Frame], into: "asyncio.Queue[Heard | None]") -> None:
    room = asyncio.Semaphore(MOST_AHEAD)
    try:
        async for frame in frames:
            await room.acquire()
            into.put_nowait((placed(frame), room))
    except (NotFound, Expired):
        said = {"reason": "gone", "job_id": job}
        into.put_nowait((Frame(None, "stream.close", msgspec.json.encode(said)), room))


def placed(frame: Frame) -> Frame:
    """A frame whose id has become the first member of its data, `offset`."""
    if frame.id is None:
        return frame
    return Frame(None, frame.event, b'{"offset":"' + frame.id.encode() + b'",' + frame.data[1:])
