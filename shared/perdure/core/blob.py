"""Blob offload: which user values leave an event for blobs of their own, and what stays in their place.

A value over 128 KiB leaves; then the largest of the others, until the encoded event is at most 192 KiB. In its place
stands `<name>_ref: {sha256, size_bytes, media_type}`, for an output `outputs_ref: {name: …}`. What may leave is listed
here; what does not fit without it is too large, for good. The blob is the value's JSON, so its digest is the digest of
what a reader would have seen in the event.
"""

from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Any, Final, NamedTuple, TypeVar

from msgspec import UNSET, Struct
from msgspec.structs import replace

from perdure.core import codec
from perdure.core import event as ev
from perdure.core.codec import INLINE_VALUE_BYTES, MAX_EVENT_BYTES, MAX_VALUE_BYTES
from perdure.core.event import AnyData, AnyEvent, BlobRef
from perdure.errors import Malformed, TooLarge
from perdure.ids import Digest

# The members that hold users' values, each with the way to it.
VALUES: Final[Mapping[type[AnyData], tuple[tuple[str, ...], ...]]] = {
    ev.SubmittedData: (("input",), ("sealed",), ("thread",)),
    ev.StepCompletedData: (("result",), ("preview",)),
    ev.StepFailedData: (("preview",),),
    ev.MessageData: (("original",),),
    ev.OutputData: (("value",),),
    ev.ProgressData: (("data",),),
    ev.RequestedData: (("request", "proposal"), ("request", "on_timeout", "payload")),
    ev.VotedData: (("payload",), ("proposal",)),
    ev.AnsweredData: (("payload",), ("proposal",)),
    ev.ExpiredData: (("outcome", "payload"),),
    ev.SignalData: (("payload",),),
}
# Those that hold values by name.
NAMED: Final[Mapping[type[AnyData], str]] = {ev.ChildData: "outputs", ev.CompletedData: "outputs"}
MEDIA_TYPE: Final = "application/json"
_REF_BYTES: Final = 256  # what a reference costs an event at most: itself, its digest in `refs`, names and commas

Data = TypeVar("Data", bound=AnyData)


class _Place(NamedTuple):
    """One value: the members that lead to the record that holds it, the member, the name inside where it holds many."""

    way: tuple[str, ...]
    member: str
    name: str | None = None


class Offloaded(Struct, frozen=True):
    """What is left of an event's data, and the blobs that must be stored before it is appended."""

    data: AnyData
    blobs: dict[Digest, bytes]


def offload(data: AnyData, size: int) -> Offloaded:
    """`data` as it fits into an event that takes `size` bytes with all of it inside. Raises TooLarge for a value over
    64 MiB; whether the rest fits the codec says.
    """
    bodies = [(codec.unbounded(value), place) for place, value in _values(data)]
    blobs: dict[Digest, bytes] = {}
    for body, place in sorted(bodies, key=lambda b: len(b[0]), reverse=True):
        if (len(body) <= INLINE_VALUE_BYTES and size <= MAX_EVENT_BYTES) or len(body) <= _REF_BYTES:
            break
        if len(body) > MAX_VALUE_BYTES:
            raise TooLarge(f"a value of {len(body)} bytes, at most {MAX_VALUE_BYTES}")
        digest = Digest(sha256(body).hexdigest())
        data = _moved(data, place, BlobRef(sha256=digest, size_bytes=len(body), media_type=MEDIA_TYPE))
        blobs[digest] = body
        size += _REF_BYTES - len(body)
    return Offloaded(data, blobs)


def refs(data: AnyData) -> tuple[Digest, ...]:
    """The blobs that `data` refers to, each once."""
    return tuple(dict.fromkeys(ref.sha256 for _, ref in _references(data)))


def resolve(event: AnyEvent, blobs: Mapping[Digest, bytes]) -> AnyEvent:
    """The event with the values that its references name in their places, and without those references.

    `blobs` holds all of `refs(event.data)`. Raises Malformed for a blob that is no JSON.
    """
    data = resolved(event.data, blobs)
    return event if data is event.data else replace(event, data=data)


def resolved(data: Data, blobs: Mapping[Digest, bytes]) -> Data:
    """`resolve` for the data of an event alone."""
    for place, ref in _references(data):
        try:
            value = codec.decode_value(blobs[ref.sha256])
        except ValueError as exc:
            raise Malformed(f"blob {ref.sha256} is no value") from exc
        data = _filled(data, place, value)
    return data


def _values(data: AnyData) -> Iterator[tuple[_Place, Any]]:
    """The user values inside `data`. What is absent, or null where absent means null, has nothing to move."""
    for *way, member in VALUES.get(type(data), ()):
        holder = _holder(data, way)
        value = getattr(holder, member, None)
        if value is not None and value is not UNSET:
            yield _Place(tuple(way), member), value
    if (member := NAMED.get(type(data), "")) and (held := getattr(data, member)):
        for name, value in held.items():
            yield _Place((), member, name), value


def _references(data: AnyData) -> list[tuple[_Place, BlobRef]]:
    found = []
    for *way, member in VALUES.get(type(data), ()):
        ref = getattr(_holder(data, way), f"{member}_ref", None)
        if ref is not None:
            found.append((_Place(tuple(way), member), ref))
    if member := NAMED.get(type(data), ""):
        found += [(_Place((), member, name), ref) for name, ref in getattr(data, f"{member}_ref").items()]
    return found


def _holder(data: Any, way: list[str] | tuple[str, ...]) -> Any:  # a Struct of core.event, or None
    for member in way:
        data = getattr(data, member, None)
    return data


def _changed(data: Any, way: tuple[str, ...], members: Mapping[str, Any]) -> Any:
    """`data` with other members in the record at the end of `way`."""
    if not way:
        return replace(data, **members)
    return replace(data, **{way[0]: _changed(getattr(data, way[0]), way[1:], members)})


def _moved(data: Any, place: _Place, ref: BlobRef) -> Any:
    member, name = place.member, place.name
    if name is None:
        holder = _holder(data, place.way)
        return _changed(data, place.way, {member: _absent(holder, member), f"{member}_ref": ref})
    left = {n: v for n, v in getattr(data, member).items() if n != name}
    return replace(data, **{member: left, f"{member}_ref": {**getattr(data, f"{member}_ref"), name: ref}})


def _filled(data: Any, place: _Place, value: Any) -> Any:
    member, name = place.member, place.name
    if name is None:
        return _changed(data, place.way, {member: value, f"{member}_ref": None})
    left = {n: r for n, r in getattr(data, f"{member}_ref").items() if n != name}
    return replace(data, **{member: {**(getattr(data, member) or {}), name: value}, f"{member}_ref": left})


def _absent(holder: Struct, member: str) -> Any:
    """What the member is when its value is not there: its default, UNSET or None."""
    fields = holder.__struct_fields__
    return holder.__struct_defaults__[fields.index(member) - len(fields)]
