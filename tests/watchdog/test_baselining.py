"""Taking a baseline of a real server: what is promoted, what is refused, what is not even begun."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from builders import GOLDEN, IDENTITY, make_baseline
from little_server import Model, serving

from baselines import baseline_store
from baselines.baseline import Baseline, NotReady
from baselines.database import Database
from probes.expectation import Expectation
from probes.messages import Burst, Output
from watchdog import baselining
from watchdog.baselining import Plan, Result, Taken, decide, take
from watchdog.bootstrap import build_targets
from watchdog.config import parse_config
from watchdog.target import Target

BURSTS = 6
EXPECTATION = Expectation(rtol=0.01)


# --- the decision -----------------------------------------------------------------------------------------------------


def slower(factor: float, *, bursts: int = 30) -> Baseline:
    """A baseline whose latencies are all so many times those of the active one."""
    return make_baseline(0.05 * factor, bursts=((0.05 * factor,) * 5,) * bursts)


def with_golden(golden: Output | None) -> Baseline:
    return make_baseline(golden=golden)


ACTIVE = make_baseline(id=7)
SHIFTED = replace(GOLDEN, content_hash="beef", values=(0.125, 0.25, 0.5))
NEAR = replace(GOLDEN, content_hash="beef", values=(0.125, 0.25, 0.3751))
DECISIONS: dict[str, tuple[Baseline, Baseline | None, Result, str]] = {
    "the first": (ACTIVE, None, Result.PROMOTED, "the first baseline of this canary"),
    "the same again": (
        make_baseline(),
        ACTIVE,
        Result.PROMOTED,
        "p95 is 1.00 x baseline 7 (95 % interval 1.00 to 1.00)",
    ),
    "faster": (slower(0.5), ACTIVE, Result.PROMOTED, "p95 is 0.50 x baseline 7"),
    "slower within the threshold": (slower(1.19), ACTIVE, Result.PROMOTED, "p95 is 1.19 x baseline 7"),
    "slower by the threshold": (
        slower(1.21),
        ACTIVE,
        Result.SLOWER,
        "p95 is 1.21 x baseline 7 (95 % interval 1.21 to 1.21): slower by at least the allowed 20%",
    ),
    "another answer": (
        with_golden(SHIFTED),
        ACTIVE,
        Result.OUTPUT_DIFFERS,
        "the answer differs from baseline 7: ",
    ),
    "another answer and slower": (
        replace(slower(2), golden=SHIFTED),
        ACTIVE,
        Result.OUTPUT_DIFFERS,
        "the answer differs from baseline 7: ",
    ),
    "an answer within the tolerance": (with_golden(NEAR), ACTIVE, Result.PROMOTED, "p95 is 1.00"),
    "an answer that could not be read": (with_golden(None), ACTIVE, Result.PROMOTED, "p95 is 1.00"),
    "another input": (
        make_baseline(5.0, identity=replace(IDENTITY, input_hash="other"), golden=SHIFTED),
        ACTIVE,
        Result.PROMOTED,
        "the canary's input or device changed: nothing to compare with",
    ),
    "another version": (make_baseline(provenance={"model_version": "v2"}), ACTIVE, Result.PROMOTED, "p95 is 1.00"),
    "too few bursts": (
        slower(1.0, bursts=4),
        ACTIVE,
        Result.UNDECIDED,
        "p95 is 1.00 x baseline 7 (95 % interval 1.00 to 1.00): too few bursts; about 1 more bursts would decide",
    ),
}


@pytest.mark.parametrize("case", DECISIONS, ids=str)
def test_decision(case: str) -> None:
    """What may replace the active baseline by itself, and what is said to a person."""
    new, active, expected, detail = DECISIONS[case]
    result, said, comparison = decide(new, active, expectation=EXPECTATION, threshold=0.20)
    assert (result, said[: len(detail)]) == (expected, detail)
    compared = expected in (Result.SLOWER, Result.UNDECIDED) or detail.startswith("p95")
    assert (comparison is not None) == compared


def test_threshold_is_the_targets_own() -> None:
    """A target that allows half more is not held to 20 %."""
    assert decide(slower(1.4), ACTIVE, expectation=EXPECTATION, threshold=0.5)[0] is Result.PROMOTED


def test_answer_without_a_tolerance_is_not_compared() -> None:
    """Nobody said what may differ, so nothing is refused for it."""
    assert decide(with_golden(SHIFTED), ACTIVE, expectation=Expectation(), threshold=0.2)[0] is Result.PROMOTED


# --- on a real server -------------------------------------------------------------------------------------------------


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

    def run(self, *, accept: bool = False, why: str | None = None, label: str | None = None) -> Taken:
        plan = Plan(bursts=BURSTS, apart_s=0.01)
        return baselining.run(
            self.target, "default", plan, label=label, by="ann", accept=accept, why=why, progress=lambda *_: None
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
    baseline = take(bench.target, "default", plan, label="v1", progress=lambda n, burst: told.append((n, burst)))
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
    assert accepted.detail.startswith("accepted by ann (a larger model) although p95 is ")
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
