"""Beside a worker's memory: what the machine could still give."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("memory_samples", sa.Column("available_bytes", sa.Integer(), nullable=True))
