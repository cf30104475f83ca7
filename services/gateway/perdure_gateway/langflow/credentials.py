"""The key of a call: `x-api-key` as a header, as a query parameter where that is allowed, or a bearer token."""

from typing import Final

from aiohttp import web

from perdure.core.langflow.refusal import sentence
from perdure_gateway.auth import PRESENTED
from perdure_gateway.keys import LANGFLOW

NAME: Final = "x-api-key"
NONE: Final = "No authentication credentials provided"
WRONG: Final = "Invalid API key"
WRONG_TOKEN: Final = "Invalid token"


def present(request: web.Request) -> None:
    """Note the key that the call presents, for whoever asks who calls. Raises Refusal when there is none."""
    found = request.headers.get(NAME)
    if found is None and request.app[LANGFLOW].query_key:
        found = request.query.get(NAME)
    if found is None:
        if "Authorization" in request.headers:
            return  # a bearer token, as on the native surface
        raise sentence(403, NONE)
    request[PRESENTED] = found
