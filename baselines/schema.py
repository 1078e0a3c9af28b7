"""Tables of history and baselines. One MetaData for the whole database; `alerts.schema` adds its tables to it.

Times are Unix seconds (REAL). JSON columns hold what is read back whole and never searched.
"""

from __future__ import annotations

from sqlalchemy import JSON, Boolean, Column, Float, ForeignKey, Index, Integer, MetaData, String, Table, text

metadata = MetaData(
    naming_convention={"ix": "ix_%(table_name)s_%(column_0_N_name)s", "fk": "fk_%(table_name)s_%(column_0_name)s"}
)

bursts = Table(
    "bursts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("target", String, nullable=False),
    Column("canary", String, nullable=False),
    Column("at", Float, nullable=False),
    Column("samples", JSON, nullable=False),  # see packing
    Column("identity", JSON, nullable=False),  # here and in `output`, a field that is missing has its default
    Column("output", JSON),  # summary without golden values
    Column("provenance", JSON, nullable=False),
    Column("generation", String),
    Column("workers_alive", Integer),
    Column("worker_cpu", Float),
    Column("facts", JSON, nullable=False),
    Column("any_good", Boolean, nullable=False),  # whether one of its samples at least is good
    Column("all_good", Boolean, nullable=False),  # retention keeps the others longer
    Index("ix_bursts_target_canary_at", "target", "canary", "at"),
    Index("ix_bursts_target_canary_any_good_at", "target", "canary", "any_good", "at"),
    Index("ix_bursts_all_good_at", "all_good", "at"),
)

memory_samples = Table(
    "memory_samples",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("target", String, nullable=False),
    Column("slot", Integer, nullable=False),
    Column("life", String, nullable=False),
    Column("at", Float, nullable=False),
    Column("host_anon_bytes", Integer),
    Column("capacity_bytes", Integer),
    Column("gpu_used_bytes", Integer),
    Column("gpu_capacity_bytes", Integer),
    Column("device_used_bytes", Integer),
    Column("allocated_bytes", Integer),
    Column("reserved_bytes", Integer),
    Column("uptime_s", Float),
    Column("load", Float),
    Column("cgroup_bytes", Integer),
    Column("fds", Integer),
    Column("fd_limit", Integer),
    Column("threads", Integer),
    Column("version", String),
    Column("inactive_split_bytes", Integer),
    Column("private_pool_bytes", Integer),
    Column("alloc_retries", Integer),
    Column("ooms", Integer),
    Column("requests", Integer),
    Column("in_flight", Integer),
    Column("shapes", Integer),
    Column("trimmed_bytes", Integer),
    Column("agent", String),
    Column("available_bytes", Integer),
    Column("active_bytes", Integer),
    Column("recompiles", Integer),
    Column("model_load_s", Float),
    Column("gpu_room_bytes", Integer),
    Column("gpu_ratio", Float),
    Column("gpu_ranks", Integer),
    Index("ix_memory_samples_target_life_at", "target", "life", "at"),
    Index("ix_memory_samples_target_slot", "target", "slot"),  # ends in the id, as every index of SQLite
    Index("ix_memory_samples_at", "at"),
)

# Hours, written with each burst and each sample, so that nothing has to be done, or can be done twice, when those go.
# `hour` is its beginning. Without row ids a row lies in its key's index: one look-up to add to it, one stretch to read.
rollups = Table(
    "rollups",
    metadata,
    Column("target", String, primary_key=True),
    Column("canary", String, primary_key=True),
    Column("hour", Integer, primary_key=True),
    Column("requests", JSON, nullable=False),  # {outcome: count}
    Column("latencies", JSON, nullable=False),  # {bucket: count}, see histogram
    Index("ix_rollups_hour", "hour"),
    sqlite_with_rowid=False,
)

memory_rollups = Table(
    "memory_rollups",
    metadata,
    Column("target", String, primary_key=True),
    Column("hour", Integer, primary_key=True),
    Column("slot", Integer, primary_key=True),
    Column("life", String, primary_key=True),
    Column("host_low", Integer),
    Column("host_high", Integer),
    Column("host_last", Integer),
    Column("gpu_low", Integer),
    Column("gpu_high", Integer),
    Column("gpu_last", Integer),
    Index("ix_memory_rollups_hour", "hour"),
    sqlite_with_rowid=False,
)

