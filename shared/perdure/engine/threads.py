"""Threads for synchronous steps. A step hands its function over and awaits what comes back: nothing else is shared.

The standard pool keeps a process from ending while one of its threads runs, and takes twice as long for a call. These
threads are daemons: a function that never returns is left behind when the process ends, its step was never recorded.
"""

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, NamedTuple


class _Handed(NamedTuple):
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    fn: Callable[..., object]
    args: tuple[Any, ...]


class Threads:
    """At most `most` threads, started one by one as they are needed; beyond them calls wait in order."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._handed: SimpleQueue[_Handed] = SimpleQueue()
        self._lock = threading.Lock()
        self._started = 0
        self._free = 0  # threads without work, less the calls that are on their way to them

    def call(self, fn: Callable[..., object], *args: Any) -> asyncio.Future[Any]:
        """What `fn(*args)` returns, in some thread. `fn` must not raise. Cancelled, the call runs out unheard."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        with self._lock:
            self._free -= 1
            grow = self._free < 0 and self._started < self._most
            if grow:
                self._started += 1
                self._free += 1
        self._handed.put(_Handed(loop, future, fn, args))
        if grow:
            threading.Thread(target=self._work, name=f"perdure-step-{self._started}", daemon=True).start()
        return future

    def _work(self) -> None:
        while True:
            loop, future, fn, args = self._handed.get()
            value = fn(*args)
            with self._lock:
                self._free += 1
            if not loop.is_closed():
                try:
                    loop.call_soon_threadsafe(_came, future, value)
                except RuntimeError:  # closed in this moment: nobody listens any more
                    continue
            del loop, future, fn, args, value  # nothing of a step lives on in a thread that waits


def _came(future: asyncio.Future[Any], value: object) -> None:
    if not future.done():
        future.set_result(value)
