"""The reload thread: one configuration after another, whatever is wrong with the file, the building or the database."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from builders import NOW, SilentCanary, wait_until
from prometheus_client import generate_latest
from sqlalchemy.exc import OperationalError

from alerts.notifiers.transport import SharedTransport
from baselines.database import Database
from watchdog.bootstrap import Shared, build_metrics
from watchdog.config import Config, ConfigError, parse_config
from watchdog.judge_thread import JudgeThread
from watchdog.rebuild import build_watch
from watchdog.reload import Reload
from watchdog.watch import Change, Watch

LOCKED = OperationalError("BEGIN IMMEDIATE", None, Exception("database is locked"))


def make_config(*names: str, **more: Any) -> Config:
    canary = [{"url": "http://127.0.0.1:1/"}]
    return parse_config({"target": [{"name": name, "device": "cpu", "canary": canary} for name in names], **more})


@dataclass
class Bench:
    """A reload thread on a real judge thread; the file is what `file` says."""

    database: Database
    file: Config | Exception = field(default_factory=lambda: make_config("a"))
    adopted: list[Change] = field(default_factory=list)
    fails: list[Exception] = field(default_factory=list)  # what the next exchanges raise
    errors: list[str] = field(default_factory=list)
    unsettled: int = 0
    settled: int = 0

    def __post_init__(self) -> None:
        self.transport = SharedTransport()
        self.shared = Shared(database=self.database)
        config = make_config("a")
        self.metrics = build_metrics(config)
        self.judge = JudgeThread(on_error=self.errors.append)
        self.reload = Reload(
            build_watch(config, self.shared, self.transport),
            self.metrics,
            load=self.load,
            build=lambda config, before: build_watch(config, self.shared, self.transport, before=before),
            enqueue=self.judge.put,
            waiting=self.judge.waiting,
            adopt=self.adopt,
            settle=self.settle,
            now=lambda: NOW,
        )
        self.judge.start()
        self.reload.start()

    def load(self) -> Config:
        if isinstance(self.file, Exception):
            raise self.file
        return self.file

    def adopt(self, _before: Watch, after: Watch, change: Change) -> None:
        assert threading.current_thread().name == "judge"
        if self.fails:
            raise self.fails.pop(0)
        self.watch = after
        self.adopted.append(change)

    def settle(self) -> bool:
        self.settled += 1
        self.unsettled -= 1
        return self.unsettled > 0

    def take_up(self, file: Config | Exception) -> None:
        self.file = file
        self.reload.ask()

    def metric(self, name: str) -> float:
        lines = generate_latest(self.metrics.registry).decode().splitlines()
        return float(next(line.split()[1] for line in lines if line.startswith(f"watchdog_{name} ")))

    def close(self) -> None:
        self.reload.stop(5)
        self.judge.stop(5)
        self.transport.close()


@pytest.fixture
def bench(database: Database) -> Iterator[Bench]:
    bench = Bench(database)
    yield bench
    bench.close()


def test_at_the_start_the_configuration_in_use_is_the_one_that_was_read(bench: Bench) -> None:
    """Both metrics say so before anybody asked."""
    assert bench.metric("config_last_reload_successful") == 1
    assert bench.metric("config_last_reload_success_timestamp_seconds") == NOW
    assert bench.reload.note() is None


def test_each_configuration_is_compared_with_the_one_before(bench: Bench) -> None:
    """Not with the first."""
    bench.take_up(make_config("a", "b"))
    wait_until(lambda: bench.adopted == [Change(targets_new=("b",))], "the first")
    bench.take_up(make_config("b", "c"))
    wait_until(lambda: bench.adopted[1:] == [Change(targets_new=("c",), targets_gone=("a",))], "the second")


def test_change_that_is_no_targets_and_no_notifiers_is_taken_up_too(bench: Bench) -> None:
    """A token, a retention, a log level."""
    bench.take_up(make_config("a", log={"level": "error"}))
    wait_until(lambda: bench.adopted == [Change()], "taken up")


def test_the_same_again_exchanges_nothing(bench: Bench) -> None:
    """And is a success."""
    bench.take_up(ConfigError(["x: is wrong"]))
    wait_until(bench.reload.note, "refused")
    bench.take_up(make_config("a"))
    wait_until(lambda: bench.metric("config_last_reload_successful") == 1, "read")
    assert bench.adopted == []
    assert bench.reload.note() is None


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (ConfigError(["target[a].x: unknown key", "y: is needed"]), "target[a].x: unknown key; y: is needed"),
        (ConfigError([f"k{i}: is wrong" for i in range(7)]), "k4: is wrong; and 2 more, see the log"),
        (RuntimeError("nobody thought of this"), "it could not be built; the log has the error"),
    ],
    ids=["two mistakes", "seven mistakes", "a fault of our own"],
)
def test_what_is_wrong_is_said_and_changes_nothing(bench: Bench, file: Exception, said: str) -> None:
    """A metric and a note; the next good file is compared with what is in use."""
    bench.take_up(file)
    note = wait_until(bench.reload.note, "a note")
    assert note.startswith("the configuration read at 2027-01-15 08:00:00 UTC was refused and the one before is in use")
    assert note.endswith(said)
    assert bench.metric("config_last_reload_successful") == 0
    bench.take_up(make_config("b"))
    wait_until(lambda: bench.adopted == [Change(targets_new=("b",), targets_gone=("a",))], "taken up")
    wait_until(lambda: bench.reload.note() is None, "and no note any more")
    assert bench.metric("config_last_reload_successful") == 1


def test_database_that_cannot_be_written_delays_it(bench: Bench) -> None:
    """The exchange waits as the results do, is said, and is done once."""
    bench.fails = [LOCKED, LOCKED]
    bench.take_up(make_config("b"))
    note = wait_until(bench.reload.note, "a note")
    assert note == "a new configuration waits until the database can be written"
    wait_until(lambda: bench.adopted, "taken up")
    wait_until(lambda: bench.reload.note() is None, "and no note any more")
    assert len(bench.adopted) == 1


def test_exchange_that_breaks_is_a_refusal(bench: Bench) -> None:
    """A fault of our own in the middle of it: said, counted, and the one before is what the next is compared with."""
    bench.fails = [RuntimeError("nobody thought of this")]
    bench.take_up(make_config("b"))
    note = wait_until(bench.reload.note, "a note")
    assert "a restart takes it up" in note
    assert bench.metric('internal_errors_total{where="reload"}') == 1
    assert bench.errors == []
    bench.take_up(make_config("c"))
    wait_until(lambda: bench.adopted == [Change(targets_new=("c",), targets_gone=("a",))], "taken up")


def test_stop_while_the_database_is_locked_ends_in_time(bench: Bench) -> None:
    """The daemon's end waits for no reload."""
    bench.fails = [LOCKED] * 1000
    bench.take_up(make_config("b"))
    wait_until(bench.reload.note, "it waits")
    bench.reload.stop(5)
    assert "reload" not in {thread.name for thread in threading.enumerate()}


