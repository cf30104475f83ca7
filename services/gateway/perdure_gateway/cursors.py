"""Cursors of lists: where the next page begins, signed, and bound to the list and to whom it was shown.

A cursor is base64url of an HMAC-SHA256 and of what it is over: format, key, digest of filters and principal. It does
not expire.
"""

from collections.abc import Mapping
from hashlib import sha256
from typing import Final

import msgspec

from perdure.core import codec
from perdure.db.page import PageKey
from perdure.errors import Malformed
from perdure_gateway.auth import Caller
from perdure_gateway.problems import Problem
from perdure_gateway.secrets import Secrets, parts_of, signed_text

FORMAT: Final = 1
MAX_CHARS: Final = 1024
PURPOSE: Final = "cursor"


class _Cursor(msgspec.Struct, frozen=True, array_like=True):
    format: int
    key: PageKey
    scope: str


class Cursors:
    """Signs and reads cursors with the tenant's secret."""

    def __init__(self, secrets: Secrets) -> None:
        self._secrets = secrets

    async def write(self, caller: Caller, what: str, filters: Mapping[str, str], key: PageKey) -> str:
        """The cursor of the page of `what` behind `key`. Raises Unavailable."""
        body = msgspec.json.encode(_Cursor(FORMAT, key, _scope(caller, what, filters)))
        mac = await self._secrets.sign(caller.tenant, PURPOSE, body)
        return signed_text(mac, body)

    async def read(self, caller: Caller, what: str, filters: Mapping[str, str], cursor: str) -> PageKey:
        """The key in a cursor of this list. Raises Problem (`invalid-cursor`: touched, or foreign), Unavailable."""
        try:
            mac, body = parts_of(cursor)
        except Malformed:
            raise _refused() from None
        if len(cursor) > MAX_CHARS or not await self._secrets.signed(caller.tenant, PURPOSE, body, mac):
            raise _refused()
        found = msgspec.json.decode(body, type=_Cursor)  # signed, so it is one of ours
        if found.format != FORMAT or found.scope != _scope(caller, what, filters):
            raise _refused()
        return found.key


def _scope(caller: Caller, what: str, filters: Mapping[str, str]) -> str:
    narrowed = {name: value for name, value in filters.items() if name not in ("cursor", "limit")}
    return sha256(codec.canonical([caller.tenant, caller.principal, what, narrowed])).hexdigest()[:32]


def _refused() -> Problem:
    return Problem("invalid-cursor", "start again without a cursor")
