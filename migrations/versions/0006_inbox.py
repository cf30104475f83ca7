"""Whom each request asks, and what lists of requests are narrowed by.

Rows that are there stay without `tags` and without assignees: the sweeper fills both in when it starts, as it does with
rows that a sweeper of the release before writes behind this migration.
"""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

TEXT: Final = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
UNLISTED: Final = sa.text("tags IS NULL")
REMINDS: Final = sa.text("status = 'pending' AND remind_at IS NOT NULL")
SORTED: Final = ["request_id", "kind", "flow_id", "flow_name", "overdue_at"]


def upgrade() -> None:
    op.add_column("requests", sa.Column("tags", TEXT))
    op.add_column("requests", sa.Column("overdue_at", TEXT))
    op.add_column("requests", sa.Column("votes", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("requests", sa.Column("tally", TEXT))
    op.add_column("requests", sa.Column("remind_at", TEXT))
    op.create_table(
        "request_assignees",
        sa.Column("tenant", TEXT, nullable=False),
        sa.Column("request_id", TEXT, nullable=False),
        sa.Column("who", TEXT, nullable=False),
        sa.Column("status", TEXT, nullable=False),
        sa.Column("kind", TEXT, nullable=False),
        sa.Column("flow_id", TEXT),
        sa.Column("flow_name", TEXT),
        sa.Column("asked_at", TEXT, nullable=False),
        sa.Column("urgent_at", TEXT, nullable=False),
        sa.Column("overdue_at", TEXT),
        sa.PrimaryKeyConstraint("tenant", "request_id", "who", name=op.f("pk_request_assignees")),
        sa.ForeignKeyConstraint(
            ["tenant", "request_id"],
            ["requests.tenant", "requests.request_id"],
            name=op.f("fk_request_assignees_tenant_request_id"),
            ondelete="CASCADE",
        ),
    )
    for order in ("urgent", "asked"):
        by = f"{order}_at"
        op.create_index(f"ix_request_assignees_{order}", "request_assignees", ["tenant", "who", "status", by, *SORTED])
        op.drop_index(f"ix_requests_{order}", "requests")
        op.create_index(f"ix_requests_{order}", "requests", ["tenant", "status", by, *SORTED])
    op.create_index(
        "ix_requests_unlisted", "requests", ["tenant", "request_id"], sqlite_where=UNLISTED, postgresql_where=UNLISTED
    )

    op.create_index("ix_requests_remind", "requests", ["remind_at"], sqlite_where=REMINDS, postgresql_where=REMINDS)


def downgrade() -> None:
    op.drop_index("ix_requests_remind", "requests")
    op.drop_index("ix_requests_unlisted", "requests")
    for order in ("urgent", "asked"):
        op.drop_index(f"ix_requests_{order}", "requests")
        op.create_index(f"ix_requests_{order}", "requests", ["tenant", "status", f"{order}_at", "request_id"])
        op.drop_index(f"ix_request_assignees_{order}", "request_assignees")
    op.drop_table("request_assignees")
    for name in ("remind_at", "tally", "votes", "overdue_at", "tags"):
        op.drop_column("requests", name)
