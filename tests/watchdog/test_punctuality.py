"""Lateness in words: what was late or skipped within the last minute."""

from __future__ import annotations

import pytest
from builders import Clock

from watchdog.punctuality import LATE_S, WINDOW_S, Punctuality


@pytest.mark.parametrize(
    ("late", "skipped", "said"),
    [
        ([0.0, 0.2, LATE_S], 0, None),
        ([1.5, 0.1, 3.24], 0, "of the probes of the last minute 2 started late, the latest by 3.2 s"),
        ([], 2, "of the probes of the last minute 2 were skipped"),
        ([70.0], 1, "of the probes of the last minute 1 started late, the latest by 70.0 s and 1 were skipped"),
    ],
    ids=["in time", "late", "skipped", "both"],
)
def test_what_is_late_is_said(late: list[float], skipped: int, said: str | None) -> None:
    """A second is late; what is less says the same as a probe in time."""
    punctuality = Punctuality(monotonic=Clock())
    for late_s in late:
        punctuality.started(late_s)
    for _ in range(skipped):
        punctuality.skipped()
    note = punctuality.note()
    assert note == (None if said is None else f"{said}: too much hangs, or the machine is too busy")


def test_after_a_minute_it_is_forgotten() -> None:
    """What is in time again needs nobody's attention."""
    clock = Clock()
    punctuality = Punctuality(monotonic=clock)
    punctuality.skipped()
    clock.at += WINDOW_S - 1
    assert punctuality.note() is not None
    clock.at += 2
    assert punctuality.note() is None
