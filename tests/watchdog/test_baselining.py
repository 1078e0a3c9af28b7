"""Taking a baseline of a real server: what is promoted, what is refused, what is not even begun."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from little_server import Model, serving

from baselines import baseline_store
from baselines.baseline import Baseline, NotReady
from baselines.database import Database
from probes.messages import Burst
from watchdog import baselining
from watchdog.baselining import Plan, Taken, is_enough, take
from watchdog.bootstrap import build_targets
from watchdog.config import parse_config
from watchdog.deploy_gate import Decision, Result
from watchdog.target import Target

BURSTS = 6


@dataclass
class Bench:
    """A target on a little server; its clock sleeps without waiting."""

    database: Database
    model: Model
    slept: list[float] = field(default_factory=list)
    at: float = 0.0

    def __post_init__(self) -> None:
        self.aim(burst=12)

    def aim(self, *, burst: int) -> None:
        canary: dict[str, Any] = {
            "url": self.model.url,
            "json": {"inputs": [3, 1, 4, 1, 5]},
            "interval": "1s",
            "timeout": "5s",
            "burst": burst,
            "max_busy": 1.0,
            "expect": {"json_path": "outputs", "rtol": 0.01},
        }
        section = {"name": "chat", "device": "cpu", "canary": [canary], "regression": {"threshold": 2.0}}
        self.target: Target = build_targets(parse_config({"target": [section]}), self.database)["chat"]
        self.target.sleep = self.sleep
        self.target.monotonic = lambda: self.at

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.at += seconds

    def take(self, **plan: Any) -> Baseline:
        return take(self.target, "default", Plan(**{"bursts": BURSTS} | plan), label=None, progress=lambda *_: None)

    def run(
        self, *, accept: bool = False, why: str | None = None, label: str | None = None, **plan: int | None
    ) -> Taken:
        self.seen: list[Decision | None] = []
        return baselining.run(
            self.target,
            "default",
            Plan(**{"bursts": BURSTS, "apart_s": 0.01} | plan),
            label=label,
            by="ann",
            accept=accept,
            why=why,
            progress=lambda _number, _burst, seen: self.seen.append(seen),
        )

    def active(self) -> Baseline | None:
        return self.target.baseline("default")

    def stored(self) -> int:
        with self.database.read() as connection:
            return len(baseline_store.list_baselines(connection, "chat"))


@pytest.fixture
def bench(database: Database) -> Iterator[Bench]:
    with serving(Model()) as model:
        bench = Bench(database, model)
        yield bench
        bench.target.close()


def test_bursts_are_taken_apart_and_progress_is_told(bench: Bench) -> None:
    """As many as planned, begun at even distances, each told as it ends."""
    told: list[tuple[int, Burst]] = []
    plan = Plan(bursts=BURSTS, apart_s=10.0)
    baseline = take(bench.target, "default", plan, label="v1", progress=lambda n, burst, _: told.append((n, burst)))
    assert [number for number, _ in told] == list(range(1, len(told) + 1))
    assert BURSTS <= len(told) <= 2 * BURSTS, "a busy machine taints samples, which is made up for"
    assert bench.slept == [0.0, *[10.0] * (len(told) - 1)]
    assert (len(baseline.bursts), baseline.label, baseline.provisional) == (len(told), "v1", False)
    assert baseline.provenance["model_version"] == "v1"
    assert baseline.golden is not None
    assert baseline.golden.shape == (5,)


def test_small_bursts_are_made_up_for(bench: Bench) -> None:
    """Too few samples for an interval of p95: more bursts are taken, at most as many again."""
    bench.aim(burst=4)
    assert len(bench.take().bursts) == 2 * BURSTS


@pytest.mark.parametrize("status", [500, 404, 503])
def test_failing_target_gets_no_baseline(bench: Bench, status: int) -> None:
    """The first bad answer ends it: a baseline of errors would call everything else slow or wrong."""
    bench.model.status = status
    with pytest.raises(NotReady, match=str(status)):
        bench.take()
    assert len(bench.model.requests) == 1


def test_failing_target_is_not_ready_and_nothing_is_stored(bench: Bench) -> None:
    """The command answers with the reason; history stays as it was."""
    bench.model.status = 500
    taken = bench.run()
    assert taken.result is Result.NOT_READY
    assert "status_500" in taken.detail
    assert bench.stored() == 0


def test_wrong_answer_gets_no_baseline(bench: Bench) -> None:
    """NaN is not a golden output."""
    bench.model.scale = float("nan")
    with pytest.raises(NotReady, match="not_finite"):
        bench.take()


def test_wait_lets_a_server_load_first(bench: Bench) -> None:
    """With a wait the first good answer is awaited, one request at a time, and only then it begins."""
    bench.model.busy = 3
    baseline = bench.take(wait_s=60.0)
    assert len(baseline.bursts) >= BURSTS
    assert bench.slept[:3] == [baselining.READY_POLL_S] * 3


def test_wait_ends_at_its_deadline(bench: Bench) -> None:
    """A server that never gets ready is told as it is."""
    bench.model.busy = 10**6
    with pytest.raises(NotReady, match="overloaded_503"):
        bench.take(wait_s=5.0)
    assert bench.at == pytest.approx(5.0)


def test_without_wait_a_loading_server_is_not_ready(bench: Bench) -> None:
    """The default waits for nothing."""
    bench.model.busy = 1
    with pytest.raises(NotReady, match="overloaded_503"):
        bench.take()


def test_first_baseline_is_promoted(bench: Bench) -> None:
    """There is nothing to compare with; who and why go on record."""
    taken = bench.run(label="v1")
    assert (taken.result, bench.active()) == (Result.PROMOTED, taken.baseline)
    with bench.database.read() as connection:
        (promotion,) = baseline_store.promotions(connection, "chat", "default")
    assert (promotion.by, promotion.why) == ("ann", "the first baseline of this canary")


def test_slower_server_is_refused_and_kept_for_a_look(bench: Bench) -> None:
    """Stored, not active; and after --accept active, with who accepted what."""
    first = bench.run()
    bench.model.delay_s = 0.025  # five times: the machine that runs this test is busy with others
    refused = bench.run()
    assert refused.result is Result.SLOWER
    assert (bench.active(), bench.stored()) == (first.baseline, 2)

    accepted = bench.run(accept=True, why="a larger model")
    assert accepted.result is Result.ACCEPTED
    assert bench.active() == accepted.baseline
    assert re.match(r"accepted by ann \(a larger model\) although (p95|median) is ", accepted.detail)
    with bench.database.read() as connection:
        promotion = baseline_store.promotions(connection, "chat", "default")[0]
    assert (promotion.by, promotion.why) == ("ann", "a larger model")


def test_accepting_without_a_reason_records_what_was_accepted(bench: Bench) -> None:
    """The record then says what it was accepted in spite of."""
    bench.run()
    bench.model.scale = 2.0
    assert bench.run(accept=True).result is Result.ACCEPTED
    with bench.database.read() as connection:
        promotion = baseline_store.promotions(connection, "chat", "default")[0]
    assert promotion.why.startswith("accepted by ann although the answer differs from baseline 1: ")


def test_accepting_what_needs_no_acceptance_is_a_promotion(bench: Bench) -> None:
    """--accept in a deploy script does not hide that all was well."""
    bench.run()
    assert bench.run(accept=True, why="always").result is Result.PROMOTED


def test_changed_answer_is_refused(bench: Bench) -> None:
    """A model that answers differently is another model, however fast it is."""
    first = bench.run()
    bench.model.scale = 1.5
    taken = bench.run()
    assert taken.result is Result.OUTPUT_DIFFERS
    assert bench.active() == first.baseline


# --- early stop -------------------------------------------------------------------------------------------------------

LONG = 12  # bursts: looked at after 6 and 9


@pytest.mark.parametrize(
    ("bursts", "samples", "result", "accept", "expected"),
    [
        pytest.param(6, 60, Result.SLOWER, False, True, id="slower ends at once"),
        pytest.param(6, 40, Result.OUTPUT_DIFFERS, False, True, id="another answer too, with whatever samples"),
        pytest.param(6, 60, Result.SLOWER, True, False, id="what is accepted becomes the baseline, so it is whole"),
        pytest.param(12, 120, Result.SLOWER, True, True, id="and ends when it is"),
        pytest.param(9, 90, Result.PROMOTED, False, False, id="not slower, but not yet a whole baseline"),
        pytest.param(12, 120, Result.PROMOTED, False, True, id="a whole one"),
        pytest.param(12, 58, Result.PROMOTED, False, False, id="a whole one without an upper bound of p95"),
        pytest.param(12, 120, Result.UNDECIDED, False, False, id="open: more may decide"),
        pytest.param(30, 300, Result.UNDECIDED, False, True, id="open to the end"),
    ],
)
def test_what_is_enough(bursts: int, samples: int, result: Result, accept: bool, expected: bool) -> None:
    """Twelve bursts planned, up to 30 while it is open."""
    assert is_enough(Plan(bursts=12, most=30), bursts, samples, result, accept=accept) is expected


def test_slower_version_is_refused_after_a_few_bursts(bench: Bench) -> None:
    """Ten times as slow is clear at the first look or the second, long before the planned bursts are taken."""
    bench.run()
    bench.model.delay_s = 0.05
    taken = bench.run(bursts=LONG)
    assert taken.result is Result.SLOWER
    assert len(bench.seen) in (6, 9)
    assert (taken.stopped_early, taken.looks) == (True, {6: 1, 9: 2}[len(bench.seen)])
    assert taken.detail.endswith(f": slower by at least the allowed 200%; stopped after {len(bench.seen)} of 12 bursts")
    assert bench.seen[-1] is not None
    assert bench.seen[:5] == [None] * 5
    assert bench.stored() == 2


def test_another_answer_is_refused_after_a_few_bursts(bench: Bench) -> None:
    """It is told at the first look, and nothing is compared then."""
    bench.run()
    bench.model.scale = 1.5
    taken = bench.run(bursts=LONG)
    assert (taken.result, taken.looks, taken.stopped_early, len(bench.seen)) == (Result.OUTPUT_DIFFERS, 1, True, 6)
    assert taken.comparison is None


def test_what_is_accepted_is_measured_to_the_end(bench: Bench) -> None:
    """It becomes the baseline, and a baseline is no better than its bursts."""
    bench.run()
    bench.model.scale = 1.5
    taken = bench.run(accept=True, bursts=LONG)
    assert taken.result is Result.ACCEPTED
    assert (taken.stopped_early, len(bench.seen)) == (False, LONG)
    assert [n for n, seen in enumerate(bench.seen, 1) if seen is not None] == [6, 9]


def test_version_that_is_not_slower_is_measured_to_the_end(bench: Bench) -> None:
    """It is looked at on the way, and it goes on."""
    bench.run(bursts=LONG)
    taken = bench.run(bursts=LONG)
    assert (taken.result, taken.looks, taken.stopped_early) == (Result.PROMOTED, 2, False)
    assert len(bench.seen) >= LONG


def test_first_baseline_is_not_looked_at(bench: Bench) -> None:
    """There is nothing to hold it against, and no reason to take more than asked for."""
    taken = bench.run(bursts=BURSTS, most=30)
    assert (taken.result, taken.looks, taken.stopped_early) == (Result.PROMOTED, 0, False)
    assert len(bench.seen) < 30


def test_open_question_gets_more_bursts_up_to_a_limit(bench: Bench) -> None:
    """An active baseline of too few bursts leaves everything open."""
    bench.aim(burst=30)
    small = bench.run(bursts=3)
    bench.aim(burst=12)
    assert small.baseline is not None
    assert len(small.baseline.bursts) == 3
    taken = bench.run(most=10)
    assert taken.result is Result.UNDECIDED
    assert len(bench.seen) == 10
    assert "too few bursts" in taken.detail
