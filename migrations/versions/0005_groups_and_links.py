"""Groups of people; links by which a request is answered."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

TEXT: Final = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "groups",
        sa.Column("tenant", TEXT, nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("created_at", TEXT, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "name", name=op.f("pk_groups")),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.tenant"], name=op.f("fk_groups_tenant")),
    )
    op.create_table(
        "group_members",
        sa.Column("tenant", TEXT, nullable=False),
        sa.Column("group_name", TEXT, nullable=False),
        sa.Column("principal", TEXT, nullable=False),
        sa.Column("added_at", TEXT, nullable=False),
        sa.Column("added_by", TEXT, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "group_name", "principal", name=op.f("pk_group_members")),
        sa.ForeignKeyConstraint(
            ["tenant", "group_name"], ["groups.tenant", "groups.name"], name=op.f("fk_group_members_tenant_group_name")
        ),
    )
    op.create_index("ix_group_members_principal", "group_members", ["tenant", "principal"])
    op.create_table(
        "answer_links",
        sa.Column("tenant", TEXT, nullable=False),
        sa.Column("link_id", TEXT, nullable=False),
        sa.Column("request_id", TEXT, nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("audience", TEXT, nullable=False),
        sa.Column("actions", TEXT, nullable=False),
        sa.Column("created_at", TEXT, nullable=False),
        sa.Column("created_by", TEXT, nullable=False),
        sa.Column("expires_at", TEXT, nullable=False),
        sa.Column("used_at", TEXT),
        sa.Column("revoked_at", TEXT),
        sa.Column("revoked_by", TEXT),
        sa.PrimaryKeyConstraint("tenant", "link_id", name=op.f("pk_answer_links")),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.tenant"], name=op.f("fk_answer_links_tenant")),
    )
    op.create_index("ix_answer_links_expires", "answer_links", ["expires_at"])


def downgrade() -> None:
    op.drop_index("ix_answer_links_expires", "answer_links")
    op.drop_table("answer_links")
    op.drop_index("ix_group_members_principal", "group_members")
    op.drop_table("group_members")
    op.drop_table("groups")
