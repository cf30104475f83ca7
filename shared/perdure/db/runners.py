"""Runners as they registered: who was there, for what, when last. A view for people, never a fact that decides."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct
from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from perdure.core.instant import Instant, later
from perdure.db.record import record
from perdure.db.schema import insert, runners
from perdure.errors import NotFound
from perdure.ids import Digest, Principal, Queue, RunnerId, Tenant

KEPT_SECONDS: Final = 86_400.0  # after it was last heard of; a runner's id is never used again

_JSON: Final = ("queues", "priorities", "tenants", "flows", "components")


class RunnerRow(Struct, frozen=True, kw_only=True):
    """One process start of a runner. `flows`: the digests of its Python flows, by name."""

    runner: RunnerId
    version: str
    queues: tuple[Queue, ...]
    priorities: tuple[str, ...]
    slots: int
    running: int
    tenants: tuple[Tenant, ...]
    flows: dict[str, Digest]
    components: tuple[dict[str, Any], ...] = ()  # catalogue entries, plain data
    first_seen_at: Instant
    seen_at: Instant
    drain_at: Instant | None = None
    drain_by: Principal | None = None


async def see(conn: AsyncConnection, row: RunnerRow) -> RunnerRow | None:
    """Note that a runner is there; the row as it was before, None for a new runner. What nobody has heard of for
    KEPT_SECONDS is forgotten. Needs a transaction.
    """
    mine = runners.c.runner == row.runner
    found = (await conn.execute(select(runners).where(mine).with_for_update())).first()
    values: dict[str, Any] = msgspec.structs.asdict(row)
    for name in _JSON:
        values[name] = msgspec.json.encode(values[name]).decode()
    for name in ("drain_at", "drain_by"):  # not the runner's to say
        del values[name]
    if found is None:
        await conn.execute(insert(conn, runners).values(**values).on_conflict_do_nothing())
        await conn.execute(delete(runners).where(runners.c.seen_at < later(row.seen_at, -KEPT_SECONDS)))
        return None
    del values["first_seen_at"]
    await conn.execute(update(runners).where(mine).values(**values))
    return record(found, RunnerRow, json=_JSON)


async def forget(conn: AsyncConnection, runner: RunnerId) -> None:
    """A runner has ended and said so."""
    await conn.execute(delete(runners).where(runners.c.runner == runner))


async def drain(conn: AsyncConnection, runner: RunnerId, by: Principal, now: Instant) -> RunnerRow:
    """Ask a runner to end; it hears so when it next registers. The first one who asks is noted. Raises NotFound."""
    mine = runners.c.runner == runner
    await conn.execute(update(runners).where(mine, runners.c.drain_at.is_(None)).values(drain_at=now, drain_by=by))
    found = (await conn.execute(select(runners).where(mine))).first()
    if found is None:
        raise NotFound("no such runner")
    return record(found, RunnerRow, json=_JSON)


async def list_runners(conn: AsyncConnection, tenant: Tenant) -> Sequence[RunnerRow]:
    """The runners that serve `tenant`, the youngest first."""
    rows = (await conn.execute(select(runners).order_by(runners.c.runner.desc()))).all()
    found = [record(row, RunnerRow, json=_JSON) for row in rows]
    return [row for row in found if tenant in row.tenants]
