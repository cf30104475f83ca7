"""Tickets for event streams that were used. What one opens stands, signed, in the ticket itself."""

from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncConnection

from perdure.core.instant import Instant
from perdure.db.schema import insert, spent_tickets


async def spend(conn: AsyncConnection, ticket: str, expires_at: Instant, now: Instant) -> bool:
    """Use a ticket; False when somebody has, in whatever gateway. Those that have expired are forgotten."""
    await conn.execute(delete(spent_tickets).where(spent_tickets.c.expires_at < now))
    made = insert(conn, spent_tickets).values(ticket_id=ticket, expires_at=expires_at).on_conflict_do_nothing()
    return (await conn.execute(made.returning(spent_tickets.c.ticket_id))).first() is not None
