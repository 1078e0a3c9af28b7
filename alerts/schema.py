"""Tables of incidents, deliveries, recycles and silences, in the same database as the history."""

from __future__ import annotations

from sqlalchemy import JSON, Column, Float, ForeignKey, Index, Integer, String, Table

from baselines.schema import metadata

incidents = Table(
    "incidents",
    metadata,
    Column("id", String, primary_key=True),
    Column("target", String, nullable=False),
    Column("check", String, nullable=False),
    Column("subject", String, nullable=False),
    Column("state", String, nullable=False),
    Column("status", String, nullable=False),
    Column("reason", String, nullable=False),
    Column("cause", String, nullable=False),
    Column("level", String, nullable=False),
    Column("since", Float, nullable=False),
    Column("opened_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Column("fired_at", Float),
    Column("told_at", Float),
    Column("resolved_at", Float),
    Column("strikes", JSON, nullable=False),
    Column("blamed", Integer, nullable=False),
    Column("good_in_a_row", Integer, nullable=False),
    Column("flaps", Integer, nullable=False),
    Column("life", String),
    Column("acked_by", String),
    Column("evidence", JSON, nullable=False),
    Index("ix_incidents_target_check_subject_opened_at", "target", "check", "subject", "opened_at"),
    Index("ix_incidents_state", "state"),
)

# The outbox. A row is claimed with a lease and marked sent after the receiver took it: at least once.
deliveries = Table(
    "deliveries",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("key", String, nullable=False, unique=True),  # the idempotency key, the same on every attempt
    Column("incident_id", String),
    Column("notifier", String, nullable=False),
    Column("event", String, nullable=False),
    Column("payload", JSON, nullable=False),
    Column("state", String, nullable=False),  # pending, sent, dead
    Column("attempts", Integer, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("due_at", Float, nullable=False),
    Column("lease_until", Float),
    Column("sent_at", Float),
    Column("last_error", String),
    Index("ix_deliveries_notifier_state_due_at", "notifier", "state", "due_at"),
    Index("ix_deliveries_incident_id", "incident_id"),
)

# One row per episode, written before each step; what a crash leaves here is reconciled, never repeated.
recycles = Table(
    "recycles",
    metadata,
    Column("id", String, primary_key=True),
    Column("target", String, nullable=False),
    Column("trigger", String, nullable=False),  # incident, age, hand
    Column("reason", String, nullable=False),  # the verdict's reason, max_age, max_requests or the person's words
    Column("incident_id", ForeignKey("incidents.id")),
    Column("state", String, nullable=False),
    Column("outcome", String),  # why it ended; None while under way
    Column("detail", String, nullable=False),
    Column("requested_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Column("acted_at", Float),
    Column("ended_at", Float),
    Column("lives_before", JSON, nullable=False),
    Column("steps", JSON, nullable=False),  # [{"at", "state", "detail"}], oldest first
    Column("evidence", JSON, nullable=False),  # before and after
    Index("ix_recycles_target_requested_at", "target", "requested_at"),
)

# A person closed the breaker: ineffective recycles before this moment no longer count.
breaker_resets = Table(
    "breaker_resets",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("target", String, nullable=False, index=True),
    Column("at", Float, nullable=False),
    Column("by", String, nullable=False),
)

silences = Table(
    "silences",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("target", String, nullable=False),  # "*" for all
    Column("check", String, nullable=False),  # "*" for all
    Column("from_at", Float, nullable=False),
    Column("until_at", Float, nullable=False),
    Column("by", String, nullable=False),
    Column("why", String, nullable=False),
)
