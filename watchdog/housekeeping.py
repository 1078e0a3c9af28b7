"""Keeping the database small: what is too old or too much goes, and the disk gets its space back."""

from __future__ import annotations

import structlog

from alerts import recycle_store
from alerts import store as alert_store
from baselines import retention
from baselines.compaction import LONG_LOG_BYTES, compact
from baselines.database import Database
from baselines.retention import RetentionPolicy

log = structlog.get_logger("retention")


def keep_house(database: Database, policy: RetentionPolicy, *, now: float) -> bool:
    """One step, which holds the write lock for some tens of milliseconds; True when there is more to do.

    Call it every hour, and again behind the work that waits for the same thread while it says so.
    """
    with database.write() as connection:
        deleted = retention.prune(connection, policy, now=now)
        deleted += alert_store.prune(connection, now=now)
        deleted += recycle_store.cap_episodes(connection)
    compacted = compact(database.path)
    if deleted or compacted.freed_pages:
        log.info("pruned", deleted_rows=deleted, freed_pages=compacted.freed_pages)
    if compacted.log_bytes > LONG_LOG_BYTES:
        log.warning(
            "the write-ahead log cannot be cut: some program keeps a transaction open on the database",
            file=f"{database.path}-wal",
            bytes=compacted.log_bytes,
        )
    return deleted >= retention.STEP or compacted.more
