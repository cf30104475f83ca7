"""Signatures by a tenant's secrets: of what goes out to clients and comes back. A new one is seen within a minute."""

import base64
import hmac
from typing import Final

from perdure.clock import Clock
from perdure.db.secrets import TenantSecrets, make_secret, secrets_of
from perdure.errors import Malformed
from perdure.ids import Tenant
from perdure_gateway.memory import Memory
from perdure_gateway.sql import Sql

MAC_BYTES: Final = 32


class Secrets:
    """The secrets of the tenants that this gateway has met."""

    def __init__(self, sql: Sql, clock: Clock, outage_seconds: float) -> None:
        self._sql = sql
        self._clock = clock
        self._memory: Memory[Tenant, TenantSecrets] = Memory(clock, outage_seconds, lambda: sql.away)

    async def sign(self, tenant: Tenant, purpose: str, body: bytes) -> bytes:
        """The HMAC-SHA256 of `body` for `purpose`, by the tenant's secret, which is made when it has none.

        Raises NotFound for no tenant, Unavailable.
        """
        known = await self._known(tenant)
        if known is None:
            async with self._sql.writing() as conn:
                known = await make_secret(conn, tenant)
        return _mac(known.signing(self._clock.broker_now()), purpose, body)

    async def signed(self, tenant: Tenant, purpose: str, body: bytes, mac: bytes) -> bool:
        """Whether `mac` is the tenant's own. Of a tenant without a secret, or of none, nothing is, and nothing is made:
        whoever comes with a forgery costs one look. Raises Unavailable.
        """
        known = await self._known(tenant)
        good = () if known is None else known.good(self._clock.broker_now())
        return any([hmac.compare_digest(mac, _mac(secret, purpose, body)) for secret in good])  # all of them are tried

    async def _known(self, tenant: Tenant) -> TenantSecrets | None:
        async def read() -> TenantSecrets | None:
            async with self._sql.reading() as conn:
                return await secrets_of(conn, tenant)

        return await self._memory.get(tenant, read)


def signed_text(mac: bytes, body: bytes) -> str:
    """A signature and what it is over, as they stand in an address."""
    return base64.urlsafe_b64encode(mac + body).rstrip(b"=").decode()


def parts_of(text: str) -> tuple[bytes, bytes]:
    """The signature in a text and what it is over. Raises Malformed; that it is ours is not known yet."""
    try:
        if "=" in text:
            raise Malformed("padding, which we do not write")
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raise Malformed("not base64url") from None
    return raw[:MAC_BYTES], raw[MAC_BYTES:]


def _mac(secret: bytes, purpose: str, body: bytes) -> bytes:
    return hmac.digest(secret, f"{purpose}:".encode() + body, "sha256")
