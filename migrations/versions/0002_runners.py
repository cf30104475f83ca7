"""Who runs: presence of runners; what Python flows say of themselves."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TEXT: Final = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "runners",
        sa.Column("runner", TEXT, nullable=False),
        sa.Column("version", TEXT, nullable=False),
        sa.Column("queues", TEXT, nullable=False),
        sa.Column("priorities", TEXT, nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("running", sa.Integer(), nullable=False),
        sa.Column("tenants", TEXT, nullable=False),
        sa.Column("flows", TEXT, nullable=False),
        sa.Column("components", TEXT, nullable=False),
        sa.Column("first_seen_at", TEXT, nullable=False),
        sa.Column("seen_at", TEXT, nullable=False),
        sa.Column("drain_at", TEXT),
        sa.Column("drain_by", TEXT),
        sa.PrimaryKeyConstraint("runner", name=op.f("pk_runners")),
    )
    op.create_index("ix_runners_seen", "runners", ["seen_at"])
    op.add_column("flow_versions", sa.Column("description", TEXT))
    op.add_column("flow_versions", sa.Column("output_schema", TEXT))


def downgrade() -> None:
    op.drop_column("flow_versions", "output_schema")
    op.drop_column("flow_versions", "description")
    op.drop_index("ix_runners_seen", "runners")
    op.drop_table("runners")
