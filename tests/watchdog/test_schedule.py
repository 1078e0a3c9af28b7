"""The schedule: real threads, canaries that answer, time out, hang or break as they are told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import pytest
from builders import Clock, make_burst, wait_until
from hypothesis import given
from hypothesis import strategies as st

from baselines.database import Database
from probes.canary.burst import CanaryPlan
from probes.gpu.sample import GpuSample
from probes.messages import Burst, Identity, MemorySample, Outcome, Output
from watchdog.config import parse_config
from watchdog.policies import policies_of
from watchdog.schedule import MEMORY_THREADS, Schedule, next_due, spread
from watchdog.target import Target
from watchdog.turns import hold

INTERVAL_S = 0.05
PROBE_THREADS, SUSPECT_THREADS = 16, 4  # here
PLAN = CanaryPlan(interval_s=INTERVAL_S, timeout_s=5.0, size=10, warmup=0, max_busy=1.0)


@dataclass
class FakeCanary:
    """Answers at once with `outcome`; hangs while `hanging` is set, until `release` is; breaks while `broken` is."""

    target: str
    name: str = "default"
    plan: CanaryPlan = PLAN
    isolated: bool = False
    identity: Identity | None = None
    outcome: Outcome = Outcome.GOOD
    hanging: bool = False
    broken: bool = False
    release: threading.Event = field(default_factory=threading.Event)
    calls: list[tuple[int | None, str]] = field(default_factory=list)  # (size, pool)
    takes: Callable[[], object] = lambda: None  # what it does before it answers
    in_flight: int = 0
    most_in_flight: int = 0

    def burst(self, *, golden: Output | None = None, size: int | None = None, times: int = 1) -> Burst:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            self.calls.append((size, threading.current_thread().name.rpartition("_")[0]))
            if self.broken:
                raise RuntimeError("a fault of the canary's own")
            if self.hanging:
                self.release.wait(30)
            self.takes()
            return make_burst(self.outcome, target=self.target, canary=self.name)
        finally:
            self.in_flight -= 1

    def close(self) -> None:
        """Nothing to close."""


@dataclass
class FakeWorkers:
    """Memory as it is told, None for a fault."""

    samples: list[MemorySample] | None
    calls: int = 0

    def sample(self, now: float) -> list[MemorySample]:
        self.calls += 1
        if self.samples is None:
            raise OSError("a wedged driver")
        return self.samples


@dataclass
class Results:
    """What the schedule handed on."""

    bursts: list[Burst] = field(default_factory=list)
    memory: list[tuple[str, Sequence[MemorySample]]] = field(default_factory=list)
    gpus: list[GpuSample] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    ticks: int = 0
    busy: frozenset[str] = frozenset()
    looks: int = 0  # at what is in a recycle

    def look(self) -> frozenset[str]:
        seen = self.busy
        self.looks += 1
        return seen

    def tick(self) -> None:
        self.ticks += 1

    def of(self, target: str) -> int:
        return sum(b.target == target for b in list(self.bursts))


@dataclass
class Bench:
    """A schedule over fake canaries on real targets."""

    database: Database
    results: Results = field(default_factory=Results)
    canaries: list[FakeCanary] = field(default_factory=list)
    schedules: list[Schedule] = field(default_factory=list)
    set_by_s: float = 0.0  # how far the schedule's clock was ahead of the one that APScheduler reads
    monotonic: Callable[[], float] = time.monotonic
    ended: threading.Event = field(default_factory=threading.Event)
    targets: dict[str, Target] = field(default_factory=dict)

    def start(self, *canaries: FakeCanary, workers: FakeWorkers | None = None) -> None:
        self.watch(*canaries, workers=workers)
        schedule = Schedule(
            self.targets,
            now=lambda: time.time() + self.set_by_s,
            monotonic=self.monotonic,
            wait=lambda seconds: self.ended.wait(seconds / 50),
            busy=self.results.look,
            on_burst=self.results.bursts.append,
            on_memory=lambda target, samples: self.results.memory.append((target, samples)),
            on_gpu=self.results.gpus.append,
            on_tick=self.results.tick,
            on_retention=lambda: None,
            on_late=self.results.late.append,
            on_error=self.results.errors.append,
            threads=PROBE_THREADS,
            suspect_threads=SUSPECT_THREADS,
        )
        self.schedules.append(schedule)
        schedule.start()

    def watch(self, *canaries: FakeCanary, workers: FakeWorkers | None = None) -> None:
        """From now on these; a schedule that runs is told with `follow`. The same canary keeps its target."""
        self.canaries += canaries
        kept = {n: t for n, t in self.targets.items() if any(c is t.canaries["default"] for c in canaries)}
        self.targets.update({c.target: kept.get(c.target) or self._target(c, workers) for c in canaries})
        for name in self.targets.keys() - {c.target for c in canaries}:
            del self.targets[name]

    def _target(self, canary: FakeCanary, workers: FakeWorkers | None) -> Target:
        section = parse_config(
            {"target": [{"name": canary.target, "canary": [{"url": "http://127.0.0.1:1/"}]}]}
        ).target[0]
        return Target(
            name=canary.target,
            mode="alert",
            device="cpu",
            auto_baseline=True,
            canaries={canary.name: canary},
            expectations={},
            policies=policies_of(section),
            database=self.database,
            turns=self.database.path,
            now=time.time,
            monotonic=time.monotonic,
            sleep=time.sleep,
            workers=workers,  # type: ignore[arg-type]  # a stand-in with the one method that is asked
            memory_interval_s=INTERVAL_S,
        )

    def close(self) -> None:
        self.ended.set()
        for schedule in self.schedules:
            schedule.stop()
        for canary in self.canaries:
            canary.release.set()
        wait_until(lambda: not any(c.in_flight for c in self.canaries), "every probe has ended")


@pytest.fixture
def bench(database: Database) -> Iterator[Bench]:
    bench = Bench(database)
    yield bench
    bench.close()


# --- spread -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("intervals", "offsets"),
    [([], []), ([60], [0]), ([60, 60], [0, 30]), ([60] * 4, [0, 15, 30, 45]), ([60, 10, 30], [0, 10 / 3, 20])],
    ids=["none", "one", "two", "four", "unlike"],
)
def test_first_runs_are_spread_over_the_interval(intervals: list[float], offsets: list[float]) -> None:
    """The first starts at once, the others follow evenly, each within its own interval."""
    assert spread(intervals) == pytest.approx(offsets)


@given(st.lists(st.floats(0.1, 3600), max_size=200))
def test_spread_stays_within_each_interval(intervals: list[float]) -> None:
    """Nobody waits longer for a first answer than for a second one."""
    offsets = spread(intervals)
    assert all(0 <= offset < interval for offset, interval in zip(offsets, intervals, strict=True))


def test_equal_intervals_are_spread_evenly() -> None:
    """A hundred canaries a minute start 0.6 s apart."""
    offsets = spread([60.0] * 100)
    assert {round(b - a, 9) for a, b in pairwise(offsets)} == {0.6}


# --- probing ----------------------------------------------------------------------------------------------------------


def test_canary_runs_again_and_again_and_lateness_is_told(bench: Bench) -> None:
    """A result each interval, full bursts, and how late each run was: never negative."""
    canary = FakeCanary("well")
    bench.start(canary)
    wait_until(lambda: bench.results.of("well") >= 5, "five bursts")
    assert {size for size, _ in canary.calls} == {None}
    assert len(bench.results.late) >= 5
    assert min(bench.results.late) < INTERVAL_S
    assert all(late >= 0 for late in bench.results.late)


def test_wait_for_a_thread_counts_as_lateness(bench: Bench) -> None:
    """A run that starts intervals later, because every thread hung, was that late and not a part of an interval."""
    sick = [FakeCanary(f"sick{i}", hanging=True) for i in range(PROBE_THREADS)]
    bench.start(*sick)
    wait_until(lambda: sum(c.in_flight for c in sick) == PROBE_THREADS, "every thread hangs")
    waits = FakeCanary("waits")
    bench.watch(*sick, waits)
    bench.schedules[0].follow()
    waited_s = 8 * INTERVAL_S
    threading.Event().wait(waited_s)
    told = len(bench.results.late)
    assert waits.calls == []
    for canary in sick:
        canary.hanging = False
        canary.release.set()
    wait_until(lambda: waits.calls, "it is asked at last")
    assert max(bench.results.late[told:]) > 0.9 * waited_s


def test_canary_that_timed_out_is_a_suspect_until_it_answers(bench: Bench) -> None:
    """One request an interval from the suspects' pool; after an answer whole bursts from the common one."""
    canary = FakeCanary("sick", outcome=Outcome.TIMEOUT)
    bench.start(canary)
    wait_until(lambda: len(canary.calls) >= 4, "asked four times")
    (first_size, common), *others = canary.calls[:4]
    assert first_size is None
    assert {size for size, _ in others} == {1}
    (suspects,) = {pool for _, pool in others}
    assert suspects != common

    canary.outcome = Outcome.GOOD
    wait_until(lambda: canary.calls[-1] == (None, common), "it is trusted again")


