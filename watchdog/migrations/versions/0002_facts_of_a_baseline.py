"""Of a baseline: what was known beside each burst (load, how busy the machine was), and of the noise before it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("baselines", sa.Column("facts", sa.JSON(), nullable=True))
    op.add_column("baselines", sa.Column("prior", sa.JSON(), nullable=True))
