"""The HTTP request node: one request, its answer as a value; what another try may help is tried again."""

import re
from email.message import Message
from typing import Any, Final

import aiohttp
import msgspec
from msgspec import UNSET, Struct, UnsetType

from perdure.core.event import UserValue
from perdure.core.graph.catalogue import BUILTIN
from perdure.core.graph.literal import refused_header
from perdure.engine.components.contract import Component, ComponentContext
from perdure.engine.components.outbound import Outbound, bounded, retry_after
from perdure.errors import Retryable, Terminal

SAFE: Final = ("GET", "HEAD")
SHOWN: Final = (
    "Content-Type", "Content-Language", "ETag", "Last-Modified", "Link", "Location", "Retry-After", "X-Request-Id",
)  # fmt: skip  # what of an answer's headers is kept: never cookies
_AGAIN: Final = frozenset({408, 425, 429})  # and every 5xx
_JSON: Final = re.compile(r"application/(?:json|[a-z0-9.+-]+\+json)", re.ASCII)


class RequestInputs(Struct, frozen=True):
    """The inputs of a request node, literals and edges joined. The body is `json` or `text`."""

    url: str
    method: str = "GET"
    headers: dict[str, str] = {}
    query: dict[str, str | int | float | bool] = {}
    json: UserValue | UnsetType = UNSET
    text: str | None = None
    ok_status: tuple[int | str, ...] = ("2xx",)


def http_request(outbound: Outbound) -> Component:
    """The component that sends its requests through `outbound`."""

    async def run(context: ComponentContext, inputs: RequestInputs) -> dict[str, UserValue]:
        return await _request(outbound, context, inputs)

    return Component(spec=BUILTIN["http_request"], inputs=RequestInputs, run=run)


async def _request(outbound: Outbound, context: ComponentContext, inputs: RequestInputs) -> dict[str, Any]:
    """Status, some headers and body of the answer.

    Raises Retryable (network, 408, 425, 429, 5xx; not before what `Retry-After` says), Terminal for any other status
    that `ok_status` does not name, and for what cannot be sent or read.
    """
    headers, body = _prepared(context, inputs)
    query = {name: _said(value) for name, value in inputs.query.items()}
    async with outbound.send(inputs.method, inputs.url, headers=headers, query=query, body=body) as response:
        _judge(response, inputs.ok_status)
        whole = await bounded(response)
        kept = {name.lower(): response.headers[name] for name in SHOWN if name in response.headers}
        return {"status": response.status, "headers": kept, "body": _body(response.headers.get("Content-Type"), whole)}


def _prepared(context: ComponentContext, inputs: RequestInputs) -> tuple[dict[str, str], bytes | None]:
    """Headers and body to send. An effect carries the step's key, so that a server can know a second try for one."""
    for name, value in inputs.headers.items():
        if (why := refused_header(name, value)) is not None:
            raise Terminal(f"a header cannot be sent: {why}", code="invalid_input")
    given = {name.lower() for name in inputs.headers}
    headers = dict(inputs.headers)
    body: bytes | None = None
    if inputs.json is not UNSET and inputs.text is not None:
        raise Terminal("a request has either json or text", code="invalid_input")
    if inputs.json is not UNSET:
        body = msgspec.json.encode(inputs.json)
        headers |= {} if "content-type" in given else {"Content-Type": "application/json"}
    elif inputs.text is not None:
        body = inputs.text.encode()
        headers |= {} if "content-type" in given else {"Content-Type": "text/plain; charset=utf-8"}
    if body is not None and inputs.method in SAFE:
        raise Terminal(f"a {inputs.method} has no body", code="invalid_input")
    if inputs.method not in SAFE and "idempotency-key" not in given:
        headers["Idempotency-Key"] = context.idempotency_key
    return headers, body


def _judge(response: aiohttp.ClientResponse, ok: tuple[int | str, ...]) -> None:
    """Raise what the status means, unless it is one of those that are fine."""
    status = response.status
    if any(str(status) == str(one) or str(one) == f"{status // 100}xx" for one in ok):
        return
    said = f"{response.url.host} answered {status}"
    if status in _AGAIN or status >= 500:
        code = "http_rate_limited" if status == 429 else "http_unavailable"
        raise Retryable(said, code=code, after_seconds=retry_after(response.headers))
    raise Terminal(said, code="http_redirect" if 300 <= status < 400 else "http_refused")


def _body(content_type: str | None, whole: bytes) -> UserValue:
    """The body as JSON where it says that it is, else as text; None for none."""
    if not whole:
        return None
    kind = Message()
    kind["Content-Type"] = content_type or "text/plain"
    try:
        if _JSON.fullmatch(kind.get_content_type()):
            return msgspec.json.decode(whole)
        return whole.decode(kind.get_content_charset("utf-8"))
    except (msgspec.DecodeError, UnicodeDecodeError, LookupError, RecursionError) as exc:
        raise Terminal("the answer is neither JSON nor text", code="http_answer_unreadable") from exc


def _said(value: str | float | bool) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)
