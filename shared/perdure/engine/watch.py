"""What the loop of a pass waits in: the log that grows, an instant that comes, or a nudge from within."""

import asyncio

from perdure.core.instant import Instant
from perdure.engine.port import Port


class Watch:
    """One waiter. One task stands by for it at the port, as long as it is to look out for the same."""

    def __init__(self, port: Port) -> None:
        self._port = port
        self._sleeper: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._sought: tuple[int, Instant | None] = (0, None)

    def nudge(self, _: object = None) -> None:
        """End the wait, if there is one now."""
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)

    async def changed(self, seq: int, until: Instant | None, seconds: float | None) -> bool:
        """Until the log holds an event after `seq`, `until` has come, or a nudge; False when `seconds` went by first.

        Raises what the port raises: Interrupted.
        """
        task = self._standing_by(seq, until)
        if not task.done():
            self._sleeper = asyncio.get_running_loop().create_future()
            try:
                if seconds is None:
                    await self._sleeper
                else:
                    async with asyncio.timeout(seconds):
                        await self._sleeper
            except TimeoutError:
                return False
            finally:
                self._sleeper = None
        if task.done():
            task.result()
        return True

    def stop(self) -> None:
        """Nobody waits any more."""
        if self._task is not None:
            self._task.cancel()
            self._task.add_done_callback(_unheard)
            self._task = None

    def _standing_by(self, seq: int, until: Instant | None) -> asyncio.Task[None]:
        if self._task is None or self._task.done() or self._sought != (seq, until):
            self.stop()
            self._sought = (seq, until)
            self._task = asyncio.create_task(self._port.moved(seq, until))
            self._task.add_done_callback(self.nudge)
        return self._task


def _unheard(task: asyncio.Task[None]) -> None:
    """What `task` raised is no news: who asks the port next is told the same."""
    if not task.cancelled():
        task.exception()
