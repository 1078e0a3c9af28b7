"""A row a burst against a row a request, which is how it was kept first: bytes, and the time to write and to read.

Both in one run on two new files, turn by turn, with the same bursts, so that a busy machine slows both alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Connection,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    desc,
    insert,
    select,
)
from sqlalchemy.exc import OperationalError

from baselines import burst_store
from baselines.database import Database, open_database
from probes.messages import Burst, Identity, Outcome, Output, Sample
from watchdog.migrations.migrate import bring_up_to_date

WINDOW = 59  # bursts that a latency judgement reads
READS = 40

old = MetaData()
old_bursts = Table(
    "bursts",
    old,
    Column("id", Integer, primary_key=True),
    *(Column(name, String, nullable=False) for name in ("target", "canary")),
    Column("at", Float, nullable=False),
    Column("outcome", String, nullable=False),
    *(Column(name, JSON) for name in ("identity", "provenance", "output")),
    Column("generation", String),
    Column("workers_alive", Integer),
    Column("worker_cpu", Float),
    Column("facts", JSON, nullable=False),
    Column("any_good", Boolean, nullable=False),
    Index("ix_bursts_target_canary_at", "target", "canary", "at"),
    Index("ix_bursts_target_canary_any_good_at", "target", "canary", "any_good", "at"),
)
old_samples = Table(
    "samples",
    old,
    Column("id", Integer, primary_key=True),
    Column("burst_id", ForeignKey("bursts.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("at", Float, nullable=False),
    Column("outcome", String, nullable=False),
    *(Column(name, Float) for name in ("latency_s", "first_byte_s", "connect_s", "control_s")),
    Column("life", String),
    Column("tainted", Boolean, nullable=False),
    Column("detail", String, nullable=False),
)
_SAMPLE_FIELDS = tuple(f.name for f in fields(Sample))


def add_old(connection: Connection, burst: Burst) -> None:
    failed = next((s.outcome for s in burst.samples if s.outcome is not Outcome.GOOD), Outcome.GOOD)
    values = {name: getattr(burst, name) for name in ("target", "canary", "at", "generation")}
    result = connection.execute(
        insert(old_bursts).values(
            **values,
            outcome=failed,
            identity=asdict(burst.identity),
            provenance=dict(burst.provenance),
            output=asdict(burst.output) if burst.output else None,
            workers_alive=burst.workers_alive,
            worker_cpu=burst.worker_cpu,
            facts=dict(burst.facts),
            any_good=any(s.outcome is Outcome.GOOD for s in burst.samples),
        )
    )
    key = result.inserted_primary_key
    assert key is not None
    connection.execute(insert(old_samples), [{"burst_id": key[0], **asdict(s)} for s in burst.samples])


def read_old(connection: Connection, target: str) -> list[Burst]:
    b, s = old_bursts, old_samples
    wanted = select(b).where(b.c.target == target, b.c.canary == "default", b.c.at >= 0.0)
    rows = connection.execute(wanted.order_by(desc(b.c.at), desc(b.c.id)).limit(WINDOW)).all()
    samples: dict[int, list[Sample]] = {row.id: [] for row in rows}
    for row in connection.execute(select(s).where(s.c.burst_id.in_(list(samples))).order_by(s.c.id)):
        values = {name: getattr(row, name) for name in _SAMPLE_FIELDS}
        samples[row.burst_id].append(Sample(**(values | {"outcome": Outcome(row.outcome)})))
    return [_old_burst(row, tuple(samples[row.id])) for row in reversed(rows)]


def _old_burst(row: Any, samples: tuple[Sample, ...]) -> Burst:
    names = ("target", "canary", "at", "provenance", "generation", "workers_alive", "worker_cpu", "facts")
    output = Output(**row.output | {name: tuple(row.output[name]) for name in ("shape", "values", "top_k")})
    return Burst(
        **{name: getattr(row, name) for name in names},
        samples=samples,
        identity=Identity(**row.identity),
        output=output,
    )


def compare(folder: Path, bursts: Sequence[Burst]) -> dict[str, dict[str, float]]:
    """By layout: bytes a burst with its indices, and the median CPU microseconds to store one and to read a window.

    The new layout's row also pays for its hour: the roll-up is written in the same transaction.
    """
    was, now = (open_database(f"sqlite:///{folder}/{name}.db") for name in ("request", "burst"))
    with was.write() as connection:
        old.create_all(connection)
    bring_up_to_date(now)
    layouts = {
        "a row a request": (was, add_old, lambda c: read_old(c, bursts[0].target)),
        "a row a burst": (
            now,
            burst_store.add_burst,
            lambda c: burst_store.bursts_since(c, bursts[0].target, "default", limit=WINDOW),
        ),
    }
    writes: dict[str, list[float]] = {name: [] for name in layouts}
    for burst in bursts:
        for name, (database, add, _) in layouts.items():
            writes[name].append(_timed(partial(_write, database, add, burst)))
    reads: dict[str, list[float]] = {name: [] for name in layouts}
    for _ in range(READS):
        for name, (database, _, read) in layouts.items():
            with database.read() as connection:
                reads[name].append(_timed(partial(read, connection)))
    figures = {
        name: {
            "bytes_a_burst": _payload_bytes(database) / len(bursts),
            "write_us": median(writes[name]) * 1e6,
            "read_window_us": median(reads[name]) * 1e6,
        }
        for name, (database, _, _) in layouts.items()
    }
    for database in (was, now):
        database.close()
    return figures


def _write(database: Database, add: Callable[[Connection, Burst], None], burst: Burst) -> None:
    with database.write() as connection:
        add(connection, burst)


def _timed(act: Callable[[], object]) -> float:
    began = time.thread_time()
    act()
    return time.thread_time() - began


def _payload_bytes(database: Database) -> float:
    """Of the history's tables and indices, without empty space in pages; without dbstat, the whole file."""
    tables = "('bursts', 'samples', 'rollups')"
    asked = f"SELECT sum(payload) FROM dbstat WHERE name IN (SELECT name FROM sqlite_master WHERE tbl_name IN {tables})"
    with database.read() as connection:
        try:
            return float(connection.exec_driver_sql(asked).scalar_one())
        except OperationalError:
            pages, page = (connection.exec_driver_sql(f"PRAGMA page_{x}").scalar_one() for x in ("count", "size"))
            return float(pages * page)
