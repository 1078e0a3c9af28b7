"""Alembic's entry: runs the migrations on the connection that `migrate.bring_up_to_date` hands over."""

from __future__ import annotations

from alembic import context

import alerts.schema  # noqa: F401  (adds its tables to the one MetaData)
from baselines.schema import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
