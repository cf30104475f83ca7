"""Tickets for event streams that were used: each opens one connection."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

TEXT: Final = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "spent_tickets",
        sa.Column("ticket_id", TEXT, nullable=False),
        sa.Column("expires_at", TEXT, nullable=False),
        sa.PrimaryKeyConstraint("ticket_id", name=op.f("pk_spent_tickets")),
    )
    op.create_index("ix_spent_tickets_expires", "spent_tickets", ["expires_at"])


def downgrade() -> None:
    op.drop_index("ix_spent_tickets_expires", "spent_tickets")
    op.drop_table("spent_tickets")
