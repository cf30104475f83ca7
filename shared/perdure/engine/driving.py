"""Driving a user's coroutine: counting its moves, raising in it what the engine wants, giving it up when it won't end.

A task whose code swallows every cancellation would keep the process from ever ending. So a coroutine that was told to
end and waits again is dropped: its task ends, and the coroutine is kept, for closing it would run its code once more.
"""

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Final

_given_up: Final[list[Coroutine[Any, Any, Any]]] = []


class Driven:
    """One coroutine and what is to become of it."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], moved: Callable[[], None] = lambda: None) -> None:
        self.coroutine = coroutine
        self.thrown: BaseException | None = None  # raised at its start, or in place of the next CancelledError
        self.given_up = False
        self._moved = moved

    @types.coroutine
    def run(self) -> Generator[Any, Any, Any]:  # what coroutines yield to the loop is the loop's affair
        """Await this in a task: the coroutine's value, None when it was given up."""
        throw, self.thrown = self.thrown, None
        while True:
            self._moved()
            try:
                waits_for = self.coroutine.send(None) if throw is None else self.coroutine.throw(throw)
            except StopIteration as stop:
                return stop.value
            if self.given_up:
                _given_up.append(self.coroutine)
                return None
            throw = None
            try:
                yield waits_for
            except BaseException as exc:  # noqa: BLE001  # handed on to the coroutine
                throw = exc
                if self.thrown is not None and isinstance(exc, asyncio.CancelledError):
                    task = asyncio.current_task()
                    if task is not None:
                        task.uncancel()
                    throw, self.thrown = self.thrown, None