@pytest.mark.parametrize(
    "outcome", [Outcome.REFUSED, Outcome.STATUS_500, Outcome.OVERLOADED_503, Outcome.DRIFTED], ids=str
)
def test_canary_that_fails_at_once_is_no_suspect(bench: Bench, outcome: Outcome) -> None:
    """Only a time-out holds a thread; every other failure costs nothing and is measured in full."""
    canary = FakeCanary("sick", outcome=outcome)
    bench.start(canary)
    wait_until(lambda: len(canary.calls) >= 4, "asked four times")
    assert len(set(canary.calls)) == 1


def test_canary_that_took_long_without_a_time_out_is_a_suspect_too(bench: Bench) -> None:
    """A model that hangs in loading holds its thread as long as a time-out does, whatever it is called in the end."""
    clock = Clock()
    bench.monotonic = clock

    def load_for_five_minutes() -> None:
        clock.at += 300.0

    canary = FakeCanary("slow", outcome=Outcome.MODEL_LOAD_FAILED, takes=load_for_five_minutes)
    bench.start(canary)
    wait_until(lambda: len(canary.calls) >= 4, "asked four times")
    (first_size, common), *others = canary.calls[:4]
    assert first_size is None
    assert {size for size, _ in others} == {1}
    assert common not in {pool for _, pool in others}

    canary.outcome, canary.takes = Outcome.GOOD, lambda: None
    wait_until(lambda: canary.calls[-1] == (None, common), "it is trusted again")


