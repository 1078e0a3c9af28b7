"""What was known beside each burst of a baseline: its load, and how busy the machine was."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("baselines", sa.Column("facts", sa.JSON(), nullable=True))
