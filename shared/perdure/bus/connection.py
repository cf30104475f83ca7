"""One connection to the broker: it reconnects for ever, and its end is the end of the process that holds it.

nats-py buffers what is published while it is disconnected, and would send a "failed" publish after the reconnect; with
`pending_size=0` such a publish fails at once instead. It gives up for ever on most `-ERR`, whatever the number of
reconnect attempts says: `on_closed` is told then, and nothing on this connection will work again.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.protocol.parser import AUTHORIZATION_VIOLATION

from perdure import log as logs
from perdure.bus.natspy import Connection, Pong, cancellable, close, given_up, listen, ping, write
from perdure.bus.requests import Requests
from perdure.clock import SystemClock
from perdure.errors import OutcomeUnknown, PerdureError, TooLarge, Unauthenticated, Unavailable

MAX_MESSAGE_BYTES: Final = (
    900 * 1024
)  # header and body; beyond the server's max_payload it would close the connection for ever
REQUEST_SECONDS: Final = 2.0
RECONNECT_SECONDS: Final[Any] = 0.2  # Any: nats-py declares an int and sleeps it
MEASURE_SECONDS: Final = 60.0
MEASURE_AGAIN_SECONDS: Final = 2.0
GUARD_SECONDS: Final = 5.0
WARN_OFFSET_SECONDS: Final = 5.0

log = logs.get(__name__)

OnClosed = Callable[[str], None]


class _Timed(msgspec.Struct):
    """As much of a STREAM.INFO reply as tells the broker's time."""

    ts: datetime


_timed: Final = msgspec.json.Decoder(_Timed)