def test_hanging_targets_cost_no_other_its_thread(bench: Bench) -> None:
    """More hanging targets than there are threads of any pool: the healthy one keeps its schedule."""
    sick = [FakeCanary(f"sick{i}", outcome=Outcome.TIMEOUT) for i in range(PROBE_THREADS + SUSPECT_THREADS + 4)]
    well = FakeCanary("well")
    bench.start(*sick, well)
    wait_until(lambda: all(len(c.calls) >= 2 for c in sick), "each has timed out and is a suspect")
    for canary in sick:
        canary.hanging = True
    wait_until(lambda: sum(c.in_flight for c in sick) >= SUSPECT_THREADS, "the suspects' pool is full")
    before = bench.results.of("well")
    wait_until(lambda: bench.results.of("well") >= before + 10, "ten more bursts of the healthy one")
    assert sum(c.in_flight for c in sick) == SUSPECT_THREADS


def test_canary_never_overlaps_itself(bench: Bench) -> None:
    """A burst that lasts many intervals is alone; what was due meanwhile is not made up for."""
    slow, well = FakeCanary("slow", hanging=True), FakeCanary("well")
    bench.start(slow, well)
    wait_until(lambda: bench.results.of("well") >= 10, "ten intervals of the other")
    assert len(slow.calls) == 1
    slow.hanging = False
    slow.release.set()
    wait_until(lambda: len(slow.calls) >= 3, "it goes on")
    assert slow.most_in_flight == 1
    assert "probe_overlapped" in bench.results.errors


