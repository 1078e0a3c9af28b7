"""The daemon's own first baseline: once, from thirty good bursts, and never over a person's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from builders import GOLDEN, NOW, make_baseline, make_burst, make_target

from baselines import baseline_store, burst_store
from baselines.baseline import Baseline
from baselines.database import Database
from probes.messages import Burst, Identity, Outcome
from watchdog.provisional import BURSTS, Provisional


class Watched:
    """Stores each burst as the pipeline does, then lets the daemon consider it."""

    def __init__(self, database: Database, *, now: Callable[[], float] = lambda: NOW, **about: object) -> None:
        self.database = database
        self.provisional = Provisional(database, {"chat": make_target(database, **about)}, now=now)
        self.count = 0

    def take(self, *outcomes: Outcome, **about: object) -> Baseline | None:
        """One burst a minute; the active baseline afterwards."""
        self.count += 1
        burst = make_burst(*outcomes, **{"at": NOW + 60 * self.count, "output": GOLDEN, **about})
        with self.database.write() as connection:
            burst_store.add_burst(connection, burst)
        self.provisional.consider(burst)
        return self.active()

    def active(self) -> Baseline | None:
        with self.database.read() as connection:
            return baseline_store.active_baseline(connection, "chat", "default")

    def stored(self) -> int:
        with self.database.read() as connection:
            return len(baseline_store.list_baselines(connection, "chat"))


@pytest.fixture
def watched(database: Database) -> Watched:
    return Watched(database)


def test_it_is_taken_with_the_thirtieth_good_burst(watched: Watched) -> None:
    """Marked provisional, promoted by the daemon, with the golden values that the store does not keep."""
    assert [watched.take() for _ in range(BURSTS - 1)] == [None] * (BURSTS - 1)
    baseline = watched.take()
    assert baseline is not None
    assert (baseline.provisional, len(baseline.bursts), baseline.samples) == (True, BURSTS, 5 * BURSTS)
    assert baseline.golden == GOLDEN
    with watched.database.read() as connection:
        (promotion,) = baseline_store.promotions(connection, "chat", "default")
    assert (promotion.by, promotion.why) == ("watchdog", "the first baseline, taken by the daemon")


def test_it_is_never_taken_again(watched: Watched) -> None:
    """However long it runs, after a restart too, and after it got slower."""
    for _ in range(BURSTS):
        first = watched.take()
    again = Watched(watched.database)
    again.count = watched.count
    for each in (watched, again):
        for _ in range(BURSTS + 5):
            assert each.take(latency_s=0.5) == first
    assert watched.stored() == 1


def test_a_persons_baseline_is_never_replaced(watched: Watched) -> None:
    """Only `watchdog baseline` replaces a baseline; one that was only stored, and refused, does not count."""
    with watched.database.write() as connection:
        refused = baseline_store.save_baseline(connection, make_baseline(label="refused"))
        taken = baseline_store.save_baseline(connection, make_baseline(label="by hand"))
        baseline_store.promote(connection, taken, at=NOW, by="ana", why="deploy")
    for _ in range(BURSTS + 1):
        assert watched.take() == replace(taken, since=NOW)
    assert watched.stored() == 2
    assert refused.id != taken.id


def test_a_person_who_is_quicker_by_a_moment_wins(database: Database) -> None:
    """Promoted between the daemon's look and its writing: theirs stands."""

    def promote_meanwhile() -> float:
        with database.write() as connection:
            taken = baseline_store.save_baseline(connection, make_baseline(label="by hand"))
            baseline_store.promote(connection, taken, at=NOW, by="ana", why="deploy")
        return NOW

    watched = Watched(database, now=promote_meanwhile)
    for _ in range(BURSTS):
        active = watched.take()
    assert active is not None
    assert (active.label, active.provisional) == ("by hand", False)
    assert watched.stored() == 1


@pytest.mark.parametrize(
    ("spoil", "outcomes"),
    [
        ({}, (Outcome.GOOD, Outcome.TIMEOUT)),
        ({}, (Outcome.OVERLOADED_503,)),
        ({"identity": Identity(input_hash="other")}, ()),
        ({"provenance": {"model_version": "v2"}}, ()),
        ({"output": replace(GOLDEN, shape=(1, 4))}, ()),
    ],
    ids=["a time-out", "busy", "another input", "another version", "another shape"],
)
def test_one_burst_that_is_not_alike_starts_the_thirty_again(
    watched: Watched, spoil: dict[str, object], outcomes: tuple[Outcome, ...]
) -> None:
    """Nothing is normal yet: it waits for thirty in a row."""
    usual = {"provenance": {"model_version": "v1"}}
    for _ in range(BURSTS - 1):
        assert watched.take(**usual) is None
    assert watched.take(*outcomes, **usual | spoil) is None
    for _ in range(BURSTS - 1):
        assert watched.take(**usual) is None
    assert watched.take(**usual) is not None


def test_it_can_be_switched_off(database: Database) -> None:
    """`auto_baseline = false`: UNKNOWN until a person takes one."""
    watched = Watched(database, auto_baseline=False)
    assert [watched.take() for _ in range(BURSTS + 5)] == [None] * (BURSTS + 5)


def test_tainted_samples_are_left_out_and_count_against_it(watched: Watched) -> None:
    """Bursts in which the watchdog itself was late say nothing: too few samples are no baseline."""

    def tainted(burst: Burst) -> Burst:
        return replace(burst, samples=tuple(replace(s, tainted=True) for s in burst.samples))

    for number in range(BURSTS):
        burst = tainted(make_burst(at=NOW + number))
        with watched.database.write() as connection:
            burst_store.add_burst(connection, burst)
        watched.provisional.consider(burst)
    assert watched.active() is None
    for _ in range(4):
        baseline = watched.take()
    assert baseline is not None
    assert baseline.samples == 20
