"""How handlers answer: JSON by msgspec, entity tags, pages."""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import msgspec
from aiohttp import web

from perdure.db.page import MAX_LIMIT, PageKey
from perdure_gateway import bodies
from perdure_gateway.auth import CALLER
from perdure_gateway.keys import CURSORS
from perdure_gateway.problems import Problem

DEFAULT_LIMIT = 50
_WAIT = re.compile(r"wait\s*=\s*\"?([0-9]{1,6})\"?", re.ASCII | re.IGNORECASE)


def respond(body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """`body` as application/json."""
    return web.Response(body=msgspec.json.encode(body), status=status, headers=headers, content_type="application/json")


def tagged(request: web.Request, tag: str, body: object) -> web.Response:
    """`body` under the entity tag `tag`, or 304 when the client has it already."""
    headers = {"ETag": f'"{tag}"', "Cache-Control": "private, no-cache"}
    if f'"{tag}"' in etags(request, "If-None-Match"):
        return web.Response(status=304, headers=headers)
    return respond(body, headers=headers)


def etags(request: web.Request, header: str) -> list[str]:
    """The entity tags of a header, weak ones as if they were strong: ours say what they say."""
    found = ",".join(request.headers.getall(header, []))
    return [tag.strip().removeprefix("W/") for tag in found.split(",") if tag.strip()]


def required_version(request: web.Request) -> int:
    """The version in If-Match. Raises Problem (`precondition-required`, `precondition-failed`)."""
    tags = etags(request, "If-Match")
    if not tags:
        raise Problem("precondition-required", "send If-Match with the version that you have seen")
    text = tags[0].strip('"')
    if len(tags) != 1 or not text.isascii() or not text.isdigit() or len(text) > 9:
        raise Problem("precondition-failed", "not a tag of this resource")
    return int(text)


def limit(query: Mapping[str, str], most: int = MAX_LIMIT) -> int:
    """`?limit=`. Raises Problem (`invalid-parameter`)."""
    text = query.get("limit", str(min(DEFAULT_LIMIT, most)))
    if not text.isascii() or not text.isdigit() or len(text) > 6 or not 1 <= int(text) <= most:
        raise bodies.bad_parameter("limit", f"1 to {most}")
    return int(text)


def wait_seconds(request: web.Request, most: int) -> int | None:
    """How long the client is ready to wait, by `Prefer: wait=N` (at most `most` counts); None where it says nothing.

    Preferences that are none of ours are passed over, as RFC 7240 has it.
    """
    for part in ",".join(request.headers.getall("Prefer", [])).split(","):
        match = _WAIT.fullmatch(part.strip())
        if match is not None:
            return max(1, min(int(match[1]), most))
    return None


def waited(seconds: int | None) -> dict[str, str]:
    """The header that says which wait was applied."""
    return {} if seconds is None else {"Preference-Applied": f"wait={seconds}"}


async def begin(request: web.Request, what: str, query: Mapping[str, str]) -> PageKey | None:
    """Where the page that the query asks for begins. Raises Problem (`invalid-cursor`), Unavailable."""
    cursor = query.get("cursor")
    if cursor is None:
        return None
    return await request.app[CURSORS].read(request[CALLER], what, query, cursor)


async def page(
    request: web.Request, what: str, query: Mapping[str, str], data: list[Any], key: PageKey | None
) -> web.Response:
    """A page, with the cursor and the link of the next one."""
    body: dict[str, Any] = {"data": data}
    headers = {}
    if key is not None:
        body["next"] = await request.app[CURSORS].write(request[CALLER], what, query, key)
        following = urlencode({**query, "cursor": body["next"]})
        headers["Link"] = f'<{request.path}?{following}>; rel="next"'
    return respond(body, headers=headers)
