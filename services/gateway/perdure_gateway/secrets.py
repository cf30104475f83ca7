"""Signatures by a tenant's own secret, which is read from SQL once: of what goes out to clients and comes back."""

import hmac
from typing import Final

from perdure.db.principals import tenant_secret
from perdure.ids import Tenant
from perdure_gateway.sql import Sql

MAC_BYTES: Final = 32


class Secrets:
    """The secrets of the tenants that this gateway has met."""

    def __init__(self, sql: Sql) -> None:
        self._sql = sql
        self._secrets: dict[Tenant, bytes] = {}

    async def mac(self, tenant: Tenant, purpose: str, body: bytes) -> bytes:
        """The HMAC-SHA256 of `body` under the tenant's key for `purpose`. Raises NotFound, Unavailable."""
        return hmac.digest(await self._secret(tenant), f"{purpose}:".encode() + body, "sha256")

    async def _secret(self, tenant: Tenant) -> bytes:
        secret = self._secrets.get(tenant)
        if secret is None:
            async with self._sql.writing() as conn:
                secret = await tenant_secret(conn, tenant)
            self._secrets[tenant] = secret
        return secret