def test_probes_that_came_too_late_are_counted(bench: Bench) -> None:
    """More hanging canaries than threads: what waited in vain for one was not measured, and that is said."""
    sick = [FakeCanary(f"sick{i}", hanging=True) for i in range(PROBE_THREADS + 1)]
    bench.start(*sick)
    wait_until(lambda: sum(c.in_flight for c in sick) == PROBE_THREADS, "every thread hangs")
    (late,) = [c for c in sick if not c.calls]
    threading.Event().wait(1.2)  # longer than its grace, one second at least
    for canary in sick:
        canary.hanging = False
        canary.release.set()
    wait_until(lambda: "probe_missed" in bench.results.errors, "it is counted")
    assert "1 were skipped" in str(bench.schedules[0].note())
    wait_until(lambda: late.calls, "it is asked in the end")


def test_target_in_a_recycle_is_left_alone(bench: Bench) -> None:
    """Its canaries are the recycler's then; the others go on, and so does it afterwards."""
    recycled, well = FakeCanary("recycled"), FakeCanary("well")
    bench.results.busy = frozenset({"recycled"})
    bench.start(recycled, well)
    wait_until(lambda: bench.results.of("well") >= 5, "five bursts of the other")
    assert recycled.calls == []
    bench.results.busy = frozenset()
    wait_until(lambda: bench.results.of("recycled"), "asked again")


def test_answer_from_before_a_recycle_is_dropped(bench: Bench) -> None:
    """A burst that was under way when the recycle began is from neither world."""
    canary = FakeCanary("chat", hanging=True)
    bench.start(canary)
    wait_until(lambda: canary.in_flight, "asked")
    bench.results.busy, looks = frozenset({"chat"}), bench.results.looks
    canary.hanging = False
    canary.release.set()
    wait_until(lambda: bench.results.looks > looks, "answered, and looked again whether it is in a recycle")
    bench.results.busy = frozenset()
    wait_until(lambda: bench.results.of("chat"), "a later answer")
    assert len(bench.results.bursts) < len(canary.calls)


def test_broken_canary_is_counted_and_the_schedule_goes_on(bench: Bench) -> None:
    """An exception in a probe is an error of the watchdog's: counted, and tried again at the next interval."""
    broken, well = FakeCanary("broken", broken=True), FakeCanary("well")
    bench.start(broken, well)
    wait_until(lambda: bench.results.errors.count("probe") >= 3, "three errors")
    wait_until(lambda: bench.results.of("well") >= 3, "three bursts of the other")
    broken.broken = False
    wait_until(lambda: bench.results.of("broken"), "a burst at last")


def test_canary_that_somebody_else_holds_is_skipped(bench: Bench) -> None:
    """While the command line takes a baseline the daemon waits for the next interval, without an error."""
    taken, well = FakeCanary("taken"), FakeCanary("well")
    lock = Path(f"{bench.database.path}.taken.default.lock")
    with hold(lock, wait_s=0, monotonic=time.monotonic, sleep=time.sleep):
        bench.start(taken, well)
        wait_until(lambda: bench.results.of("well") >= 5, "five bursts of the other")
        assert taken.calls == []
    wait_until(lambda: bench.results.of("taken"), "asked once it is free")
    assert bench.results.errors == []


def test_stopped_schedule_starts_nothing(bench: Bench) -> None:
    """After stop nothing is asked any more; stopping twice is no error."""
    canary = FakeCanary("well")
    bench.start(canary)
    wait_until(lambda: bench.results.of("well"), "a burst")
    bench.schedules[0].stop()
    bench.schedules[0].stop()
    wait_until(lambda: not canary.in_flight, "the last one has ended")
    asked = len(canary.calls)
    bench.start(other := FakeCanary("other"))
    wait_until(lambda: len(other.calls) >= 5, "five intervals of another schedule")
    assert len(canary.calls) <= asked + 1  # one may have been handed to its thread already


# --- a change of what is watched --------------------------------------------------------------------------------------


def wait_for_calls(canary: FakeCanary, more: int) -> None:
    have = len(canary.calls)
    wait_until(lambda: len(canary.calls) >= have + more, f"{more} more runs")


