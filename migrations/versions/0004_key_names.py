"""What keys are called by the people who make them."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TEXT: Final = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("name", TEXT))
    op.create_index("ix_api_keys_principal", "api_keys", ["tenant", "principal"])


def downgrade() -> None:
    op.drop_index("ix_api_keys_principal", "api_keys")
    op.drop_column("api_keys", "name")
