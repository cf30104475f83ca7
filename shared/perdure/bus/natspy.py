"""What nats-py 2.16 does otherwise than a connection that is to live for ever needs it: each thing with its cure."""

import asyncio
import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from perdure import log as logs

CLOSE_SECONDS: Final = 5.0
log = logs.get(__name__)
_PLAIN: Final = b"NATS/1.0\r\n"
_SPACE: Final = " \t\n\r\x0b\f"
_BLANK: Final = re.compile(r"\s")  # in a subject it would end the command, or begin another one


class Pong(asyncio.Future[bool]):
    """The answer to a ping. nats-py resolves it without looking: an ordinary future whose waiter has given up raises
    there, its read loop ends, and the connection is deaf until its own pings go unanswered.
    """

    def set_result(self, result: bool) -> None:
        if not self.done():
            super().set_result(result)


class Connection(Client):
    """A client whose transport may be closed without its knowing: uvloop refuses to write then, and nats-py's flusher
    ends of it, so that every subscription and publication after it would raise RuntimeError until the reconnect.
    """

    async def _flush_pending(self, force_flush: bool = False) -> object:
        """What waits goes out after the reconnect, where subscriptions are sent anew anyway."""
        with contextlib.suppress(RuntimeError):
            return await super()._flush_pending(force_flush)
        return None

    async def _process_headers(self, headers: bytes | None) -> dict[str, str] | None:
        """The same as nats-py's for headers without a status, which all messages but a few have, at a third of the
        cost: decoded once, not line by line.
        """
        if not headers:
            return None
        if not headers.startswith(_PLAIN):
            return await super()._process_headers(headers)
        lines = headers[len(_PLAIN) :].decode(errors="replace").split("\r\n")
        split = (line.partition(":") for line in lines)
        return {name.strip(_SPACE): value.strip(_SPACE) for name, colon, value in split if colon}


class Sink(asyncio.Queue[Msg]):
    """Stands where nats-py queues the messages of a subscription for a task of its own: hands each over in the turn
    that reads it, and is always empty. What `heard` raises is logged: it must not end the connection's reading.
    """

    def __init__(self, heard: Callable[[Msg], None]) -> None:
        super().__init__()
        self._heard = heard

    def put_nowait(self, message: Msg) -> None:
        try:
            self._heard(message)
        except Exception:
            log.exception("a message was not handled", subject=message.subject)


async def listen(nc: Client, subject: str, heard: Callable[[Msg], None], queue: str = "") -> Subscription:
    """Subscribe with a function that never waits. Without nats-py's bounds: it would drop in silence."""
    subscription = await nc.subscribe(subject, queue, pending_msgs_limit=-1, pending_bytes_limit=-1)
    subscription._pending_queue = Sink(heard)
    return subscription


def write(nc: Client, subject: str, body: bytes, reply: str, headers: Mapping[str, str] | None) -> None:
    """Publish now, behind everything that was sent before. nats-py's publish leaves the writing to a task of its own,
    which an answer has to wait for. The body's size is the caller's to check.

    Raises ConnectionClosedError, ConnectionDrainingError, OutboundBufferLimitError (not connected), BadSubjectError and
    BadHeaderError, each before a byte is written.
    """
    if nc.is_closed:
        raise nats.errors.ConnectionClosedError
    if nc.is_draining_pubs:
        raise nats.errors.ConnectionDrainingError
    if not nc.is_connected:
        raise nats.errors.OutboundBufferLimitError
    if _BLANK.search(subject) or _BLANK.search(reply) or not subject:
        raise nats.errors.BadSubjectError
    if headers:
        block = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        if len(headers) != block.count("\n") or len(headers) != block.count("\r"):
            raise nats.errors.BadHeaderError
        head = f"NATS/1.0\r\n{block}\r\n".encode()
        command = f"HPUB {subject} {reply} {len(head)} {len(head) + len(body)}\r\n".encode() + head
    else:
        command = f"PUB {subject} {reply} {len(body)}\r\n".encode()
    nc.stats["out_msgs"] += 1
    nc.stats["out_bytes"] += len(body)
    _write(nc, command + body + b"\r\n")


def _write(nc: Client, *commands: bytes) -> None:
    if nc._transport is not None:
        try:
            nc._transport.writelines([*nc._pending, *commands])
        except RuntimeError as exc:  # closed, see Connection: not a byte was taken
            raise nats.errors.OutboundBufferLimitError from exc
        nc._pending = []
        nc._pending_data_size = 0


async def ping(nc: Client, pong: Pong) -> None:
    """Ask for `pong` behind everything that was sent before. nats-py writes its PING past the commands that wait for
    its flusher: without this the answer says nothing about a subscription or a message of a moment ago.
    """
    if nc._pending_data_size > 0:
        _write(nc)
    try:
        await nc._send_ping(pong)  # what `nc.flush` does, with a future that may be given up
    except RuntimeError as exc:  # closed, see Connection
        raise OSError("the connection is lost") from exc


@contextlib.contextmanager
def cancellable() -> Iterator[None]:
    """Raise the cancellation that nats-py lost: `wait_for` of Python 3.11 swallows one that meets the answer."""
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    yield
    if task is not None and task.cancelling() > before:
        raise asyncio.CancelledError


def given_up(nc: Client) -> bool:
    """Whether nobody reconnects any more: the task for it ends without a word on an error that it did not expect."""
    reconnecting = nc._reconnection_task
    return nc.is_reconnecting and (reconnecting is None or reconnecting.done())


async def close(nc: Client) -> None:
    """Close for ever. nats-py raises when it is disconnected, and waits for a frozen broker to take what is unsent.

    A task of its that it has cancelled leaves the future cancelled for which it waits here: nobody has cancelled us.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    try:
        with contextlib.suppress(OSError, nats.errors.Error, TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await nc.close()
    except asyncio.CancelledError:
        if task is None or task.cancelling() > before:
            raise