def test_what_is_left_to_do_is_asked_for_until_it_is_done(bench: Bench) -> None:
    """And no longer: a thread that has nothing to do does not wake up."""
    wait_until(lambda: bench.settled == 1, "asked once at the start")
    bench.unsettled = 3
    bench.reload.ask()
    wait_until(lambda: bench.settled == 4, "three more times")
    assert not threading.Event().wait(1.5)
    assert bench.settled == 4


def test_what_is_gone_or_was_replaced_is_closed(bench: Bench) -> None:
    """Its child processes end; what was kept stays open; one that cannot be closed hinders no other."""
    bench.take_up(make_config("kept", "gone", "changed"))
    wait_until(lambda: bench.adopted, "taken up")
    closed: list[str] = []

    class Closing(SilentCanary):
        def close(self) -> None:
            closed.append(self.target)
            if self.target == "gone":
                raise OSError("it does not end")

    for name, target in bench.watch.targets.items():
        target.canaries = {"default": Closing(target=name)}
    after = make_config("kept", "changed")
    changed = after.find("changed").model_copy(update={"mode": "observe"})
    bench.take_up(after.model_copy(update={"target": [after.find("kept"), changed]}))
    wait_until(lambda: sorted(closed) == ["changed", "gone"], "both, and not the third")
    wait_until(lambda: bench.metric('internal_errors_total{where="reload"}') == 1, "one could not be closed")
