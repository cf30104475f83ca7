"""Bytes to event and back: the one place that knows how an event lies in the log, and how large it may be."""

from typing import Final

import msgspec

from perdure.core.event import FORMAT, TYPE_OF, AnyEvent, UserValue
from perdure.errors import Malformed, TooLarge, UnsupportedVersion

MAX_VALUE_BYTES: Final = 128 * 1024  # a single user value
MAX_EVENT_BYTES: Final = 192 * 1024  # an encoded event; the stream refuses 256 KiB


def _plain(value: object) -> object:
    """Models of users' code (pydantic's, or anything with its `model_dump`) as plain data."""
    dump = getattr(value, "model_dump", None)
    if callable(dump) and not isinstance(value, type):
        return dump(mode="json")
    raise TypeError(f"{type(value).__name__} cannot be stored as JSON")


_encoder: Final = msgspec.json.Encoder(enc_hook=_plain)
_sorted: Final = msgspec.json.Encoder(enc_hook=_plain, order="sorted")
_decoder: Final = msgspec.json.Decoder(AnyEvent)


class _Head(msgspec.Struct):
    """As much of an event as tells whether this version can read it."""

    v: int
    type: str


_head: Final = msgspec.json.Decoder(_Head)
_known: Final = frozenset(TYPE_OF.values())


def encode(event: AnyEvent) -> bytes:
    """The event as it is stored. Raises TooLarge beyond MAX_EVENT_BYTES."""
    body = _encoder.encode(event)
    if len(body) > MAX_EVENT_BYTES:
        raise TooLarge(f"event of {len(body)} bytes, at most {MAX_EVENT_BYTES}")
    return body


def decode(body: bytes) -> AnyEvent:
    """The event in `body`; members that this version does not know are ignored.

    Raises UnsupportedVersion for a newer format or an unknown type, Malformed for anything else that is no event.
    """
    try:
        event: AnyEvent = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        try:
            head = _head.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise Malformed("not an event") from exc
        if head.v != FORMAT or head.type not in _known:
            raise UnsupportedVersion(f"event {head.type} of format {head.v}") from exc
        raise Malformed(f"not an event of type {head.type}") from exc
    if event.v != FORMAT:
        raise UnsupportedVersion(f"event of format {event.v}")
    return event


def encode_value(value: object) -> bytes:
    """A user value as JSON. Raises Malformed when it cannot be encoded, TooLarge beyond MAX_VALUE_BYTES."""
    try:
        body = _encoder.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as exc:
        raise Malformed(f"{type(value).__name__} cannot be stored as JSON") from exc
    if len(body) > MAX_VALUE_BYTES:
        raise TooLarge(f"a value of {len(body)} bytes, at most {MAX_VALUE_BYTES}")
    return body


def decode_value(body: bytes) -> UserValue:
    """The user value in `body`, which `encode_value` made."""
    return msgspec.json.decode(body)


def canonical(value: object) -> bytes:
    """JSON with sorted keys: what digests and fingerprints are made of."""
    return _sorted.encode(value)
