"""Tables of history and baselines. One MetaData for the whole database; `alerts.schema` adds its tables to it.

Times are Unix seconds (REAL). JSON columns hold what is read back whole and never searched.
"""

from __future__ import annotations

from sqlalchemy import JSON, Boolean, Column, Float, ForeignKey, Index, Integer, MetaData, String, Table

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
    Column("outcome", String, nullable=False),  # the worst of its samples; retention keeps failures longer
    Column("identity", JSON, nullable=False),
    Column("provenance", JSON, nullable=False),
    Column("output", JSON),  # summary without golden values
    Column("generation", String),
    Column("workers_alive", Integer),
    Column("worker_cpu", Float),
    Column("facts", JSON, nullable=False),
    Column("any_good", Boolean, nullable=False),  # whether one of its samples at least is good
    Index("ix_bursts_target_canary_at", "target", "canary", "at"),
    Index("ix_bursts_target_canary_any_good_at", "target", "canary", "any_good", "at"),
)

samples = Table(
    "samples",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("burst_id", ForeignKey("bursts.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("at", Float, nullable=False),
    Column("outcome", String, nullable=False),
    Column("latency_s", Float),
    Column("first_byte_s", Float),
    Column("connect_s", Float),
    Column("control_s", Float),
    Column("life", String),
    Column("tainted", Boolean, nullable=False),
    Column("detail", String, nullable=False),
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
    Index("ix_memory_samples_target_life_at", "target", "life", "at"),
    Index("ix_memory_samples_target_slot", "target", "slot"),  # ends in the id, as every index of SQLite
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
    Index("ix_baselines_target_canary_taken_at", "target", "canary", "taken_at"),
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
    Index("ix_promotions_target_canary_at", "target", "canary", "at"),
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
    Index("ix_verdicts_target_check_subject_at", "target", "check", "subject", "at"),
)