def test_who_stays_keeps_its_rhythm_when_others_come_and_go(bench: Bench) -> None:
    """No run is left out or doubled, however often the rest changes; a late one stands for those due before it."""
    stays, goes, comes = FakeCanary("stays"), FakeCanary("goes"), FakeCanary("comes")
    times: list[float] = []
    stays.takes = lambda: times.append(time.monotonic())
    bench.start(stays, goes)
    wait_until(lambda: len(stays.calls) >= 2, "two runs")
    for number in range(10):
        bench.watch(stays, comes if number % 2 else goes)
        bench.schedules[0].follow()
        wait_for_calls(stays, 2)
    runs = round((times[-1] - times[0]) / INTERVAL_S) + 1
    told = len(times) + bench.results.errors.count("probe_overlapped")
    stood_for = sum(int(late / INTERVAL_S) for late in bench.results.late)  # none, unless the machine paused
    assert runs - 1 - stood_for <= told <= runs + 1
    assert goes.calls
    assert comes.calls
    asked = len(goes.calls)
    wait_for_calls(stays, 5)
    assert len(goes.calls) <= asked + 1


def test_another_interval_begins_a_new_rhythm(bench: Bench) -> None:
    """At once, not after the old interval."""
    slow = FakeCanary("chat", plan=replace(PLAN, interval_s=3600.0))
    bench.start(slow)
    wait_until(lambda: slow.calls, "asked once")
    fast = FakeCanary("chat")
    bench.watch(fast)
    bench.schedules[0].follow()
    wait_until(lambda: len(fast.calls) >= 3, "asked by the new one")
    assert len(slow.calls) == 1


def test_result_of_what_was_replaced_is_dropped(bench: Bench) -> None:
    """A burst that was under way when the configuration changed asked what nobody asks any more."""
    old = FakeCanary("chat", hanging=True)
    bench.start(old)
    wait_until(lambda: old.in_flight, "asked")
    new = FakeCanary("chat")
    bench.watch(new)
    bench.schedules[0].follow()
    old.hanging = False
    old.release.set()
    wait_until(lambda: bench.results.of("chat"), "the new one's answer")
    assert len(bench.results.bursts) <= len(new.calls)


def test_suspect_that_was_removed_is_none_when_it_comes_back(bench: Bench) -> None:
    """Nothing of it is remembered."""
    sick, well = FakeCanary("sick", outcome=Outcome.TIMEOUT), FakeCanary("well")
    bench.start(sick, well)
    wait_until(lambda: len(sick.calls) >= 3, "a suspect by now")
    bench.watch(well)
    bench.schedules[0].follow()
    wait_until(lambda: not sick.in_flight, "its last burst has ended")
    again = FakeCanary("sick")
    bench.watch(well, again)
    bench.schedules[0].follow()
    wait_until(lambda: again.calls, "asked")
    assert again.calls[0][0] is None


def test_memory_is_sampled_where_it_is_watched_now(bench: Bench) -> None:
    """It begins and ends with the target."""
    workers = FakeWorkers([])
    one = FakeCanary("one")
    bench.start(one)
    bench.watch(one, other := FakeCanary("other"), workers=workers)
    bench.schedules[0].follow()
    wait_until(lambda: workers.calls >= 2, "sampled")
    assert {target for target, _ in bench.results.memory} == {"other"}
    bench.watch(one)
    bench.schedules[0].follow()
    wait_for_calls(one, 2)
    sampled = workers.calls
    wait_for_calls(one, 5)
    assert workers.calls == sampled
    assert other.calls


# --- the clock --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hours", [-1, 1], ids=["back", "forward"])
def test_clock_that_is_set_stops_no_canary(bench: Bench, hours: int) -> None:
    """After a step of an hour the canaries go on at once."""
    bench.set_by_s = -hours * 3600.0  # every job is due by a clock that is an hour off, as after the step
    first, second = FakeCanary("first"), FakeCanary("second")
    bench.start(first, second)
    if hours < 0:
        threading.Event().wait(4 * INTERVAL_S)
        assert first.calls == second.calls == []
    bench.set_by_s = 0.0
    wait_until(lambda: bench.results.of("first") >= 5 and bench.results.of("second") >= 5, "five bursts of each")


