"""Tenants and API keys on both databases."""

import asyncio
import base64

import pytest
from sqlalchemy import text

from perdure.core.instant import Instant
from perdure.db.engine import Database
from perdure.db.principals import (
    create_key,
    ensure_first_key,
    ensure_tenant,
    find_key,
    key_id,
    new_key,
    note_use,
    revoke_key,
)
from perdure.errors import Conflict, Malformed, NotFound
from perdure.ids import Principal, Tenant

NOW = Instant("2026-01-01T00:00:00.000Z")
LATER = Instant("2026-01-02T00:00:00.000Z")
MAIN, OTHER = Tenant("main"), Tenant("other")
ANN = Principal("user:ann")
GIVEN = "pdr_abcd0123_" + "x" * 43


def test_a_key_has_256_bits_and_an_id() -> None:
    secret = new_key()
    own_id = key_id(secret)
    assert own_id is not None
    assert secret.startswith(f"pdr_{own_id}_")
    assert len(base64.urlsafe_b64decode(secret[13:] + "=")) == 32
    assert new_key() != secret


@pytest.mark.parametrize(
    "text", ["", "pdr_", GIVEN + "x", GIVEN[:-1], GIVEN.upper(), GIVEN + "\n", "pdr_abcd012é_" + "x" * 43]
)
def test_what_is_no_key_has_no_id(text: str) -> None:
    assert key_id(text) is None


async def test_the_first_key_is_made_once(database: Database) -> None:
    async with database.transaction() as conn:
        secret = await ensure_first_key(conn, MAIN, now=NOW)
    assert secret is not None
    async with database.transaction() as conn:
        assert await ensure_first_key(conn, MAIN, now=LATER) is None
        row = await find_key(conn, str(key_id(secret)))
    assert row is not None
    assert (row.tenant, row.kind, row.created_at, row.scopes) == (MAIN, "service", NOW, ())
    assert row.opens(secret, LATER)


async def test_services_that_start_at_once_make_one_first_key(database: Database) -> None:
    async def start() -> str | None:
        async with database.transaction() as conn:
            return await ensure_first_key(conn, MAIN, now=NOW)

    made = await asyncio.gather(*(start() for _ in range(8)))
    assert len([secret for secret in made if secret is not None]) == 1


async def test_a_given_first_key_is_taken_and_what_is_no_key_is_refused(database: Database) -> None:
    async with database.transaction() as conn:
        assert await ensure_first_key(conn, MAIN, GIVEN, now=NOW) == GIVEN
    with pytest.raises(Malformed):
        async with database.transaction() as conn:
            await ensure_first_key(conn, OTHER, "secret", now=NOW)


async def test_the_key_itself_is_nowhere_in_the_table(database: Database) -> None:
    async with database.transaction() as conn:
        await ensure_first_key(conn, MAIN, GIVEN, now=NOW)
        rows = (await conn.execute(text("SELECT * FROM api_keys"))).all()
    assert len(rows) == 1
    assert "x" * 43 not in repr(rows)


async def test_another_secret_of_the_same_id_opens_nothing(database: Database) -> None:
    async with database.transaction() as conn:
        await ensure_first_key(conn, MAIN, GIVEN, now=NOW)
        row = await find_key(conn, "abcd0123")
        assert await find_key(conn, "abcd0124") is None
    assert row is not None
    assert not row.opens("pdr_abcd0123_" + "y" * 43, NOW)


async def test_a_revoked_or_expired_key_opens_nothing(database: Database) -> None:
    async with database.transaction() as conn:
        await ensure_first_key(conn, MAIN, GIVEN, now=NOW)
        short = await create_key(conn, MAIN, ANN, now=NOW, expires_at=LATER, scopes=("read",))
        await revoke_key(conn, MAIN, "abcd0123", LATER)
        await note_use(conn, str(key_id(short)), LATER)
        revoked, expired = await find_key(conn, "abcd0123"), await find_key(conn, str(key_id(short)))
        with pytest.raises(NotFound):
            await revoke_key(conn, OTHER, "abcd0123", LATER)
    assert revoked is not None
    assert not revoked.opens(GIVEN, NOW)
    assert expired is not None
    assert (expired.kind, expired.principal, expired.scopes, expired.last_used_at) == ("user", ANN, ("read",), LATER)
    assert expired.opens(short, NOW)
    assert not expired.opens(short, LATER)


async def test_a_key_of_a_disabled_tenant_opens_nothing(database: Database) -> None:
    async with database.transaction() as conn:
        await ensure_first_key(conn, MAIN, GIVEN, now=NOW)
        await conn.execute(text("UPDATE tenants SET disabled_at = :now"), {"now": NOW})
        row = await find_key(conn, "abcd0123")
    assert row is not None
    assert not row.opens(GIVEN, NOW)


async def test_a_key_s_id_is_taken_once_over_all_tenants(database: Database) -> None:
    async with database.transaction() as conn:
        await ensure_first_key(conn, MAIN, GIVEN, now=NOW)
    with pytest.raises(Conflict):
        async with database.transaction() as conn:
            await ensure_first_key(conn, OTHER, GIVEN, now=NOW)


@pytest.mark.parametrize("tenant", ["canary", "", "A", "a.b", "a*", ">"])
async def test_a_name_that_cannot_be_a_tenant_is_refused(database: Database, tenant: str) -> None:
    async with database.transaction() as conn:
        with pytest.raises(Malformed):
            await ensure_tenant(conn, Tenant(tenant), now=NOW)


@pytest.mark.parametrize("principal", ["ann", "user:", "robot:x", ""])
async def test_a_key_of_nobody_is_refused(database: Database, principal: str) -> None:
    async with database.transaction() as conn:
        await ensure_tenant(conn, MAIN, now=NOW)
        with pytest.raises(Malformed):
            await create_key(conn, MAIN, Principal(principal), now=NOW)
