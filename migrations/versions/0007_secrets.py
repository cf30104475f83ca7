"""The secret of a tenant before its own of now, until when that is good, and from when on the new one signs."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

TEXT: Final = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
COLUMNS: Final = ("secret_signs_at", "secret_before", "secret_before_until")


def upgrade() -> None:
    for name in COLUMNS:
        op.add_column("tenants", sa.Column(name, TEXT))


def downgrade() -> None:
    for name in reversed(COLUMNS):
        op.drop_column("tenants", name)
