"""Requests and their answers over one connection: many under way at once, each known by the last token of its inbox.

An append is a request, so a job's steps take as long as one takes. nats-py's own goes through a queue and a task of its
own on the way out and again on the way in; here a request is written in the turn that makes it, behind what was sent
before, and its answer wakes whoever waits in the turn that reads it.
"""

import asyncio
import contextlib
from asyncio import Future
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Self

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from perdure.bus.natspy import listen, write

NOBODY: Final = "503"  # the status of the answer that says that nobody listens


class Requests:
    """The requests of one connection. Made by `open`, once for each."""

    def __init__(self, nc: Client, inbox: str) -> None:
        self._nc, self._inbox = nc, f"{inbox}."
        self._waiting: dict[str, Future[Msg]] = {}
        self._boxes: dict[str, Callable[[Msg], None]] = {}
        self._made = 0

    @classmethod
    async def open(cls, nc: Client) -> Self:
        """Listen for answers; nats-py does so again after each reconnect."""
        requests = cls(nc, nc.new_inbox())
        await listen(nc, f"{requests._inbox}*", requests._heard)
        return requests

    @property
    def answered(self) -> bool:
        """Whether an answer has come that whoever waits for it has not seen yet."""
        return any(future.done() for future in self._waiting.values())

    async def ask(self, subject: str, body: bytes, within: float, headers: Mapping[str, str] | None) -> Msg:
        """Send and wait for the answer, at most `within` seconds.

        Raises ConnectionClosedError and OutboundBufferLimitError (nothing was sent), TimeoutError and NoRespondersError
        (it may have been heard).
        """
        self._made += 1
        token, loop = f"{self._made:x}", asyncio.get_running_loop()
        future: Future[Msg] = loop.create_future()
        write(self._nc, subject, body, self._inbox + token, headers)
        self._waiting[token] = future
        timer = loop.call_later(within, _late, future)
        try:
            message = await future
        finally:
            timer.cancel()
            del self._waiting[token]
        if message.headers is not None and not message.data and message.headers.get("Status") == NOBODY:
            raise nats.errors.NoRespondersError
        return message

    @contextlib.contextmanager
    def box(self, heard: Callable[[Msg], None]) -> Iterator[str]:
        """An inbox for any number of answers, heard in the turn that reads them, for as long as the context lasts."""
        self._made += 1
        token = f"{self._made:x}"
        self._boxes[token] = heard
        try:
            yield self._inbox + token
        finally:
            del self._boxes[token]

    def _heard(self, message: Msg) -> None:
        token = message.subject[len(self._inbox) :]
        future = self._waiting.get(token)
        if future is not None:
            if not future.done():  # else: given up, or answered before
                future.set_result(message)
        elif (heard := self._boxes.get(token)) is not None:
            heard(message)


def _late(future: Future[Msg]) -> None:
    if not future.done():
        future.set_exception(TimeoutError("no answer in time"))