class Bus:
    """A connection of one user. Made by `Bus.connect`, closed when that context ends."""

    def __init__(self, nc: Client, clock: SystemClock, name: str) -> None:
        self.nc = nc
        self.clock = clock
        self.name = name
        self.offset_measured_at: float | None = None  # monotonic; None: the broker's time is not known yet
        self.errors = 0  # what nats-py reported in the background
        self.requests: Requests  # set once it is connected
        self._closing = False
        self._on_reconnect: list[Callable[[], None]] = []

    @classmethod
    def connect(
        cls,
        servers: Sequence[str],
        *,
        user: str | None,
        password: str | None,
        name: str,
        clock: SystemClock,
        inbox_prefix: str | None = None,
        on_closed: OnClosed | None = None,
        measure: bool = True,
    ) -> AbstractAsyncContextManager["Bus"]:
        """A connected Bus, for as long as the context lasts. Waits for a broker that is not there yet.

        `inbox_prefix` defaults to `_SVC.<user>`, the only inboxes that a service's user may hear. `on_closed(reason)`
        is called on the loop when the connection is lost for ever. With `measure` the clock's `offset` follows the
        broker's time. Raises Unauthenticated when the broker refuses the user.
        """
        prefix = inbox_prefix or (f"_SVC.{user}" if user else "_INBOX")
        return _connected(cls, list(servers), user, password, name, clock, prefix, on_closed, measure)

    @property
    def connected(self) -> bool:
        """Whether the broker can be talked to now, as far as is known."""
        return self.nc.is_connected

    def on_reconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` on the loop after each reconnect; returns what ends that."""
        self._on_reconnect.append(callback)
        return lambda: self._on_reconnect.remove(callback)

    async def measure_offset(self) -> None:
        """Tell the clock the broker's time, the `ts` of a STREAM.INFO reply, taken at the middle of the round trip.

        Raises Unavailable while the streams are not there.
        """
        before = self.clock.elapsed()
        reply = await self.ask("$JS.API.STREAM.INFO.WORK", b"")
        after = self.clock.elapsed()
        try:
            told = _timed.decode(reply).ts
        except msgspec.DecodeError as exc:  # an error reply carries no time
            raise Unavailable("the streams are not declared yet") from exc
        self.clock.tell(told, (before + after) / 2)
        self.offset_measured_at = self.clock.monotonic()
        if abs(self.clock.offset) > timedelta(seconds=WARN_OFFSET_SECONDS):
            log.warning("the broker's clock differs", offset_seconds=self.clock.offset.total_seconds())

    async def request(
        self, subject: str, body: bytes, *, within: float = REQUEST_SECONDS, headers: Mapping[str, str] | None = None
    ) -> Msg:
        """One request, one answer.

        Raises TooLarge and Unavailable (surely not sent), OutcomeUnknown (perhaps heard).
        """
        self._check(body, headers)
        try:
            return await self.requests.ask(subject, body, within, headers)
        except nats.errors.OutboundBufferLimitError as exc:
            raise Unavailable("not connected to the broker") from exc
        except (nats.errors.ConnectionClosedError, nats.errors.ConnectionDrainingError) as exc:
            raise Unavailable("the connection to the broker is closed") from exc
        except (TimeoutError, nats.errors.NoRespondersError, OSError) as exc:
            raise OutcomeUnknown(f"no answer on {subject}") from exc

    async def ask(self, subject: str, body: bytes, *, within: float = REQUEST_SECONDS) -> bytes:
        """The answer to a question that changes nothing. Raises Unavailable when none came."""
        try:
            return (await self.request(subject, body, within=within)).data
        except OutcomeUnknown as exc:
            raise Unavailable(f"no answer on {subject}") from exc

    async def publish(
        self, subject: str, body: bytes, *, reply: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        """Send without waiting for an answer. Raises TooLarge, Unavailable when not connected."""
        self._check(body, headers)
        try:
            write(self.nc, subject, body, reply, headers)
        except (
            nats.errors.OutboundBufferLimitError,
            nats.errors.ConnectionClosedError,
            nats.errors.ConnectionDrainingError,
        ) as exc:
            raise Unavailable("not connected to the broker") from exc

    async def subscribe(self, subject: str, heard: Callable[[Msg], Awaitable[None]], queue: str = "") -> Subscription:
        """Hear `subject`; it is heard again after each reconnect. nats-py's own bounds are off: it would drop in
        silence.

        Raises Unavailable when the connection is closed for ever.
        """
        try:
            return await self.nc.subscribe(subject, queue, cb=heard, pending_msgs_limit=-1, pending_bytes_limit=-1)
        except (nats.errors.ConnectionClosedError, nats.errors.ConnectionDrainingError) as exc:
            raise Unavailable("the connection to the broker is closed") from exc

    async def listen(self, subject: str, heard: Callable[[Msg], None]) -> Subscription:
        """`subscribe` for what never waits: called in the turn that reads the message, without a task of its own.

        Raises Unavailable when the connection is closed for ever.
        """
        try:
            return await listen(self.nc, subject, heard)
        except (nats.errors.ConnectionClosedError, nats.errors.ConnectionDrainingError) as exc:
            raise Unavailable("the connection to the broker is closed") from exc

    async def unsubscribe(self, subscription: Subscription) -> None:
        """Stop hearing; what has arrived and was not handled is dropped."""
        with contextlib.suppress(
            nats.errors.Error, OSError
        ):  # closed, or gone with its connection: nothing is heard either way
            await subscription.unsubscribe()

    async def drain(self, subscription: Subscription) -> None:
        """Stop hearing, after what was on its way has been handled; what a silent broker still holds is left."""
        # nats-py's own drain flushes by `nc.flush`: given up after a while, it would make the connection deaf (see
        # _Pong).
        with contextlib.suppress(Unavailable, TimeoutError, nats.errors.Error, OSError):
            await self.nc._send_unsubscribe(subscription._id)
            await self.flush()
            async with asyncio.timeout(REQUEST_SECONDS):
                await subscription._pending_queue.join()
        await self.unsubscribe(subscription)

    async def flush(self, within: float = REQUEST_SECONDS) -> None:
        """Wait until the broker has seen all that was sent. Raises Unavailable."""
        if not self.nc.is_connected:
            raise Unavailable("not connected to the broker")
        try:
            with cancellable():
                async with asyncio.timeout(within):
                    pong = Pong()
                    await ping(self.nc, pong)
                    await pong
        except (nats.errors.Error, TimeoutError, OSError) as exc:
            raise Unavailable("the broker does not answer") from exc

    def _check(self, body: bytes, headers: Mapping[str, str] | None) -> None:
        size = len(body) + sum(len(k) + len(v) + 4 for k, v in (headers or {}).items()) + 12
        if size > MAX_MESSAGE_BYTES:
            raise TooLarge(f"a message of {size} bytes, at most {MAX_MESSAGE_BYTES}")

    async def _measure(self) -> None:
        while True:
            try:
                await self.measure_offset()
            except PerdureError:
                await self.clock.sleep(MEASURE_AGAIN_SECONDS)
            else:
                await self.clock.sleep(MEASURE_SECONDS)


@asynccontextmanager
async def _connected(
    kind: type[Bus],
    servers: list[str],
    user: str | None,
    password: str | None,
    name: str,
    clock: SystemClock,
    inbox_prefix: str,
    on_closed: OnClosed | None,
    measure: bool,
) -> AsyncGenerator[Bus]:
    bus = kind(Connection(), clock, name)
    refused = asyncio.get_running_loop().create_future()

    async def error(exc: Exception) -> None:
        bus.errors += 1
        if AUTHORIZATION_VIOLATION in str(exc).lower() and not refused.done():
            refused.set_result(None)
        log.debug("broker connection", connection=name, error=repr(exc))

    async def disconnected() -> None:
        if not bus._closing:
            log.warning("broker lost", connection=name)

    async def reconnected() -> None:
        log.info("broker found again", connection=name)
        for callback in list(bus._on_reconnect):
            callback()

    async def closed() -> None:
        if bus._closing:
            return
        reason = f"the connection {name} to the broker is closed for ever: {bus.nc.last_error!r}"
        log.error("broker connection closed", connection=name, reason=reason)
        if on_closed is not None:
            on_closed(reason)

    connecting = asyncio.ensure_future(
        bus.nc.connect(
            servers, user=user, password=password, name=name, inbox_prefix=inbox_prefix, pending_size=0,
            max_reconnect_attempts=-1, reconnect_time_wait=RECONNECT_SECONDS, connect_timeout=2,
            ping_interval=10,
            max_outstanding_pings=2, error_cb=error, disconnected_cb=disconnected, reconnected_cb=reconnected,
            closed_cb=closed,
        )
    )  # fmt: skip
    try:
        await asyncio.wait((connecting, refused), return_when=asyncio.FIRST_COMPLETED)
        if not connecting.done():
            raise Unauthenticated(f"the broker refuses the user {user}")
        connecting.result()
        bus.requests = await Requests.open(bus.nc)
    except BaseException:
        bus._closing = True
        connecting.cancel()
        await asyncio.wait((connecting,))
        await close(bus.nc)
        raise
    tasks = [asyncio.create_task(_guard(bus, closed))]
    if measure:
        tasks.append(asyncio.create_task(bus._measure()))
    try:
        yield bus
    finally:
        bus._closing = True
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await close(bus.nc)


async def _guard(bus: Bus, closed: Callable[[], Awaitable[None]]) -> None:
    """Notice that nobody reconnects any more."""
    while True:
        await bus.clock.sleep(GUARD_SECONDS)
        if given_up(bus.nc):
            await closed()
            return