@pytest.mark.parametrize("hours", [-1, 1], ids=["back", "forward"])
def test_clock_that_is_set_makes_nobody_late(bench: Bench, hours: int) -> None:
    """Lateness is what a monotonic clock says; a step of the wall clock is nobody's."""
    bench.set_by_s = -hours * 3600.0
    canary = FakeCanary("well")
    bench.start(canary)
    bench.set_by_s = 0.0
    wait_until(lambda: bench.results.of("well") >= 5, "five bursts")
    assert max(bench.results.late) < 60.0
    assert bench.schedules[0].note() is None or "started late" not in str(bench.schedules[0].note())


@given(st.integers(-(10**6), 10**6), st.integers(1, 3600), st.integers(-(10**6), 10**6))
def test_due_anew_keeps_the_rhythm(first: int, interval_s: int, now: int) -> None:
    """Within an interval, and at the same place in it: what was spread stays spread."""
    due = next_due(first, interval_s, now=now)
    assert now <= due < now + interval_s
    assert (due - first) % interval_s == 0


def test_silent_schedule_is_a_problem(bench: Bench) -> None:
    """No tick for half a minute: nothing is probed, and /healthz must say so. A tick ends it."""
    clock = Clock()
    bench.monotonic = clock
    bench.start(FakeCanary("well"))
    (schedule,) = bench.schedules
    clock.at += 30.0
    assert schedule.problem() is None
    clock.at += 1.0
    assert schedule.problem() == "the schedule has done nothing for 31 s; restart the daemon"
    wait_until(lambda: bench.results.ticks, "a tick", 20.0)
    assert schedule.problem() is None
    schedule.stop()
    clock.at += 31.0
    assert schedule.problem() is not None


def test_tick_comes_while_every_probe_hangs(bench: Bench) -> None:
    """An outage of everything that is watched is no fault of the watchdog's."""
    sick = [FakeCanary(f"sick{i}", hanging=True) for i in range(PROBE_THREADS + 1)]
    bench.start(*sick)
    wait_until(lambda: sum(c.in_flight for c in sick) == PROBE_THREADS, "every thread hangs")
    wait_until(lambda: bench.results.ticks, "a tick", 20.0)


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("found", [[], [MemorySample(target="chat", slot=0, life="1@1", at=1.0)]], ids=["none", "one"])
def test_memory_is_sampled_and_no_worker_is_said_too(bench: Bench, found: list[MemorySample]) -> None:
    """Samples are handed on even when there are none: gauges of workers that are gone must go."""
    bench.start(FakeCanary("chat"), workers=FakeWorkers(found))
    wait_until(lambda: len(bench.results.memory) >= 3, "sampled three times")
    assert set(map(str, bench.results.memory)) == {str(("chat", found))}


def test_memory_that_cannot_be_read_is_counted_and_tried_again(bench: Bench) -> None:
    """A driver that fails ends neither the sampling nor the canaries."""
    bench.start(FakeCanary("chat"), workers=FakeWorkers(None))
    wait_until(lambda: bench.results.errors.count("memory") >= 3, "three errors")
    wait_until(lambda: bench.results.of("chat") >= 3, "three bursts")


def test_memory_calls_that_never_return_delay_no_canary(bench: Bench) -> None:
    """A wedged GPU driver holds threads of its own, however many targets ask it, and nobody else's."""

    class Wedged(FakeWorkers):
        def sample(self, now: float) -> list[MemorySample]:
            self.calls += 1
            canaries[0].release.wait(30)
            return []

    canaries = [FakeCanary(f"chat{i}") for i in range(PROBE_THREADS + MEMORY_THREADS)]
    workers = Wedged([])
    bench.start(*canaries, workers=workers)
    wait_until(lambda: workers.calls == MEMORY_THREADS, "all its threads hang")
    before = bench.results.of("chat0")
    wait_until(lambda: bench.results.of("chat0") >= before + 5, "five more bursts")
    assert workers.calls == MEMORY_THREADS
