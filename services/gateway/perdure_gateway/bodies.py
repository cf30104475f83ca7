"""What comes in by body, query and header, taken strictly: unknown and doubled names are faults, never ignored."""

import asyncio
import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Annotated, Any, ClassVar, Final, Literal, TypeVar, get_args

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator

from perdure.core import codec
from perdure.core.instant import Instant, instant, moment
from perdure.core.schema import pointer
from perdure.errors import Fault, Invalid, Malformed, TooLarge
from perdure.ids import FLOW_NAME, TOKEN, Digest
from perdure_gateway import policy, strict
from perdure_gateway.keys import LIMITS
from perdure_gateway.problems import Problem

READ_SECONDS: Final = 15.0
MAX_DEADLINE_SECONDS: Final = 400 * 86_400
_TRACEPARENT: Final = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)
_KEY: Final = re.compile(r"[\x20-\x7e]{1,255}", re.ASCII)
_JSON_TYPE: Final = re.compile(r'application/json\s*(;\s*charset\s*=\s*"?utf-8"?\s*)?', re.ASCII | re.IGNORECASE)

Name = Annotated[str, StringConstraints(pattern=f"^{FLOW_NAME.pattern}$")]
PrincipalName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@+-]{0,126}$")]
Text = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Tags = Annotated[
    dict[Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$")], Text], Field(max_length=16)
]


class Body(BaseModel):
    """A JSON body. `user_values` names the members where null is a value; everywhere else it is refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    user_values: ClassVar[frozenset[str]] = frozenset()

    def fingerprint(self) -> Digest:
        """SHA-256 over the body with sorted keys and defaults filled in: what tells two bodies of one key apart."""
        return Digest(sha256(codec.canonical(self.model_dump())).hexdigest())


class SubmitBody(Body):
    """`POST /api/jobs`."""

    user_values = frozenset({"input"})

    flow: Annotated[str, StringConstraints(pattern=rf"^{FLOW_NAME.pattern}(@[1-9][0-9]{{0,8}})?$")]
    input: Any = None
    session_id: Text | None = None
    tags: Tags = {}
    queue: Annotated[str, StringConstraints(pattern=f"^{TOKEN.pattern}$")] = "default"
    priority: Literal["low", "normal", "high"] = "normal"
    not_before: str | None = None
    deadline_seconds: Annotated[float, Field(gt=0, le=MAX_DEADLINE_SECONDS)] | None = None
    max_failures: Annotated[int, Field(ge=1, le=100)] | None = None

    @field_validator("not_before")
    @classmethod
    def _instant(cls, value: str | None) -> str | None:
        return None if value is None else parse_instant(value)


class CancelBody(Body):
    """`POST /api/jobs/{j}/cancel`; every member may be left out, and so may the body."""

    reason: Text | None = None
    grace_seconds: Annotated[float, Field(ge=0, le=3600)] = 30.0
    force: bool = False


class SignalBody(Body):
    """`POST /api/jobs/{j}/signals/{name}`; the body may be left out."""

    user_values = frozenset({"payload"})

    payload: Any = None


class KeyBody(Body):
    """`POST /api/keys`: for oneself, or for a `user` or `service`."""

    name: Text
    scopes: Annotated[list[policy.Right], Field(max_length=len(get_args(policy.Right)))] = []
    expires_at: str | None = None
    user: PrincipalName | None = None
    service: PrincipalName | None = None

    @field_validator("expires_at")
    @classmethod
    def _instant(cls, value: str | None) -> str | None:
        return None if value is None else parse_instant(value)


class NoBody(Body):
    """Nothing, or an empty object."""


class FlowBody(Body):
    """`POST /api/flows`."""

    name: Name
    kind: Literal["graph"] = "graph"
    definition: dict[str, Any]


class FlowChangeBody(Body):
    """`PUT /api/flows/{f}`."""

    definition: dict[str, Any]


B = TypeVar("B", bound=Body)


async def read(request: web.Request, shape: type[B], *, optional: bool = False) -> B:
    """The body of `request` as `shape`; with `optional` no body at all is an empty object.

    Raises Problem (`unsupported-media-type`, `too-large`, `body-too-slow`), InvalidJson, Invalid (`invalid-body`).
    """
    declared = policy.declared(request)
    if (declared.body, declared.optional) != (shape, optional):
        raise policy.Undeclared(f"{shape.__name__} is not what the handler declares")
    if optional and not request.body_exists:
        return parse({}, shape)
    types = request.headers.getall("Content-Type", [])
    if len(types) != 1 or _JSON_TYPE.fullmatch(types[0].strip()) is None:
        raise Problem(
            "unsupported-media-type", "send Content-Type: application/json, in UTF-8", headers={"Connection": "close"}
        )
    return parse(strict.loads(await content(request)), shape)


async def content(request: web.Request) -> bytes:
    """The bytes of a body, whatever they are. Raises Problem (as `read`)."""
    if "Content-Encoding" in request.headers:
        raise Problem("unsupported-media-type", "no Content-Encoding is taken", headers={"Connection": "close"})
    if (request.content_length or 0) > strict.MAX_BYTES:
        raise _too_large()
    with request.app[LIMITS].body(request.content_length or strict.MAX_BYTES):
        return await _bytes(request)


def parse(value: Any, shape: type[B]) -> B:  # Any: decoded JSON
    """`value` as `shape`. Raises Invalid (`invalid-body`)."""
    if not isinstance(value, dict):
        raise Invalid([Fault("wrong-type", "must be an object", pointer="")])
    nulls = [n for n, v in value.items() if v is None and n in shape.model_fields and n not in shape.user_values]
    if nulls:
        raise Invalid([Fault("null", "leave out what has no value", pointer=pointer(n)) for n in nulls])
    try:
        return shape.model_validate(value)
    except ValidationError as exc:
        errors = exc.errors(include_url=False, include_context=False, include_input=False)
        raise Invalid([_fault(e["type"], e["msg"], e["loc"]) for e in errors[:20]]) from None  # the cause shows values


async def _bytes(request: web.Request) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(READ_SECONDS):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > strict.MAX_BYTES:
                    raise _too_large()
    except TimeoutError:
        raise Problem(
            "body-too-slow", f"the body has {READ_SECONDS:g} seconds", headers={"Connection": "close"}
        ) from None
    return bytes(body)


def _too_large() -> Problem:
    return Problem("too-large", "the body is larger than 1 MiB", headers={"Connection": "close"})


def _fault(code: str, text: str, place: tuple[int | str, ...]) -> Fault:
    """Our words for pydantic's, which change with its versions. The text of a ValueError is ours already."""
    if place and place[-1] == "[key]":  # pydantic's way to say that the name of a member is wrong
        place = place[:-1]
    if code == "value_error":
        return Fault("malformed", text.removeprefix("Value error, "), pointer=pointer(*place))
    ours, detail = _FAULTS.get(code, ("wrong-type", "has the wrong type"))
    return Fault(ours, detail, pointer=pointer(*place))


_FAULTS: Final = {
    "extra_forbidden": ("unknown-member", "there is no such member"),
    "missing": ("missing", "is required"),
    "string_pattern_mismatch": ("malformed", "does not have the form that is asked for"),
    "literal_error": ("unknown-value", "is none of the allowed values"),
    "string_too_short": ("too-short", "is too short"),
    "string_too_long": ("too-long", "is too long"),
    "too_long": ("too-long", "has too many members"),
    "greater_than": ("too-small", "is too small"),
    "greater_than_equal": ("too-small", "is too small"),
    "less_than_equal": ("too-large", "is too large"),
    "finite_number": ("too-large", "is not finite"),
}


def parse_instant(text: str) -> Instant:
    """An RFC 3339 instant with its offset, as UTC. Raises ValueError, which never holds the text."""
    try:
        at = moment(Instant(text))
    except Malformed:
        raise ValueError("must be an RFC 3339 instant") from None
    if at.tzinfo is None or "T" not in text.upper():
        raise ValueError("must be an RFC 3339 instant with its offset")
    try:
        return instant(at)
    except (OverflowError, ValueError):
        raise ValueError("must be an instant that exists in UTC") from None


def check_value(value: object, at: str) -> None:
    """A user value must be one that an event can hold. Raises Problem (`too-large`)."""
    try:
        codec.encode_value(value)
    except TooLarge as exc:
        fault = Fault("too-large", f"at most {codec.MAX_VALUE_BYTES} bytes", pointer=at)
        raise Problem("too-large", "a value beyond its bound", faults=[fault]) from exc


def idempotency_key(request: web.Request) -> str | None:
    """The key, quoted or bare, without its quotes. Raises Problem (`invalid-header`)."""
    values = request.headers.getall("Idempotency-Key", [])
    if not values:
        return None
    key = values[0].strip()
    if len(key) >= 2 and key[0] == key[-1] == '"':
        key = key[1:-1]
    if len(values) > 1 or _KEY.fullmatch(key) is None or '"' in key:
        fault = Fault("malformed", "once, 1 to 255 printable ASCII characters", header="Idempotency-Key")
        raise Problem("invalid-header", "see errors", faults=[fault])
    return key


def traceparent(request: web.Request) -> str | None:
    """The trace that the caller is in, where it says so as W3C Trace Context does."""
    text = request.headers.get("traceparent", "")
    return text if _TRACEPARENT.fullmatch(text) else None


def query(request: web.Request, *names: str, repeated: str = "") -> dict[str, str]:
    """The query parameters, each at most once, but for `repeated`. Raises Problem (`invalid-parameter`): a typo must
    not widen a list.
    """
    if not set(names) <= set(policy.declared(request).query):
        raise policy.Undeclared("a parameter that the handler does not declare")
    faults = [Fault("unknown", "there is no such parameter", parameter=n) for n in request.query if n not in names]
    faults += [
        Fault("repeated", "given more than once", parameter=n)
        for n in names
        if n != repeated and len(request.query.getall(n, [])) > 1
    ]
    faults += [
        Fault("malformed", "must be text, without U+0000", parameter=n)
        for n, value in request.query.items()
        if n in names and any(c == "\0" or "\ud800" <= c <= "\udfff" for c in value)
    ]
    if faults:
        raise Problem("invalid-parameter", "see errors", faults=faults[:20])
    return dict(request.query)


def flag(query: Mapping[str, str], name: str, *, default: bool) -> bool:
    """A parameter that is `true` or `false`. Raises Problem (`invalid-parameter`)."""
    value = query.get(name, "true" if default else "false")
    if value not in ("true", "false"):
        raise bad_parameter(name, "true or false")
    return value == "true"


def bad_parameter(name: str, detail: str) -> Problem:
    """One parameter that does not fit."""
    return Problem("invalid-parameter", "see errors", faults=[Fault("invalid", detail, parameter=name)])
