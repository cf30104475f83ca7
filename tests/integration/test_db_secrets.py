"""Secrets of tenants on both databases: made once, rotated with an overlap that no gateway notices, or at once."""

import asyncio

import pytest

from perdure.core.instant import Instant, later
from perdure.db.engine import Database
from perdure.db.principals import ensure_tenant
from perdure.db.secrets import OVERLAP_SECONDS, SPREAD_SECONDS, TenantSecrets, make_secret, rotate_secret, secrets_of
from perdure.errors import Conflict, NotFound
from perdure.ids import Tenant
from perdure_gateway.memory import FRESH_SECONDS
from perdure_gateway.saying import MAX_LINK_SECONDS

NOW = Instant("2026-01-01T00:00:00.000Z")


@pytest.fixture
async def known(database: Database, tenant: Tenant) -> Tenant:
    async with database.transaction() as conn:
        await ensure_tenant(conn, tenant, now=NOW)
    return tenant


async def made(database: Database, tenant: Tenant) -> TenantSecrets:
    async with database.transaction() as conn:
        return await make_secret(conn, tenant)


async def rotated(database: Database, tenant: Tenant, now: Instant, *, at_once: bool = False) -> TenantSecrets:
    async with database.transaction() as conn:
        return await rotate_secret(conn, tenant, now, at_once=at_once)


async def test_a_secret_is_made_once_and_read_without_being_made(database: Database, known: Tenant) -> None:
    async with database.read() as conn:
        assert await secrets_of(conn, known) is None
        assert await secrets_of(conn, Tenant("nobody-s")) is None
    found = await asyncio.gather(*(made(database, known) for _ in range(4)))
    assert len({each.secret for each in found}) == 1
    assert len(found[0].secret) == 32
    async with database.read() as conn:
        assert await secrets_of(conn, known) == found[0]
    with pytest.raises(NotFound):
        await made(database, Tenant("nobody-s"))
    with pytest.raises(NotFound):
        await rotated(database, Tenant("nobody-s"), NOW)


async def test_no_gateway_meets_a_signature_that_it_does_not_know(database: Database, known: Tenant) -> None:
    """Each gateway knows what it read up to FRESH_SECONDS ago; a link lives up to MAX_LINK_SECONDS."""
    first = await made(database, known)
    second = await rotated(database, known, NOW)
    assert second.secret != first.secret

    def held(at: Instant, stale: bool) -> TenantSecrets:
        return first if at < NOW or (stale and at < later(NOW, FRESH_SECONDS)) else second

    moments = [later(NOW, s) for s in (-1.0, 0.0, FRESH_SECONDS - 0.001, FRESH_SECONDS, SPREAD_SECONDS, 1e6)]
    for signed_at in moments:
        for stale in (False, True):
            by = held(signed_at, stale).signing(signed_at)
            for life in (0.0, FRESH_SECONDS, MAX_LINK_SECONDS - 0.001):
                seen_at = later(signed_at, life)
                assert all(by in held(seen_at, late).good(seen_at) for late in (False, True)), (signed_at, life)
    assert second.signing(later(NOW, SPREAD_SECONDS)) == second.secret
    assert second.good(later(NOW, SPREAD_SECONDS + OVERLAP_SECONDS)) == (second.secret,)


async def test_a_second_rotation_waits_for_the_overlap_unless_it_is_at_once(database: Database, known: Tenant) -> None:
    first = await rotated(database, known, NOW)  # of one that was never made
    with pytest.raises(Conflict) as refused:
        await rotated(database, known, later(NOW, OVERLAP_SECONDS))
    assert refused.value.code == "secret-overlaps"
    assert first.before_until is not None
    assert first.before_until in str(refused.value)
    second = await rotated(database, known, first.before_until)
    assert (second.before, second.secret != first.secret) == (first.secret, True)
    third = await rotated(database, known, later(first.before_until, 1), at_once=True)
    at = later(first.before_until, 1)
    assert (third.signing(at), third.good(at)) == (third.secret, (third.secret,))
    assert third.secret not in (first.secret, second.secret)