# The last slopes of a version's windows, over all its lives. version: "" where it is not known.
memory_slopes = Table(
    "memory_slopes",
    metadata,
    Column("target", String, primary_key=True),
    Column("version", String, primary_key=True),
    Column("figure", String, primary_key=True),
    Column("scale", Integer, primary_key=True),
    Column("slopes", JSON, nullable=False),  # bytes per second, oldest first
    Column("at", Float, nullable=False),
    sqlite_with_rowid=False,
)

lives = Table(
    "lives",
    metadata,
    Column("target", String, primary_key=True),
    Column("life", String, primary_key=True),
    Column("slot", Integer, nullable=False),
    Column("first_seen", Float, nullable=False),
    Column("last_seen", Float, nullable=False),
)

# What outlives a restart of the daemon: of each device as a target sees it, and what its driver reported.
gpu_devices = Table(
    "gpu_devices",
    metadata,
    Column("target", String, primary_key=True),
    Column("uuid", String, primary_key=True),
    Column("at", Float, nullable=False),
    Column("last", JSON, nullable=False),
    Column("normal", JSON, nullable=False),
    Column("moved_at", JSON, nullable=False),
    Column("began", JSON, nullable=False),
    sqlite_with_rowid=False,
)

gpu_xids = Table(
    "gpu_xids",
    metadata,
    Column("at", Float, primary_key=True),
    Column("device", String, primary_key=True),  # UUID: targets that share a device share its errors
    Column("xid", Integer, primary_key=True),
    sqlite_with_rowid=False,
)

baselines = Table(
    "baselines",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("target", String, nullable=False),
    Column("canary", String, nullable=False),
    Column("taken_at", Float, nullable=False),
    Column("label", String),
    Column("provisional", Boolean, nullable=False),
    Column("identity", JSON, nullable=False),
    Column("provenance", JSON, nullable=False),
    Column("golden", JSON),
    Column("bursts", JSON, nullable=False),  # latencies in seconds, one list per burst
    Column("controls", JSON, nullable=False),  # the same for the control canary; [] without one
    Column("facts", JSON),  # of each burst, by name; NULL where they were not kept
    Column("prior", JSON),  # what former baselines tell of the noise
    Index("ix_baselines_target_canary", "target", "canary"),  # in the order they were stored, as is the next
)

# Baselines are immutable. Which one is active is the newest row here; rollback and promote add rows.
promotions = Table(
    "promotions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("target", String, nullable=False),
    Column("canary", String, nullable=False),
    Column("baseline_id", ForeignKey("baselines.id"), nullable=False),
    Column("at", Float, nullable=False),
    Column("by", String, nullable=False),
    Column("why", String, nullable=False),
    Index("ix_promotions_target_canary", "target", "canary"),
)

snapshots = Table(
    "snapshots",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("target", String, nullable=False),
    Column("canary", String, nullable=False),
    Column("at", Float, nullable=False),
    Column("steps", Integer, nullable=False),
    Column("step_s", Float, nullable=False),
    Column("ops", JSON, nullable=False),
    Column("environment", JSON, nullable=False),
    Index("ix_snapshots_target_canary_at", "target", "canary", "at"),
)

# A row per change of status, reason, cause or level, not per judgement.
verdicts = Table(
    "verdicts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("target", String, nullable=False),
    Column("check", String, nullable=False),
    Column("subject", String, nullable=False),
    Column("at", Float, nullable=False),
    Column("status", String, nullable=False),
    Column("reason", String, nullable=False),
    Column("cause", String, nullable=False),
    Column("level", String, nullable=False),
    Column("since", Float),
    Column("life", String),
    Column("evidence", JSON, nullable=False),
    Column("newest", Boolean, nullable=False),  # of its (target, check, subject): what status asks for at every look
    Index("ix_verdicts_target_check_subject_at", "target", "check", "subject", "at"),
    Index("ix_verdicts_newest", "target", "check", "subject", unique=True, sqlite_where=text("newest IS 1")),
)
