"""An event loop in a thread of its own, for callers that have none: coroutines go in, what they return comes out."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from typing import Any, Final, Generic, TypeVar

H = TypeVar("H")
T = TypeVar("T")

# Whose calls this is part of, in their loops and in the threads that `asyncio.to_thread` gives them: a loop's end waits
# for those, so they must not wait for it.
_part_of: Final[ContextVar[tuple[object, ...]]] = ContextVar("_part_of", default=())


class LoopThread(Generic[H]):
    """The loop and its thread, which hold `held` (entered and left inside) from `start` to `close`.

    Any thread may `run` something. The thread is a daemon: a program that forgets `close` ends all the same.
    """

    def __init__(self, name: str, held: AbstractAsyncContextManager[H]) -> None:
        self._held = held
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), name=name, daemon=True)
        self._loop: asyncio.AbstractEventLoop
        self._over: asyncio.Event
        self._task: asyncio.Task[None]
        self._looping = threading.Event()
        self._entered: Future[H] = Future()
        self._order = threading.Lock()  # what was handed in before the end is cancelled by it, never forgotten
        self._closing = False

    def start(self) -> H:
        """Start the thread; what `held` gives, or its error. KeyboardInterrupt gives it up."""
        self._thread.start()
        self._looping.wait()
        try:
            return self._entered.result()
        except BaseException:
            if not self._entered.done():
                self._loop.call_soon_threadsafe(self._task.cancel)
            self._closing = True
            self._thread.join()
            raise

    def run(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:  # Any: nothing is sent into it
        """What `call` returns, or raises, in the loop. Raises RuntimeError in the loop's own thread and after `close`.

        KeyboardInterrupt cancels the call.
        """
        if threading.current_thread() is self._thread:
            raise RuntimeError("a blocking call inside its own event loop would wait for itself")
        with self._order:
            if self._closing:
                raise RuntimeError("it is closed")
            done = asyncio.run_coroutine_threadsafe(self._called(call), self._loop)
        try:
            return done.result()
        except CancelledError:
            raise RuntimeError("it is closed") from None
        except BaseException:
            done.cancel()  # nothing, where the call itself raised
            raise

    def close(self) -> None:
        """Cancel what runs, leave `held`, end the thread. Again waits for that end. Part of a call it does not wait."""
        with self._order:
            if not self._closing:
                self._closing = True
                self._loop.call_soon_threadsafe(self._over.set)
        if self not in _part_of.get() and threading.current_thread() is not self._thread:
            self._thread.join()

    async def _called(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        _part_of.set((*_part_of.get(), self))
        return await call()

    async def _main(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        task = asyncio.current_task()
        assert task is not None  # this is one
        self._task = task
        self._looping.set()
        try:
            async with self._held as held:
                self._entered.set_result(held)
                await self._over.wait()
                calls = asyncio.all_tasks() - {task}
                for call in calls:
                    call.cancel()
                await asyncio.gather(*calls, return_exceptions=True)
        except BaseException as exc:
            if self._entered.done():
                raise
            self._entered.set_exception(exc)  # whoever starts it raises it
