"""Of a worker on several devices: what is free on the fullest, its part of it, and whose memory it is."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    for name, kind in (("gpu_room_bytes", sa.Integer()), ("gpu_ratio", sa.Float()), ("gpu_ranks", sa.Integer())):
        op.add_column("memory_samples", sa.Column(name, kind, nullable=True))
