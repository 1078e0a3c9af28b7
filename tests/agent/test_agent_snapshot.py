"""The per-operator table: arithmetic on plain events, and the real profiler."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from watchdog_agent.snapshot import STEP, Event, SnapshotError, tabulate, take_snapshot


def _cpu(name: str, start: int, duration: int, thread: int = 1) -> Event:
    return Event(name, start, duration, thread, on_device=False)


def _two_steps() -> list[Event]:
    """Two steps of 100 ns: outer (60, then 80) around inner (20, then 30), and a kernel of 50 in each."""
    return [
        _cpu(STEP, 0, 100),
        _cpu("outer", 10, 60),
        _cpu("inner", 20, 20),
        Event("kernel", 40, 50, 0, on_device=True),
        _cpu(STEP, 200, 100),
        _cpu("outer", 210, 80),
        _cpu("inner", 220, 30),
        _cpu("inner", 260, 10, thread=2),
        Event("kernel", 240, 50, 0, on_device=True),
    ]


def test_self_time_leaves_children_out() -> None:
    """Per step: outer 40 then 50, inner 20 then 40 (one of them in another thread), the kernel 50 on the device."""
    step_s, ops = tabulate(_two_steps(), discard=0)
    assert step_s == [100e-9, 100e-9]
    table = {op.name: op for op in ops}
    assert [op.name for op in ops] == ["kernel", "outer", "inner"]
    assert (table["outer"].self_s, table["outer"].self_mad_s) == pytest.approx((45e-9, 5e-9))
    assert (table["inner"].self_s, table["inner"].self_mad_s) == pytest.approx((30e-9, 10e-9))
    assert table["inner"].calls_per_step == 1.5
    assert table["inner"].device_self_s is None
    assert (table["kernel"].self_s, table["kernel"].device_self_s) == pytest.approx((0.0, 50e-9))


def test_discarded_steps_and_events_between_steps_do_not_count() -> None:
    """The first steps carry the profiler's own set-up."""
    step_s, ops = tabulate([*_two_steps(), _cpu("between", 150, 10)], discard=1)
    assert len(step_s) == 1
    assert {op.name: op.self_s for op in ops if op.device_self_s is None} == pytest.approx(
        {"outer": 50e-9, "inner": 40e-9}
    )


def test_no_step_is_no_snapshot() -> None:
    """Rather than a table of zeros."""
    with pytest.raises(SnapshotError, match="no step"):
        tabulate(_two_steps(), discard=2)


@st.composite
def _nested(draw: st.DrawFn) -> list[Event]:
    """One thread's properly nested calls inside one step."""
    events = [_cpu(STEP, 0, 1000)]

    def fill(start: int, end: int, depth: int) -> None:
        while end - start >= 4 and depth < 4 and draw(st.booleans()):
            begin = draw(st.integers(start, end - 2))
            stop = draw(st.integers(begin + 1, end))
            events.append(_cpu(draw(st.sampled_from("abc")), begin, stop - begin))
            fill(begin, stop, depth + 1)
            start = stop

    fill(0, 1000, 0)
    return events


@given(_nested())
def test_self_times_add_up_to_the_covered_time(events: list[Event]) -> None:
    """Each nanosecond under some operator is counted once, to exactly one of them."""
    covered: set[int] = set()
    for event in events[1:]:
        covered.update(range(event.start, event.end))
    _, ops = tabulate(events, discard=0)
    assert sum(op.self_s for op in ops) * 1e9 == pytest.approx(len(covered))
    assert sum(op.calls_per_step for op in ops) == len(events) - 1


def test_real_profiler_names_the_expensive_operator() -> None:
    """erfinv on a million numbers against one small addition."""
    large, small = torch.rand(300_000), torch.rand(4)

    def step() -> None:
        torch.erfinv(large)
        torch.add(small, small)
        torch.add(small, small)

    profiled = take_snapshot(step, steps=20, on_cuda=False, environment={"torch": "x"})
    table = {op.name: op for op in profiled.ops}
    assert profiled.ops[0].name == "aten::erfinv"
    assert profiled.steps == 20
    assert table["aten::add"].calls_per_step == 2
    assert 0 < table["aten::erfinv"].self_s <= profiled.step_s
    assert STEP not in table
