"""A database that is locked by somebody else, or cannot grow: probes go on, what is measured waits, nothing is lost."""

from __future__ import annotations

import itertools
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from daemon_stage import Webhook, wait_until
from fault_stage import FaultStage

pytestmark = pytest.mark.slow

TOY = "target = 'toy'"
BURST = 3
STORED = f"select sum(n.value) from rollups, json_each(rollups.requests) as n where {TOY}"  # requests
HOLE_S = 4.0  # at intervals of a quarter of a second; a pause of the machine leaves less of one

HOLD_THE_LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=20)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """Another process holds the write lock while the block runs."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD_THE_LOCK, database], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        yield


@contextmanager
def no_file_may_grow(stage: FaultStage, daemon: subprocess.Popen[bytes]) -> Iterator[None]:
    """What the kernel says of a full disk, for one process: the `-wal` file is as long as it may get."""
    wal = stage.database.with_name("watchdog.db-wal")
    unlimited = resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (wal.stat().st_size, unlimited[1]))
    yield
    resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, unlimited)


@contextmanager
def full(folder: Path) -> Iterator[None]:
    """No byte is left on the folder's file system."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass
    yield
    filler.unlink()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[FaultStage]:
    """Database, log and all on a file system of 24 MB."""
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=24m", "watchdog-test", tmp_path], check=False, capture_output=True
        ).returncode
    )
    if not mounted:  # in CI, too: a file size limit, which needs no rights, tests nearly the same there
        pytest.skip("mounting a small file system needs root")
    stage = FaultStage(tmp_path)
    yield stage
    stage.close()
    subprocess.run(["umount", "--lazy", tmp_path], check=True)


def start(stage: FaultStage, webhook: Webhook) -> tuple[int, subprocess.Popen[bytes]]:
    """A daemon that has stored a few bursts; the server's port."""
    port = stage.start_server()
    stage.write_config(stage.target(port), stage.beats(), webhook=webhook)
    daemon = stage.start_daemon()
    stage.wait_for_bursts(5, TOY)
    return port, daemon


def asked(stage: FaultStage) -> float:
    """Requests to the target so far."""
    return stage.value("watchdog_canary_requests_total", target="toy")


def all_are_stored(stage: FaultStage) -> bool:
    """As many as were asked, in a moment between two bursts: a later one cannot stand in for one that was lost."""
    stage.rest()  # else the pause of `asked` would come between the two counts
    before = stage.rows(STORED)
    return [(asked(stage),)] == before == stage.rows(STORED)


def assert_waits(stage: FaultStage, words: str) -> None:
    """It is said in health, metric and log; probes go on; results wait."""

    def said() -> bool:
        health = stage.health()
        return health["status"] == 503 and words in str(health["problems"])

    wait_until(said, f"/healthz says: {words}")
    before = asked(stage)
    wait_until(lambda: asked(stage) >= before + 4 * BURST, "probes go on")
    assert stage.value("watchdog_results_queued") > 0
    assert stage.value("watchdog_internal_errors_total", where="database") >= 1


def assert_nothing_lost(stage: FaultStage, daemon: subprocess.Popen[bytes]) -> None:
    """Every request that was counted is stored, once, in order; and all is well again."""
    wait_until(lambda: stage.health()["alive"], "/healthz is well again")
    wait_until(lambda: all_are_stored(stage), "as many are stored as were asked")
    assert stage.value("watchdog_internal_errors_total", where="results_dropped") == 0
    times = [at for (at,) in stage.rows(f"select at from bursts where {TOY} order by id")]
    assert times == sorted(set(times))
    gaps = [later - at for at, later in itertools.pairwise(times)]
    assert max(gaps) < HOLE_S
    log = stage.log_of(daemon)
    assert "the database cannot be written, results wait in memory" in log
    assert "the database can be written again" in log


def test_lock_of_another_process_delays_and_loses_nothing(stage: FaultStage, webhook: Webhook) -> None:
    """Longer than the busy time-out; an incident that begins meanwhile is told once it can be stored."""
    port, daemon = start(stage, webhook)
    with stage.keeping_time():
        with locked(stage.database):
            assert_waits(stage, "the database cannot be written, results wait in memory: database is locked")
        assert_nothing_lost(stage, daemon)
    with locked(stage.database):
        stage.break_server(port, "hang")
        wait_until(lambda: stage.value("watchdog_canary_requests_total", outcome="timeout") >= 4, "it hangs")
        assert webhook.attempts == []
    wait_until(lambda: webhook.taken("firing"), "it is told")
    assert len(webhook.taken("firing")) == 1


def test_file_that_cannot_grow_delays_and_loses_nothing(stage: FaultStage, webhook: Webhook) -> None:
    """The kernel refuses each write beyond a size, as it does on a full disk."""
    _, daemon = start(stage, webhook)
    with stage.keeping_time():
        with no_file_may_grow(stage, daemon):
            assert_waits(stage, "the database cannot be written, results wait in memory: disk I/O error")
        assert_nothing_lost(stage, daemon)
    assert stage.rows("pragma integrity_check") == [("ok",)]


def test_full_disk_delays_and_loses_nothing(small_disk: FaultStage, webhook: Webhook) -> None:
    """Not a byte is left, for the log neither, which is then the one thing that is lost."""
    stage = small_disk
    _, daemon = start(stage, webhook)
    with stage.keeping_time():
        with full(stage.folder):
            assert_waits(stage, "the database cannot be written, results wait in memory: database or disk is full")
        wait_until(lambda: stage.health()["alive"], "/healthz is well again")
        wait_until(lambda: all_are_stored(stage), "as many are stored as were asked")
    assert stage.rows("pragma integrity_check") == [("ok",)]
    assert stage.end(daemon) == 0


def test_log_that_cannot_be_written_costs_the_log_alone(stage: FaultStage, webhook: Webhook) -> None:
    """Its disk is full, or whoever read it is gone: each line is lost, and the daemon goes on."""
    port = stage.start_server()
    stage.write_config(stage.target(port), webhook=webhook)
    with Path("/dev/full").open("wb") as full_disk:
        daemon = subprocess.Popen(stage.argv("run"), stdout=full_disk, stderr=full_disk)
    stage.children.append(daemon)
    wait_until(lambda: stage.get("/healthz"), "the daemon answers")
    stage.wait_for_bursts(3)
    with locked(stage.database):
        wait_until(lambda: not stage.health()["alive"], "it is said elsewhere", timeout_s=60)
    stage.break_server(port, "hang")
    wait_until(lambda: webhook.taken("firing"), "people are told")
    assert stage.health()["alive"]
    assert stage.end(daemon) == 0


def test_daemon_that_cannot_store_ends_all_the_same(stage: FaultStage, webhook: Webhook) -> None:
    """SIGTERM while the database is locked: it ends within its deadline, with exit code 0, and says what it leaves."""
    _, daemon = start(stage, webhook)
    with locked(stage.database):
        wait_until(lambda: stage.value("watchdog_results_queued") > 0, "results wait")
        assert stage.end(daemon) == 0
    assert stage.rows("pragma integrity_check") == [("ok",)]
