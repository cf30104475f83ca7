"""What is left of logs that were purged; which periodic duty ran when."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TEXT: Final = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
KEPT: Final = sa.text("ended_at IS NOT NULL AND purged_at IS NULL")
PURGED: Final = sa.text("purged_at IS NOT NULL")
DELETED: Final = sa.text("deleted_at IS NOT NULL")


def upgrade() -> None:
    op.create_table(
        "archive",
        sa.Column("tenant", TEXT, nullable=False),
        sa.Column("job_id", TEXT, nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", TEXT, nullable=False),
        sa.Column("fingerprint", TEXT),
        sa.Column("events", sa.LargeBinary()),
        sa.Column("refs", TEXT, nullable=False),
        sa.Column("archived_at", TEXT, nullable=False),
        sa.Column("deleted_at", TEXT),
        sa.PrimaryKeyConstraint("tenant", "job_id", name=op.f("pk_archive")),
    )
    op.create_table(
        "duties",
        sa.Column("name", TEXT, nullable=False),
        sa.Column("started_at", TEXT, nullable=False),
        sa.Column("ended_at", TEXT),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_duties")),
    )
    op.add_column("jobs", sa.Column("purged_at", TEXT))
    op.create_index("ix_jobs_kept", "jobs", ["ended_at"], sqlite_where=KEPT, postgresql_where=KEPT)
    op.create_index("ix_jobs_purged", "jobs", ["ended_at"], sqlite_where=PURGED, postgresql_where=PURGED)
    op.create_index("ix_jobs_deleted", "jobs", ["deleted_at"], sqlite_where=DELETED, postgresql_where=DELETED)


def downgrade() -> None:
    op.drop_index("ix_jobs_deleted", "jobs")
    op.drop_index("ix_jobs_purged", "jobs")
    op.drop_index("ix_jobs_kept", "jobs")
    op.drop_column("jobs", "purged_at")
    op.drop_table("duties")
    op.drop_table("archive")
