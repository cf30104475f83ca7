"""Browsers of other origins: none, unless the operator names exact origins; never with cookies."""

from collections.abc import Collection
from typing import Final

from aiohttp import web

METHODS: Final = "GET, POST, PUT, DELETE"
REQUEST_HEADERS: Final = (
    "authorization, content-type, accept, idempotency-key, prefer, if-match, if-none-match, last-event-id, "
    "traceparent, x-request-id"
)
EXPOSED: Final = (
    "location, retry-after, etag, link, ratelimit, ratelimit-policy, x-request-id, idempotency-replayed, "
    "preference-applied"
)
MAX_AGE_SECONDS: Final = 600


class Cors:
    """The origins that may read answers."""

    def __init__(self, origins: Collection[str] = ()) -> None:
        self._origins = frozenset(origins)

    def preflight(self, request: web.Request) -> web.Response | None:
        """The answer to a browser that asks before it sends; None for every other request, and every other origin."""
        if request.method != "OPTIONS" or "Access-Control-Request-Method" not in request.headers:
            return None
        if request.headers.get("Origin") not in self._origins:
            return None
        headers = {
            "Access-Control-Allow-Methods": METHODS,
            "Access-Control-Allow-Headers": REQUEST_HEADERS,
            "Access-Control-Max-Age": str(MAX_AGE_SECONDS),
        }
        return web.Response(status=204, headers=headers)

    def mark(self, request: web.Request, response: web.StreamResponse) -> None:
        """Let a named origin read the answer."""
        if not self._origins:
            return
        response.headers["Vary"] = "Origin"
        origin = request.headers.get("Origin")
        if origin is not None and origin in self._origins:
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = EXPOSED
