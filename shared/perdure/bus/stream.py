"""What is done with any stream: store with an acknowledgement, read from the leader, read in batches without a
consumer.

Decide on leader reads: a direct read may be behind on three replicas. Replay by batches: nothing is left behind on the
broker.
"""

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import Final

import msgspec
from msgspec import UNSET, Struct, UnsetType
from nats.aio.msg import Msg

from perdure.bus.connection import REQUEST_SECONDS, Bus
from perdure.errors import Malformed, OutcomeUnknown, PerdureError, StreamFull, TailMoved, TooLarge, Unavailable
from perdure.ids import StreamSeq

STALE_TAIL: Final = frozenset({10071, 10164})  # "wrong last sequence": on one replica, in a cluster
NOT_NOW: Final = frozenset({10008, 10009, 10163, 10167})  # no leader yet, catching up, its queue is full
NO_STREAM: Final = 10059
NO_MESSAGE: Final = 10037
FULL: Final = 10077
OVERSIZE: Final = 10054
BATCH: Final = 500
BATCH_BYTES: Final = 4 * 1024 * 1024


class ApiError(Struct):
    """JetStream's own words for a refusal."""

    code: int
    err_code: int = 0
    description: str = ""


class Answer(Struct):
    """As much of a JetStream reply as tells whether it is a refusal."""

    error: ApiError | None = None


class _PubAck(Answer):
    seq: int = 0


class _Kept(Struct):
    """A message as STREAM.MSG.GET tells it."""

    subject: str
    seq: int
    time: datetime
    data: bytes = b""


class _Got(Answer):
    message: _Kept | None = None


class Read(Struct, frozen=True):
    """One stored message. `headers` are known from direct reads only."""

    subject: str
    seq: StreamSeq
    at: datetime
    body: bytes
    headers: Mapping[str, str]


class Ask(Struct, frozen=True, kw_only=True):
    """A question for one message, or for a batch of them (`batch` with `next_by_subj`)."""

    seq: int | UnsetType = UNSET
    last_by_subj: str | UnsetType = UNSET
    next_by_subj: str | UnsetType = UNSET
    batch: int | UnsetType = UNSET
    max_bytes: int | UnsetType = UNSET


_pub_ack: Final = msgspec.json.Decoder(_PubAck)
_got: Final = msgspec.json.Decoder(_Got)
_encode: Final = msgspec.json.Encoder().encode


def refusal(error: ApiError, what: str) -> PerdureError:
    """The error to raise for a JetStream refusal, told apart by its code."""
    text = f"{what}: {error.err_code} {error.description}"
    if error.err_code in STALE_TAIL:
        return TailMoved(text)
    if error.err_code == FULL:
        return StreamFull(text)
    if error.err_code == OVERSIZE:
        return TooLarge(text)
    if error.err_code in NOT_NOW or error.err_code == NO_STREAM or error.code == 503:
        return Unavailable(text)
    return PerdureError(text)


async def store(
    bus: Bus, subject: str, body: bytes, headers: Mapping[str, str] | None = None, within: float = REQUEST_SECONDS
) -> StreamSeq:
    """Publish once and wait for the acknowledgement; the stream sequence that the message got.

    Raises TooLarge (before anything is sent), Unavailable (not stored, or not now), StreamFull, TailMoved, and
    OutcomeUnknown when no answer came: it may be stored, now or later.
    """
    ack = _pub_ack.decode((await bus.request(subject, body, within=within, headers=headers)).data)
    if ack.error is not None:
        raise refusal(ack.error, f"publish on {subject}")
    return StreamSeq(ack.seq)


async def leader_get(bus: Bus, stream: str, ask: Ask) -> Read | None:
    """The one message that `ask` names, as the stream's leader has it; None when there is none. Raises Unavailable."""
    got = _got.decode(await bus.ask(f"$JS.API.STREAM.MSG.GET.{stream}", _encode(ask)))
    if got.error is not None:
        if got.error.err_code == NO_MESSAGE:
            return None
        raise Unavailable(f"read of {stream}: {got.error.err_code} {got.error.description}")
    if got.message is None:
        raise Malformed(f"read of {stream}: neither a message nor an error")
    kept = got.message
    return Read(kept.subject, StreamSeq(kept.seq), kept.time, kept.data, {})


