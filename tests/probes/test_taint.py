from __future__ import annotations

import gc
import time
from pathlib import Path

import pytest

from probes.taint import OwnDelay, is_tainted, run_queue_delay_s


@pytest.mark.parametrize(
    ("own_delay_s", "took_s", "tainted"),
    [(0.0, 0.007, False), (0.0009, 0.001, False), (0.0011, 0.007, True), (0.009, 0.1, False), (0.011, 0.1, True)],
)
def test_more_than_a_millisecond_and_a_tenth_taints(own_delay_s: float, took_s: float, tainted: bool) -> None:
    """Both bounds must be passed."""
    assert is_tainted(own_delay_s, took_s) is tainted


@pytest.mark.parametrize(
    ("content", "delay_s"),
    [("5000 2500000000 42\n", 2.5), ("", 0.0), ("1\n", 0.0), ("a b c\n", 0.0), (None, 0.0)],
    ids=["counted", "empty", "short", "no_number", "no_file"],
)
def test_the_run_queue_is_read_or_counts_nothing(tmp_path: Path, content: str | None, delay_s: float) -> None:
    """A kernel without scheduler statistics is no error."""
    path = tmp_path / "schedstat"
    if content is not None:
        path.write_text(content)
    assert run_queue_delay_s(path) == delay_s


def test_the_real_run_queue_only_grows() -> None:
    """It is a counter of the thread that asks."""
    first = run_queue_delay_s()
    assert 0.0 <= first <= run_queue_delay_s()


def test_a_collection_between_two_looks_is_counted_while_started(tmp_path: Path) -> None:
    """Real collections, measured by a clock that moves a second each time it is looked at."""
    ticks = iter(range(1000))
    delay = OwnDelay(monotonic=lambda: float(next(ticks)), schedstat=tmp_path / "none")
    automatic = gc.isenabled()
    gc.disable()
    try:
        gc.collect()
        assert delay() == 0.0
        delay.start()
        delay.start()
        gc.collect()
        gc.collect()
        assert delay() == 2.0
        delay.stop()
        delay.stop()
        gc.collect()
        assert delay() == 2.0
    finally:
        delay.stop()
        if automatic:
            gc.enable()


def test_a_long_collection_taints_a_short_request() -> None:
    """With the real clock: collecting a hundred thousand objects takes longer than a request may lose."""
    delay = OwnDelay(monotonic=time.monotonic)
    cycles: list[object] = []
    for _ in range(100_000):
        cycle: list[object] = []
        cycle.append(cycle)
        cycles.append(cycle)
    delay.start()
    try:
        before = delay()
        cycles.clear()
        gc.collect()
        assert is_tainted(delay() - before, 0.001)
    finally:
        delay.stop()
