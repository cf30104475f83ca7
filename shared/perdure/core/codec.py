"""Bytes to event and back: the one place that knows how an event lies in the log, and how large it may be."""

import math
from typing import Final

import msgspec

from perdure.core.event import FORMAT, TYPE_OF, AnyEvent, UserValue
from perdure.errors import Malformed, TooLarge, UnsupportedVersion

MAX_VALUE_BYTES: Final = 64 * 1024 * 1024  # a single user value, wherever it lies
INLINE_VALUE_BYTES: Final = 128 * 1024  # a single user value inside an event; a larger one lies in a blob
MAX_EVENT_BYTES: Final = 192 * 1024  # an encoded event; the stream refuses 256 KiB


def _plain(value: object) -> object:
    """Models of users' code (pydantic's, or anything with its `model_dump`) as plain data."""
    dump = getattr(value, "model_dump", None)
    if callable(dump) and not isinstance(value, type):
        try:
            return dump(mode="json")
        except BaseException as exc:  # users' code: whatever it raises, the value cannot be stored
            raise TypeError(f"{type(value).__name__}.model_dump raised {type(exc).__name__}") from exc
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
    body = unbounded(event)
    if len(body) > MAX_EVENT_BYTES:
        raise TooLarge(f"event of {len(body)} bytes, at most {MAX_EVENT_BYTES}")
    return body


def unbounded(value: object) -> bytes:
    """An event, or what is in one, as JSON, however large: to see how large it is. Raises Malformed."""
    try:
        return _encoder.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as exc:
        raise Malformed(f"{type(value).__name__} cannot be stored as JSON: {type(exc).__name__}") from exc


def readable(body: bytes) -> bytes:
    """`body`, an event that is to be stored, if whoever reads the log can read it: one that nobody can read ends its
    job for ever, and the types of what users' code hands in are the code's word alone. Raises Malformed.
    """
    decode(body)
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


def encode_value(value: object, most: int = MAX_VALUE_BYTES) -> bytes:
    """A user value as JSON. Raises Malformed when it cannot be encoded, TooLarge beyond `most` bytes."""
    try:
        body = _encoder.encode(value)
        finite = b"null" not in body or _finite(msgspec.to_builtins(value, enc_hook=_plain, str_keys=True))
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as exc:
        raise Malformed(f"{type(value).__name__} cannot be stored as JSON") from exc
    if not finite:  # it would be read back as null
        raise Malformed("a float that is not finite cannot be stored as JSON")
    if len(body) > most:
        raise TooLarge(f"a value of {len(body)} bytes, at most {most}")
    return body


def _finite(value: object) -> bool:
    """Whether no float in the plain `value` is NaN or infinite: the encoder writes null for those."""
    match value:
        case float():
            return math.isfinite(value)
        case dict():
            return all(map(_finite, value.values()))
        case list() | tuple():
            return all(map(_finite, value))
        case _:
            return True


def decode_value(body: bytes) -> UserValue:
    """The user value in `body`, which `encode_value` made."""
    return msgspec.json.decode(body)


def canonical(value: object) -> bytes:
    """JSON with sorted keys: what digests and fingerprints are made of."""
    return _sorted.encode(value)
