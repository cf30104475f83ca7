"""The tables. What SQL owns: tenants, keys, flows, presence of runners. What it only mirrors from the
logs: jobs, requests and whom they ask, positions.

Instants are text (`core.instant`: UTC, milliseconds, equal length), compared byte by byte on both databases, so a query
sorts alike on SQLite and Postgres and nothing converts time zones on the way. JSON is text: nothing searches inside it.
Every change here is a migration (`migrations/versions`); a test compares the two.
"""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

NAMES: Final = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}
# Collation "C" is what SQLite does anyway: bytes. A locale of Postgres could sort ids and instants otherwise.
TEXT: Final = Text().with_variant(Text(collation="C"), "postgresql")
OPEN: Final = text("ended_at IS NULL AND quarantined IS NULL")
KEPT: Final = text("ended_at IS NOT NULL AND purged_at IS NULL")
PURGED: Final = text("purged_at IS NOT NULL")
DELETED: Final = text("deleted_at IS NOT NULL")
REMINDS: Final = text("status = 'pending' AND remind_at IS NOT NULL")
UNLISTED: Final = text("tags IS NULL")
# Behind what a list of requests is sorted by: all that it is narrowed by, so that no row is fetched to be passed over.
NARROWED: Final = ("request_id", "kind", "flow_id", "flow_name", "overdue_at")

metadata: Final = MetaData(naming_convention=NAMES)

tenants: Final = Table(
    "tenants",
    metadata,
    Column("tenant", TEXT, primary_key=True),
    Column("created_at", TEXT, nullable=False),
    Column("disabled_at", TEXT),
    Column("secret", TEXT),  # 64 hex digits, made when first needed: what the gateways sign with; `db.secrets`
    Column("secret_signs_at", TEXT),
    Column("secret_before", TEXT),
    Column("secret_before_until", TEXT),
)

api_keys: Final = Table(
    "api_keys",
    metadata,
    Column("id", TEXT, primary_key=True),  # the 8 characters in the middle of a key
    Column("tenant", TEXT, ForeignKey("tenants.tenant"), nullable=False),
    Column("principal", TEXT, nullable=False),  # "user:ann", "service:ci"
    Column("kind", TEXT, nullable=False),  # user, service
    Column("hash", TEXT, nullable=False),  # SHA-256 of the whole key, hex
    Column("scopes", TEXT, nullable=False),  # JSON array of strings; they only narrow
    Column("created_at", TEXT, nullable=False),
    Column("expires_at", TEXT),
    Column("last_used_at", TEXT),
    Column("revoked_at", TEXT),
    Column("name", TEXT),  # what its owner calls it
    Index("ix_api_keys_tenant", "tenant"),
    Index("ix_api_keys_principal", "tenant", "principal"),
)

flows: Final = Table(
    "flows",
    metadata,
    Column("id", TEXT, primary_key=True),
    Column("tenant", TEXT, ForeignKey("tenants.tenant"), nullable=False),
    Column("name", TEXT, nullable=False),
    Column("kind", TEXT, nullable=False),  # graph, python, langflow
    Column("owner", TEXT, nullable=False),
    Column("head", Integer, nullable=False),  # the newest version; 0 only inside the transaction that makes the flow
    Column("created_at", TEXT, nullable=False),
    Column("updated_at", TEXT, nullable=False),
    UniqueConstraint("tenant", "name"),
)

flow_versions: Final = Table(
    "flow_versions",
    metadata,
    Column("flow_id", TEXT, ForeignKey("flows.id"), nullable=False),
    Column("version", Integer, nullable=False),
    Column("digest", TEXT, nullable=False),  # names the blob with the same definition
    Column("definition", TEXT, nullable=False),  # JSON, as its author wrote it
    Column("input_schema", TEXT),  # JSON Schema
    Column("outputs", TEXT, nullable=False),  # JSON array: names of the terminal outputs
    Column("description", TEXT),
    Column("output_schema", TEXT),  # JSON Schema
    Column("created_at", TEXT, nullable=False),
    Column("created_by", TEXT, nullable=False),
    PrimaryKeyConstraint("flow_id", "version"),
)

