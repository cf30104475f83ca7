"""Bodies and parameters, read as FastAPI reads them: faults in the list form, at their places.

What no log and no database could hold (NaN, half of a surrogate pair, U+0000, a depth over 64) is refused as on the
native surface; where it stands in tweaks or globals the refusal names the member.
"""

import asyncio
import json
import re
from typing import Any, Final, TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from perdure.core.langflow.overrides import MAX_DEPTH, unfit
from perdure.core.langflow.refusal import Refusal, coded, fault, listed
from perdure_gateway import bodies, strict
from perdure_gateway.keys import LIMITS
from perdure_gateway.langflow.ids import canonical

FLOW_BYTES: Final = 16 * 1024 * 1024  # of a body in which a flow travels
OVERRIDES: Final = ("tweaks", "globals")
MAX_PARSED: Final = 400  # how deep the parser goes before anybody can say where it was too deep
_JSON_TYPE: Final = re.compile(r"application/(?:[\w.+-]+\+)?json\s*(;.*)?", re.ASCII | re.IGNORECASE)
_SHAPE: Final = re.compile(r"[\[\]{}]")

M = TypeVar("M", bound=BaseModel)


async def read(request: web.Request, shape: type[M], *, most: int = strict.MAX_BYTES) -> M:
    """The body of `request` as `shape`. Raises Refusal."""
    return parsed(await value(request, most=most), shape)


async def value(request: web.Request, *, most: int = strict.MAX_BYTES) -> Any:  # Any: JSON
    """The JSON in the body of `request`. Raises Refusal."""
    raw = await content(request, most)
    if not raw:
        raise listed(fault("missing", ["body"], "Field required"))
    if _JSON_TYPE.fullmatch(request.headers.get("Content-Type", "").strip()) is None:
        raise _no_object()
    return decoded(raw)


def decoded(raw: bytes) -> Any:  # Any: JSON
    """The value in `raw`. Raises Refusal; its words never hold a part of `raw`."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise _no_json(exc.start) from None
    _measure(text)
    try:
        found = json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as exc:
        raise _no_json(exc.pos) from None
    except _Twice:
        raise listed(fault("value_error", ["body"], "Value error, an object names a member twice")) from None
    except ValueError:  # Python makes no integer of more than 4,300 digits
        raise listed(fault("json_invalid", ["body"], "JSON decode error: a number is too long")) from None
    _storable(found)
    return found


def parsed(value: Any, shape: type[M], place: tuple[str, ...] = ("body",)) -> M:  # Any: JSON
    """`value` as `shape`. Raises Refusal in the list form."""
    try:
        return shape.model_validate(value, from_attributes=True)
    except ValidationError as exc:
        items = exc.errors(include_url=False, include_input=False)
        raise listed(
            *(_item(item["type"], place, item["loc"], item["msg"], item.get("ctx")) for item in items)
        ) from None


def job_in_query(request: web.Request) -> str:
    """`?job_id=`. Raises Refusal: 400 where it is missing, 422 where it is no UUID."""
    text = request.query.get("job_id")
    if text is None:
        raise coded(400, "Missing required parameter", "MISSING_PARAMETER", "Job ID must be provided")
    job = canonical(text)
    if job is None:
        raise listed(fault("value_error", ["query", "job_id"], "Value error, Invalid job_id, must be a UUID"))
    return job


def flow_in_query(request: web.Request) -> str | None:
    """`?flow_id=`, None where it is not there. Raises Refusal."""
    text = request.query.get("flow_id")
    if text is None:
        return None
    flow = canonical(text)
    if flow is None:
        raise listed(fault("uuid_parsing", ["query", "flow_id"], "Input should be a valid UUID"))
    return flow


def number_in_query(request: web.Request, name: str, default: int, most: int) -> int:
    """An integer from 1 to `most`. Raises Refusal."""
    text = request.query.get(name, str(default))
    if not text.isascii() or not text.isdigit() or len(text) > 9 or not 1 <= int(text) <= most:
        raise listed(fault("int_parsing", ["query", name], f"Input should be a valid integer from 1 to {most}"))
    return int(text)


def flag_in_query(request: web.Request, name: str, *, default: bool = False) -> bool:
    """`true` or `false`. Raises Refusal."""
    text = request.query.get(name)
    if text is None:
        return default
    if text.lower() in ("true", "1", "yes", "on"):
        return True
    if text.lower() in ("false", "0", "no", "off"):
        return False
    raise listed(fault("bool_parsing", ["query", name], "Input should be a valid boolean, unable to interpret input"))


async def content(request: web.Request, most: int) -> bytes:
    """The bytes of the body, at most so many. Raises Refusal."""
    if "Content-Encoding" in request.headers:
        raise _no_object()
    if (request.content_length or 0) > most:
        raise too_large(most)
    body = bytearray()
    with request.app[LIMITS].body(min(request.content_length or most, most)):
        try:
            async with asyncio.timeout(bodies.READ_SECONDS):
                async for chunk in request.content.iter_any():
                    body += chunk
                    if len(body) > most:
                        raise too_large(most)
        except TimeoutError:
            raise too_slow() from None
    return bytes(body)


class _Twice(Exception):
    pass


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _Twice
    return members


def _measure(text: str) -> None:
    depth = 0
    for match in _SHAPE.finditer(strict.STRING.sub("", text)):
        depth += 1 if match[0] in "[{" else -1
        if depth > MAX_PARSED:
            raise listed(fault("json_invalid", ["body", match.start()], f"nested deeper than {MAX_DEPTH}"))


def _storable(found: Any) -> None:
    """Whether all of it can be stored; of an object the member is named. Raises Refusal."""
    members = found.items() if isinstance(found, dict) else [("", found)]
    for name, member in members:
        why = unfit(name) or unfit(member)
        if why is None:
            continue
        if name in OVERRIDES:
            text = f"The request's {name} cannot be stored: a value {why}."
            raise coded(422, "Invalid request overrides", "INVALID_REQUEST_OVERRIDES", text, field=name)
        place = ["body", name] if name and unfit(name) is None else ["body"]
        raise listed(fault("value_error", place, f"Value error, {why}"))


def _item(kind: str, place: tuple[str, ...], loc: tuple[int | str, ...], text: str, ctx: Any) -> dict[str, Any]:
    shown = ctx if isinstance(ctx, dict) and "error" not in ctx else None  # the error is an exception: no JSON
    return fault(kind, [*place, *loc], text, shown)


def _no_json(position: int) -> Refusal:
    return listed(fault("json_invalid", ["body", position], "JSON decode error"))


def _no_object() -> Refusal:
    text = "Input should be a valid dictionary or object to extract fields from"
    return listed(fault("model_attributes_type", ["body"], text))


def too_slow() -> Refusal:
    """A body that has not arrived within READ_SECONDS."""
    return Refusal(408, "The body did not arrive in time", {"Connection": "close"})


def too_large(most: int) -> Refusal:
    """A body of more than `most` bytes."""
    item = fault("too_large", ["body"], f"The body is larger than {most // (1024 * 1024)} MiB")
    return Refusal(422, [item], {"Connection": "close"})