async def direct_get(bus: Bus, stream: str, ask: Ask) -> Read | None:
    """The one message that `ask` names, from any replica, which may be behind. Raises Unavailable."""
    try:
        message = await bus.request(f"$JS.API.DIRECT.GET.{stream}", _encode(ask))
    except OutcomeUnknown as exc:
        raise Unavailable(f"read of {stream}: no answer") from exc
    headers = message.headers or {}
    status = headers.get("Status")
    if status == "404":
        return None
    if status is not None:
        raise Unavailable(f"read of {stream}: status {status}")
    return _read(message)


async def direct_batch(
    bus: Bus,
    stream: str,
    subject: str,
    after: int,
    most: int | None = None,
    *,
    batches: int | None = None,
    most_bytes: int = BATCH_BYTES,
) -> list[Read]:
    """Every message on `subject` after the stream sequence `after`, at most `most`, in order, from any replica;
    `batches` bounds their size (each `most_bytes`, but one message at least).

    Ends at the end that this replica knows. Raises Unavailable when an answer stays out or the batch has a hole.
    """
    reads: list[Read] = []
    box = Box()
    with bus.requests.box(box.hear) as inbox:
        while (most is None or len(reads) < most) and (batches is None or batches > 0):
            batches = None if batches is None else batches - 1
            batch = BATCH if most is None else min(BATCH, most - len(reads))
            ask = Ask(seq=after + 1, next_by_subj=subject, batch=batch, max_bytes=most_bytes)
            await bus.publish(f"$JS.API.DIRECT.GET.{stream}", _encode(ask), reply=inbox)
            got, left = await box.batch()
            reads += got
            if left == 0:
                break
            if not got:  # more is there, yet none came: it would be asked for ever
                raise Unavailable(f"read of {stream}: an empty batch")
            after = got[-1].seq
    return reads


class Box:
    """Where the answers of batch reads arrive, one batch after the other."""

    def __init__(self) -> None:
        self._messages: list[Msg] = []
        self._ended: asyncio.Event = asyncio.Event()
        self._heard = 0

    def hear(self, message: Msg) -> None:
        self._messages.append(message)
        self._heard += 1
        if message.headers is None or "Status" in message.headers:
            self._ended.set()

    async def batch(self) -> tuple[list[Read], int]:
        """The messages up to the next status, and how many are left on the broker after them."""
        heard = -1
        while not self._ended.is_set():
            if heard == self._heard:  # nothing came for a whole time-out
                raise Unavailable("a batch read got no answer")
            heard = self._heard
            try:
                async with asyncio.timeout(REQUEST_SECONDS):
                    await self._ended.wait()
            except TimeoutError:
                continue
        *messages, end = self._messages
        self._messages, self._ended = [], asyncio.Event()
        reads, before = [_read(m) for m in messages], None
        for message, read in zip(messages, reads, strict=True):
            if before is not None and (message.headers or {}).get("Nats-Last-Sequence") != str(before):
                raise Unavailable("a batch read has a hole")
            before = read.seq
        return reads, _left(end.headers or {})


def _left(headers: Mapping[str, str]) -> int:
    status = headers.get("Status")
    if status == "404":
        return 0
    if status == "204":
        return int(headers.get("Nats-Num-Pending", "0"))
    raise Unavailable(
        f"a batch read ended with status {status}"
    )  # 503: nobody has the stream now; 408, 413: a fault of ours


def _read(message: Msg) -> Read:
    headers = message.headers or {}
    at = datetime.fromisoformat(headers["Nats-Time-Stamp"])
    return Read(headers["Nats-Subject"], StreamSeq(int(headers["Nats-Sequence"])), at, message.data, headers)