jobs: Final = Table(
    "jobs",
    metadata,
    Column("tenant", TEXT, nullable=False),
    Column("job_id", TEXT, nullable=False),
    Column("epoch", Integer, nullable=False),  # of the shard's position: higher after a restored backup, see docs
    Column("seq", BigInteger, nullable=False),  # the row is the fold of the events 1..seq
    Column("stream_seq", BigInteger, nullable=False),  # where event `seq` lies in its stream
    Column("status", TEXT, nullable=False),
    Column("reason", TEXT),
    Column("flow_id", TEXT),
    Column("flow_name", TEXT),
    Column("flow_version", Integer),
    Column("flow_kind", TEXT),
    Column("owner", TEXT),
    Column("session_id", TEXT),
    Column("queue", TEXT),
    Column("priority", TEXT),
    Column("tags", TEXT, nullable=False),  # JSON object of strings
    Column("parent", TEXT),  # JSON {job_id, step, occurrence, path?, detached?}
    Column("parent_job_id", TEXT),
    Column("attempt", Integer, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("fingerprint", TEXT),
    Column("created_at", TEXT, nullable=False),
    Column("started_at", TEXT),
    Column("updated_at", TEXT, nullable=False),
    Column("ended_at", TEXT),
    Column("not_before", TEXT),
    Column("deadline_at", TEXT),
    Column("wake_at", TEXT),
    Column("next_due_at", TEXT),  # when `core.alarm.due` says something about the job: the duty `overdue`
    Column("ready_at", TEXT),  # from when on a doorbell must exist for it: the duty `doorbells`
    Column("waiting", TEXT, nullable=False),  # JSON array of core.event.Waiting
    Column("requests", TEXT, nullable=False),  # JSON array of the open requests, short
    Column("open_requests", Integer, nullable=False),
    Column("progress", TEXT),  # JSON, the last core.event.ProgressData
    Column("outputs", TEXT),  # JSON object, once completed
    Column("error", TEXT),  # JSON of core.event.Failure, once failed
    Column("usage", TEXT),  # JSON of core.event.Usage
    Column("quarantined", TEXT),  # broken, unsupported: why the log cannot be folded
    Column("deleted_at", TEXT),  # SQL's own: somebody deleted the job
    Column("purged_at", TEXT),  # SQL's own: the log is gone but for a tombstone, `archive` has it
    PrimaryKeyConstraint("tenant", "job_id"),
    Index("ix_jobs_created", "tenant", "created_at", "job_id"),
    Index("ix_jobs_updated", "tenant", "updated_at", "job_id"),
    Index("ix_jobs_status", "tenant", "status", "created_at", "job_id"),
    Index("ix_jobs_session", "tenant", "session_id", "created_at"),
    Index("ix_jobs_parent", "tenant", "parent_job_id"),
    Index("ix_jobs_due", "next_due_at", sqlite_where=OPEN, postgresql_where=OPEN),
    Index("ix_jobs_ready", "ready_at", sqlite_where=OPEN, postgresql_where=OPEN),
    Index("ix_jobs_kept", "ended_at", sqlite_where=KEPT, postgresql_where=KEPT),
    Index("ix_jobs_purged", "ended_at", sqlite_where=PURGED, postgresql_where=PURGED),
    Index("ix_jobs_deleted", "deleted_at", sqlite_where=DELETED, postgresql_where=DELETED),
)

job_tags: Final = Table(
    "job_tags",
    metadata,
    Column("tenant", TEXT, nullable=False),
    Column("job_id", TEXT, nullable=False),
    Column("name", TEXT, nullable=False),
    Column("value", TEXT, nullable=False),
    PrimaryKeyConstraint("tenant", "job_id", "name"),
    ForeignKeyConstraint(["tenant", "job_id"], ["jobs.tenant", "jobs.job_id"], ondelete="CASCADE"),
    Index("ix_job_tags_value", "tenant", "name", "value", "job_id"),
)

requests: Final = Table(
    "requests",
    metadata,
    Column("tenant", TEXT, nullable=False),
    Column("request_id", TEXT, nullable=False),
    Column("job_id", TEXT, nullable=False),
    Column("status", TEXT, nullable=False),  # pending, answered, expired, withdrawn
    Column("revision", Integer, nullable=False),
    Column("kind", TEXT, nullable=False),
    Column("name", TEXT, nullable=False),
    Column("title", TEXT, nullable=False),
    Column("flow_id", TEXT),
    Column("flow_name", TEXT),
    Column("record", TEXT, nullable=False),  # JSON, the whole core.event.Request as last stated
    Column("asked_at", TEXT, nullable=False),
    Column("expires_at", TEXT),
    Column("urgent_at", TEXT, nullable=False),  # expires_at, or LAST where there is none: what `order=urgency` sorts by
    Column("settled_at", TEXT),
    Column("settled_seq", BigInteger),
    Column("settled_by", TEXT),
    Column("action", TEXT),
    Column("tags", TEXT),  # JSON object, the job's; none: written by an older version, to be listed by the sweeper
    Column("overdue_at", TEXT),  # when the first reminder or escalation comes
    Column("votes", Integer, nullable=False, server_default="0"),  # that count
    Column("tally", TEXT),  # JSON array of core.event.Tally
    Column("remind_at", TEXT),  # SQL's own: the next reminder that no sweeper has told
    PrimaryKeyConstraint("tenant", "request_id"),
    ForeignKeyConstraint(["tenant", "job_id"], ["jobs.tenant", "jobs.job_id"], ondelete="CASCADE"),
    Index("ix_requests_urgent", "tenant", "status", "urgent_at", *NARROWED),
    Index("ix_requests_asked", "tenant", "status", "asked_at", *NARROWED),
    Index("ix_requests_job", "tenant", "job_id"),
    Index("ix_requests_remind", "remind_at", sqlite_where=REMINDS, postgresql_where=REMINDS),
    Index("ix_requests_unlisted", "tenant", "request_id", sqlite_where=UNLISTED, postgresql_where=UNLISTED),
)

request_assignees: Final = Table(
    "request_assignees",
    metadata,
    Column("tenant", TEXT, nullable=False),
    Column("request_id", TEXT, nullable=False),
    Column("who", TEXT, nullable=False),  # user:x, group:x, link:x, anyone:execute, anyone:answer; db.assignees
    Column("status", TEXT, nullable=False),  # this and the others: the request's, so that one index finds a page
    Column("kind", TEXT, nullable=False),
    Column("flow_id", TEXT),
    Column("flow_name", TEXT),
    Column("asked_at", TEXT, nullable=False),
    Column("urgent_at", TEXT, nullable=False),
    Column("overdue_at", TEXT),
    PrimaryKeyConstraint("tenant", "request_id", "who"),
    ForeignKeyConstraint(["tenant", "request_id"], ["requests.tenant", "requests.request_id"], ondelete="CASCADE"),
    Index("ix_request_assignees_urgent", "tenant", "who", "status", "urgent_at", *NARROWED),
    Index("ix_request_assignees_asked", "tenant", "who", "status", "asked_at", *NARROWED),
)

positions: Final = Table(
    "positions",
    metadata,
    Column("shard", Integer, primary_key=True, autoincrement=False),
    Column("epoch", Integer, nullable=False),  # how often this shard was projected from 0
    Column("applied", BigInteger, nullable=False),  # stream sequence of the last event that is in the rows
    Column("event_id", TEXT),  # of the event at `applied`
    Column("stream_created_at", TEXT),
    Column("announced", BigInteger, nullable=False),  # up to here inbox.<tenant>.request was published
)

archive: Final = Table(
    "archive",
    metadata,
    Column("tenant", TEXT, nullable=False),
    Column("job_id", TEXT, nullable=False),
    Column("seq", BigInteger, nullable=False),  # of the terminal event
    Column("ended_at", TEXT, nullable=False),
    Column("fingerprint", TEXT),
    Column("events", LargeBinary),  # the log, see `db.archive`; NULL once the job was deleted
    Column("refs", TEXT, nullable=False),  # JSON array: every blob that the events name
    Column("archived_at", TEXT, nullable=False),
    Column("deleted_at", TEXT),
    PrimaryKeyConstraint("tenant", "job_id"),
)

duties: Final = Table(
    "duties",
    metadata,
    Column("name", TEXT, primary_key=True),
    Column("started_at", TEXT, nullable=False),
    Column("ended_at", TEXT),
)

runners: Final = Table(
    "runners",
    metadata,
    Column("runner", TEXT, primary_key=True),  # one process start
    Column("version", TEXT, nullable=False),
    Column("queues", TEXT, nullable=False),  # JSON array, like priorities, tenants and components
    Column("priorities", TEXT, nullable=False),
    Column("slots", Integer, nullable=False),
    Column("running", Integer, nullable=False),
    Column("tenants", TEXT, nullable=False),  # who may see and execute its Python flows
    Column("flows", TEXT, nullable=False),  # JSON object: digests of its Python flows by name
    Column("components", TEXT, nullable=False),  # catalogue entries of users' graph components
    Column("first_seen_at", TEXT, nullable=False),
    Column("seen_at", TEXT, nullable=False),
    Column("drain_at", TEXT),  # somebody asked it to end
    Column("drain_by", TEXT),
    Index("ix_runners_seen", "seen_at"),
)

served: Final = Table(
    "served",
    metadata,
    Column("queue", TEXT, nullable=False),
    Column("kind", TEXT, nullable=False),  # of flows that not every runner executes: langflow
    Column("first_seen_at", TEXT, nullable=False),
    PrimaryKeyConstraint("queue", "kind"),
)

groups: Final = Table(
    "groups",
    metadata,
    Column("tenant", TEXT, ForeignKey("tenants.tenant"), nullable=False),
    Column("name", TEXT, nullable=False),
    Column("created_at", TEXT, nullable=False),
    PrimaryKeyConstraint("tenant", "name"),
)

group_members: Final = Table(
    "group_members",
    metadata,
    Column("tenant", TEXT, nullable=False),
    Column("group_name", TEXT, nullable=False),
    Column("principal", TEXT, nullable=False),  # "user:ann"
    Column("added_at", TEXT, nullable=False),
    Column("added_by", TEXT, nullable=False),
    PrimaryKeyConstraint("tenant", "group_name", "principal"),
    ForeignKeyConstraint(["tenant", "group_name"], ["groups.tenant", "groups.name"]),
    Index("ix_group_members_principal", "tenant", "principal"),
)

answer_links: Final = Table(
    "answer_links",
    metadata,
    Column("tenant", TEXT, ForeignKey("tenants.tenant"), nullable=False),
    Column("link_id", TEXT, nullable=False),
    Column("request_id", TEXT, nullable=False),  # of the log: its row in `requests` may come a second later
    Column("revision", Integer, nullable=False),
    Column("audience", TEXT, nullable=False),  # "user:ann", or "link:<label>" for somebody outside
    Column("actions", TEXT, nullable=False),  # JSON array; empty: all of the request's
    Column("created_at", TEXT, nullable=False),
    Column("created_by", TEXT, nullable=False),
    Column("expires_at", TEXT, nullable=False),
    Column("used_at", TEXT),
    Column("revoked_at", TEXT),
    Column("revoked_by", TEXT),
    PrimaryKeyConstraint("tenant", "link_id"),
    Index("ix_answer_links_expires", "expires_at"),
)

spent_tickets: Final = Table(
    "spent_tickets",
    metadata,
    Column("ticket_id", TEXT, nullable=False),
    Column("expires_at", TEXT, nullable=False),
    PrimaryKeyConstraint("ticket_id"),
    Index("ix_spent_tickets_expires", "expires_at"),
)


def insert(conn: AsyncConnection, table: Table) -> "sqlite.Insert | postgresql.Insert":
    """`INSERT INTO table` with this database's ON CONFLICT clause."""
    return sqlite.insert(table) if conn.dialect.name == "sqlite" else postgresql.insert(table)
