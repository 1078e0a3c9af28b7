"""Beside a worker's memory: what the machine could still give, and more of what its agent says."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    for name in ("available_bytes", "active_bytes", "recompiles"):
        op.add_column("memory_samples", sa.Column(name, sa.Integer(), nullable=True))
    op.add_column("memory_samples", sa.Column("model_load_s", sa.Float(), nullable=True))
