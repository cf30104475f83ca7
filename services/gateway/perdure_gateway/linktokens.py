"""Answer links: what one opens, signed, so that nobody can make one or change what it is for.

A token is base64url of an HMAC-SHA256 and of what it is over: format, tenant, link, request, revision, audience,
actions, expiry. It is the only credential that stands in a path; the row in `answer_links` says whether it still opens
anything.
"""

from typing import Final

import msgspec
from msgspec import Struct

from perdure.core.instant import Instant
from perdure.errors import Malformed, NotFound
from perdure.ids import Principal, RequestId, Tenant, is_token
from perdure_gateway.secrets import Secrets, parts_of, signed_text

FORMAT: Final = 1
MAX_CHARS: Final = 1536
PURPOSE: Final = "link"


class Link(Struct, frozen=True, array_like=True):
    """What a token says. `audience`: `user:<name>` or `link:<label>`; `actions`: none, all of the request's."""

    format: int
    tenant: Tenant
    id: str
    request_id: RequestId
    revision: int
    audience: Principal
    actions: tuple[str, ...]
    expires_at: Instant

    @property
    def label(self) -> str | None:
        """Whom it was made for, where that is nobody of the tenant."""
        kind, _, label = self.audience.partition(":")
        return label if kind == "link" else None


async def token_of(secrets: Secrets, link: Link) -> str:
    """The token of `link`. Raises NotFound, Unavailable."""
    body = msgspec.json.encode(link)
    mac = await secrets.sign(link.tenant, PURPOSE, body)
    return signed_text(mac, body)


async def link_of(secrets: Secrets, token: str) -> Link:
    """What `token` says, once it is known to be ours. Raises NotFound, Unavailable."""
    try:
        mac, body = parts_of(token)
        said = msgspec.json.decode(body, type=Link)
    except (Malformed, ValueError, msgspec.MsgspecError):
        raise NotFound("no such link") from None
    if not is_token(said.tenant):
        raise NotFound("no such link")
    if not await secrets.signed(said.tenant, PURPOSE, body, mac):
        raise NotFound("no such link")
    if said.format != FORMAT:
        raise NotFound("a link of another version")
    return said
