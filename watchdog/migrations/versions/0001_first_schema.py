"""The first schema: history, baselines, incidents, deliveries, recycles."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "baselines",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("canary", sa.String(), nullable=False),
        sa.Column("taken_at", sa.Float(), nullable=False),
        sa.Column("label", sa.String(), nullable=True),
        sa.Column("provisional", sa.Boolean(), nullable=False),
        sa.Column("identity", sa.JSON(), nullable=False),
        sa.Column("provenance", sa.JSON(), nullable=False),
        sa.Column("golden", sa.JSON(), nullable=True),
        sa.Column("bursts", sa.JSON(), nullable=False),
        sa.Column("controls", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_baselines_target_canary", "baselines", ["target", "canary"], unique=False)
    op.create_table(
        "breaker_resets",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("by", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_breaker_resets_target"), "breaker_resets", ["target"], unique=False)
    op.create_table(
        "bursts",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("canary", sa.String(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("samples", sa.JSON(), nullable=False),
        sa.Column("identity", sa.JSON(), nullable=False),
        sa.Column("output", sa.JSON(), nullable=True),
        sa.Column("provenance", sa.JSON(), nullable=False),
        sa.Column("generation", sa.String(), nullable=True),
        sa.Column("workers_alive", sa.Integer(), nullable=True),
        sa.Column("worker_cpu", sa.Float(), nullable=True),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.Column("any_good", sa.Boolean(), nullable=False),
        sa.Column("all_good", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_bursts_all_good_at", "bursts", ["all_good", "at"], unique=False)
    op.create_index("ix_bursts_target_canary_at", "bursts", ["target", "canary", "at"], unique=False)
    op.create_index(
        "ix_bursts_target_canary_any_good_at", "bursts", ["target", "canary", "any_good", "at"], unique=False
    )
    op.create_table(
        "deliveries",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("incident_id", sa.String(), nullable=True),
        sa.Column("notifier", sa.String(), nullable=False),
        sa.Column("event", sa.String(), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("due_at", sa.Float(), nullable=False),
        sa.Column("lease_until", sa.Float(), nullable=True),
        sa.Column("sent_at", sa.Float(), nullable=True),
        sa.Column("last_error", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("key"),
    )
    op.create_index("ix_deliveries_notifier_state_due_at", "deliveries", ["notifier", "state", "due_at"], unique=False)
    op.create_index("ix_deliveries_incident_id", "deliveries", ["incident_id"], unique=False)
    op.create_table(
        "gpu_devices",
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("uuid", sa.String(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("last", sa.JSON(), nullable=False),
        sa.Column("normal", sa.JSON(), nullable=False),
        sa.Column("moved_at", sa.JSON(), nullable=False),
        sa.Column("began", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("target", "uuid"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "gpu_xids",
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("xid", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("at", "device", "xid"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "incidents",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("check", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("cause", sa.String(), nullable=False),
        sa.Column("level", sa.String(), nullable=False),
        sa.Column("since", sa.Float(), nullable=False),
        sa.Column("opened_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.Column("fired_at", sa.Float(), nullable=True),
        sa.Column("told_at", sa.Float(), nullable=True),
        sa.Column("resolved_at", sa.Float(), nullable=True),
        sa.Column("strikes", sa.JSON(), nullable=False),
        sa.Column("blamed", sa.Integer(), nullable=False),
        sa.Column("good_in_a_row", sa.Integer(), nullable=False),
        sa.Column("flaps", sa.Integer(), nullable=False),
        sa.Column("life", sa.String(), nullable=True),
        sa.Column("acked_by", sa.String(), nullable=True),
        sa.Column("evidence", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_incidents_state", "incidents", ["state"], unique=False)
    op.create_index(
        "ix_incidents_target_check_subject_opened_at",
        "incidents",
        ["target", "check", "subject", "opened_at"],
        unique=False,
    )
    op.create_table(
        "lives",
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("life", sa.String(), nullable=False),
        sa.Column("slot", sa.Integer(), nullable=False),
        sa.Column("first_seen", sa.Float(), nullable=False),
        sa.Column("last_seen", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("target", "life"),
    )
    op.create_table(
        "memory_samples",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("slot", sa.Integer(), nullable=False),
        sa.Column("life", sa.String(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("host_anon_bytes", sa.Integer(), nullable=True),
        sa.Column("capacity_bytes", sa.Integer(), nullable=True),
        sa.Column("gpu_used_bytes", sa.Integer(), nullable=True),
        sa.Column("gpu_capacity_bytes", sa.Integer(), nullable=True),
        sa.Column("device_used_bytes", sa.Integer(), nullable=True),
        sa.Column("allocated_bytes", sa.Integer(), nullable=True),
        sa.Column("reserved_bytes", sa.Integer(), nullable=True),
        sa.Column("uptime_s", sa.Float(), nullable=True),
        sa.Column("load", sa.Float(), nullable=True),
        sa.Column("cgroup_bytes", sa.Integer(), nullable=True),
        sa.Column("fds", sa.Integer(), nullable=True),
        sa.Column("fd_limit", sa.Integer(), nullable=True),
        sa.Column("threads", sa.Integer(), nullable=True),
        sa.Column("version", sa.String(), nullable=True),
        sa.Column("inactive_split_bytes", sa.Integer(), nullable=True),
        sa.Column("private_pool_bytes", sa.Integer(), nullable=True),
        sa.Column("alloc_retries", sa.Integer(), nullable=True),
        sa.Column("ooms", sa.Integer(), nullable=True),
        sa.Column("requests", sa.Integer(), nullable=True),
        sa.Column("in_flight", sa.Integer(), nullable=True),
        sa.Column("shapes", sa.Integer(), nullable=True),
        sa.Column("trimmed_bytes", sa.Integer(), nullable=True),
        sa.Column("agent", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_memory_samples_at", "memory_samples", ["at"], unique=False)
    op.create_index("ix_memory_samples_target_life_at", "memory_samples", ["target", "life", "at"], unique=False)
    op.create_index("ix_memory_samples_target_slot", "memory_samples", ["target", "slot"], unique=False)
    op.create_table(
        "memory_slopes",
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("figure", sa.String(), nullable=False),
        sa.Column("scale", sa.Integer(), nullable=False),
        sa.Column("slopes", sa.JSON(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("target", "version", "figure", "scale"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "memory_rollups",
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("hour", sa.Integer(), nullable=False),
        sa.Column("slot", sa.Integer(), nullable=False),
        sa.Column("life", sa.String(), nullable=False),
        sa.Column("host_low", sa.Integer(), nullable=True),
        sa.Column("host_high", sa.Integer(), nullable=True),
        sa.Column("host_last", sa.Integer(), nullable=True),
        sa.Column("gpu_low", sa.Integer(), nullable=True),
        sa.Column("gpu_high", sa.Integer(), nullable=True),
        sa.Column("gpu_last", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("target", "hour", "slot", "life"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_memory_rollups_hour", "memory_rollups", ["hour"], unique=False)
    op.create_table(
        "rollups",
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("canary", sa.String(), nullable=False),
        sa.Column("hour", sa.Integer(), nullable=False),
        sa.Column("requests", sa.JSON(), nullable=False),
        sa.Column("latencies", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("target", "canary", "hour"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_rollups_hour", "rollups", ["hour"], unique=False)
    op.create_table(
        "silences",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("check", sa.String(), nullable=False),
        sa.Column("from_at", sa.Float(), nullable=False),
        sa.Column("until_at", sa.Float(), nullable=False),
        sa.Column("by", sa.String(), nullable=False),
        sa.Column("why", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "snapshots",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("canary", sa.String(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("steps", sa.Integer(), nullable=False),
        sa.Column("step_s", sa.Float(), nullable=False),
        sa.Column("ops", sa.JSON(), nullable=False),
        sa.Column("environment", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_snapshots_target_canary_at", "snapshots", ["target", "canary", "at"], unique=False)
    op.create_table(
        "verdicts",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("check", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("cause", sa.String(), nullable=False),
        sa.Column("level", sa.String(), nullable=False),
        sa.Column("since", sa.Float(), nullable=True),
        sa.Column("life", sa.String(), nullable=True),
        sa.Column("evidence", sa.JSON(), nullable=False),
        sa.Column("newest", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "ix_verdicts_newest",
        "verdicts",
        ["target", "check", "subject"],
        unique=True,
        sqlite_where=sa.text("newest IS 1"),
    )
    op.create_index(
        "ix_verdicts_target_check_subject_at", "verdicts", ["target", "check", "subject", "at"], unique=False
    )
    op.create_table(
        "promotions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("canary", sa.String(), nullable=False),
        sa.Column("baseline_id", sa.Integer(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("by", sa.String(), nullable=False),
        sa.Column("why", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["baseline_id"], ["baselines.id"], name=op.f("fk_promotions_baseline_id")),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_promotions_target_canary", "promotions", ["target", "canary"], unique=False)
    op.create_table(
        "recycles",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("trigger", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("incident_id", sa.String(), nullable=True),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("outcome", sa.String(), nullable=True),
        sa.Column("detail", sa.String(), nullable=False),
        sa.Column("requested_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.Column("acted_at", sa.Float(), nullable=True),
        sa.Column("ended_at", sa.Float(), nullable=True),
        sa.Column("lives_before", sa.JSON(), nullable=False),
        sa.Column("steps", sa.JSON(), nullable=False),
        sa.Column("evidence", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["incident_id"], ["incidents.id"], name=op.f("fk_recycles_incident_id")),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_recycles_target_requested_at", "recycles", ["target", "requested_at"], unique=False)
