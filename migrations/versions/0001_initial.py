"""Tenants, keys and flows; jobs, requests and positions, which mirror the logs."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TEXT: Final = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
OPEN: Final = sa.text("ended_at IS NULL AND quarantined IS NULL")


def upgrade() -> None:
    op.create_table(
        "jobs",
        sa.Column("tenant", TEXT, nullable=False),
        sa.Column("job_id", TEXT, nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("stream_seq", sa.BigInteger(), nullable=False),
        sa.Column("status", TEXT, nullable=False),
        sa.Column("reason", TEXT),
        sa.Column("flow_id", TEXT),
        sa.Column("flow_name", TEXT),
        sa.Column("flow_version", sa.Integer()),
        sa.Column("flow_kind", TEXT),
        sa.Column("owner", TEXT),
        sa.Column("session_id", TEXT),
        sa.Column("queue", TEXT),
        sa.Column("priority", TEXT),
        sa.Column("tags", TEXT, nullable=False),
        sa.Column("parent", TEXT),
        sa.Column("parent_job_id", TEXT),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("fingerprint", TEXT),
        sa.Column("created_at", TEXT, nullable=False),
        sa.Column("started_at", TEXT),
        sa.Column("updated_at", TEXT, nullable=False),
        sa.Column("ended_at", TEXT),
        sa.Column("not_before", TEXT),
        sa.Column("deadline_at", TEXT),
        sa.Column("wake_at", TEXT),
        sa.Column("next_due_at", TEXT),
        sa.Column("ready_at", TEXT),
        sa.Column("waiting", TEXT, nullable=False),
        sa.Column("requests", TEXT, nullable=False),
        sa.Column("open_requests", sa.Integer(), nullable=False),
        sa.Column("progress", TEXT),
        sa.Column("outputs", TEXT),
        sa.Column("error", TEXT),
        sa.Column("usage", TEXT),
        sa.Column("quarantined", TEXT),
        sa.Column("deleted_at", TEXT),
        sa.PrimaryKeyConstraint("tenant", "job_id", name=op.f("pk_jobs")),
    )
    op.create_index("ix_jobs_created", "jobs", ["tenant", "created_at", "job_id"])
    op.create_index("ix_jobs_due", "jobs", ["next_due_at"], sqlite_where=OPEN, postgresql_where=OPEN)
    op.create_index("ix_jobs_parent", "jobs", ["tenant", "parent_job_id"])
    op.create_index("ix_jobs_ready", "jobs", ["ready_at"], sqlite_where=OPEN, postgresql_where=OPEN)
    op.create_index("ix_jobs_session", "jobs", ["tenant", "session_id", "created_at"])
    op.create_index("ix_jobs_status", "jobs", ["tenant", "status", "created_at", "job_id"])
    op.create_index("ix_jobs_updated", "jobs", ["tenant", "updated_at", "job_id"])
    op.create_table(
        "positions",
        sa.Column("shard", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("applied", sa.BigInteger(), nullable=False),
        sa.Column("event_id", TEXT),
        sa.Column("stream_created_at", TEXT),
        sa.Column("announced", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("shard", name=op.f("pk_positions")),
    )
    op.create_table(
        "tenants",
        sa.Column("tenant", TEXT, nullable=False),
        sa.Column("created_at", TEXT, nullable=False),
        sa.Column("disabled_at", TEXT),
        sa.Column("secret", TEXT),
        sa.PrimaryKeyConstraint("tenant", name=op.f("pk_tenants")),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("tenant", TEXT, nullable=False),
        sa.Column("principal", TEXT, nullable=False),
        sa.Column("kind", TEXT, nullable=False),
        sa.Column("hash", TEXT, nullable=False),
        sa.Column("scopes", TEXT, nullable=False),
        sa.Column("created_at", TEXT, nullable=False),
        sa.Column("expires_at", TEXT),
        sa.Column("last_used_at", TEXT),
        sa.Column("revoked_at", TEXT),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.tenant"], name=op.f("fk_api_keys_tenant")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
    )
    op.create_index("ix_api_keys_tenant", "api_keys", ["tenant"])
    op.create_table(
        "flows",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("tenant", TEXT, nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("kind", TEXT, nullable=False),
        sa.Column("owner", TEXT, nullable=False),
        sa.Column("head", sa.Integer(), nullable=False),
        sa.Column("created_at", TEXT, nullable=False),
        sa.Column("updated_at", TEXT, nullable=False),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.tenant"], name=op.f("fk_flows_tenant")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_flows")),
        sa.UniqueConstraint("tenant", "name", name=op.f("uq_flows_tenant_name")),
    )
    op.create_table(
        "job_tags",
        sa.Column("tenant", TEXT, nullable=False),
        sa.Column("job_id", TEXT, nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("value", TEXT, nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant", "job_id"],
            ["jobs.tenant", "jobs.job_id"],
            name=op.f("fk_job_tags_tenant_job_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("tenant", "job_id", "name", name=op.f("pk_job_tags")),
    )
    op.create_index("ix_job_tags_value", "job_tags", ["tenant", "name", "value", "job_id"])
    op.create_table(
        "requests",
        sa.Column("tenant", TEXT, nullable=False),
        sa.Column("request_id", TEXT, nullable=False),
        sa.Column("job_id", TEXT, nullable=False),
        sa.Column("status", TEXT, nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("kind", TEXT, nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("title", TEXT, nullable=False),
        sa.Column("flow_id", TEXT),
        sa.Column("flow_name", TEXT),
        sa.Column("record", TEXT, nullable=False),
        sa.Column("asked_at", TEXT, nullable=False),
        sa.Column("expires_at", TEXT),
        sa.Column("urgent_at", TEXT, nullable=False),
        sa.Column("settled_at", TEXT),
        sa.Column("settled_seq", sa.BigInteger()),
        sa.Column("settled_by", TEXT),
        sa.Column("action", TEXT),
        sa.ForeignKeyConstraint(
            ["tenant", "job_id"],
            ["jobs.tenant", "jobs.job_id"],
            name=op.f("fk_requests_tenant_job_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("tenant", "request_id", name=op.f("pk_requests")),
    )
    op.create_index("ix_requests_asked", "requests", ["tenant", "status", "asked_at", "request_id"])
    op.create_index("ix_requests_job", "requests", ["tenant", "job_id"])
    op.create_index("ix_requests_urgent", "requests", ["tenant", "status", "urgent_at", "request_id"])
    op.create_table(
        "flow_versions",
        sa.Column("flow_id", TEXT, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("digest", TEXT, nullable=False),
        sa.Column("definition", TEXT, nullable=False),
        sa.Column("input_schema", TEXT),
        sa.Column("outputs", TEXT, nullable=False),
        sa.Column("created_at", TEXT, nullable=False),
        sa.Column("created_by", TEXT, nullable=False),
        sa.ForeignKeyConstraint(["flow_id"], ["flows.id"], name=op.f("fk_flow_versions_flow_id")),
        sa.PrimaryKeyConstraint("flow_id", "version", name=op.f("pk_flow_versions")),
    )


def downgrade() -> None:
    op.drop_table("flow_versions")
    op.drop_table("requests")
    op.drop_table("job_tags")
    op.drop_table("flows")
    op.drop_table("api_keys")
    op.drop_table("tenants")
    op.drop_table("positions")
    op.drop_table("jobs")
