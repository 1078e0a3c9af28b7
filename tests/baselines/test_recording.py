"""Reading recordings: what is taken, what is noted, what is refused with its line."""

from __future__ import annotations

import io

import pytest

from baselines.recording import ReplayError, read_latency_csv, read_memory_csv
from probes.messages import Outcome


def latency(text: str) -> list[tuple[float, float | None, Outcome]]:
    return [(r.sample.at, r.sample.latency_s, r.sample.outcome) for r in read_latency_csv(io.StringIO(text)).points]


def test_two_columns_are_enough() -> None:
    """time and latency_s: good requests, nothing noted."""
    recording = read_latency_csv(["time,latency_s\n", "1,0.05\n", "2,0.06\n"])
    assert [r.sample.latency_s for r in recording.points] == [0.05, 0.06]
    assert recording.points[0].burst is None
    assert recording.notes == ()


def test_every_column_is_read() -> None:
    """Columns may come in any order, spaced, quoted, after a byte order mark, with Windows line ends."""
    text = '\ufeff latency_s ,worker,time,"burst",control_s,load,ok,reason\r\n0.05,7@1,12.5,b1,0.002,0.7,1,\r\n'
    request = read_latency_csv(io.StringIO(text, newline="")).points[0]
    assert (request.sample.at, request.sample.latency_s, request.sample.control_s) == (12.5, 0.05, 0.002)
    assert (request.sample.life, request.burst) == ("7@1", "b1")


@pytest.mark.parametrize(
    ("row", "outcome"),
    [
        ("1,0.05,,", Outcome.GOOD),
        ("1,0.05,1,", Outcome.GOOD),
        ("1,0.05,true,anything", Outcome.GOOD),
        ("1,0.05,,good", Outcome.GOOD),
        ("1,,0,timeout", Outcome.TIMEOUT),
        ("1,10.0,0,timeout", Outcome.TIMEOUT),
        ("1,,,refused", Outcome.REFUSED),
        ("1,,0,", Outcome.STATUS_OTHER),
        ("1,,0,HTTP 507", Outcome.STATUS_OTHER),
        ("1,,No,good", Outcome.STATUS_OTHER),
    ],
)
def test_ok_and_reason_become_an_outcome(row: str, outcome: Outcome) -> None:
    """`ok` decides, `reason` names; without `ok` the reason decides; unknown words are unexpected answers."""
    assert latency(f"time,latency_s,ok,reason\n{row}\n")[0][2] is outcome


def test_unknown_columns_are_noted_and_ignored() -> None:
    """A column that is not in the contract is said, not guessed."""
    notes = read_latency_csv(["time,latency_s,colour,load\n", "1,0.05,red,0.5\n"]).notes
    assert notes == ("column 'colour' is not known and not used",)


def test_empty_lines_are_no_rows_but_count_as_lines() -> None:
    """Rows are counted without them, messages with them."""
    assert len(latency("time,latency_s\n\n1,0.05\n\n2,0.06\n")) == 2
    with pytest.raises(ReplayError, match="line 5"):
        latency("time,latency_s\n\n1,0.05\n\n2,fast\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "line 1: column time is missing", id="empty file"),
        pytest.param("time\n1\n", "line 1: column latency_s is missing; allowed: time,latency_s", id="missing column"),
        pytest.param("time,time,latency_s\n1,1,1\n", "line 1: a column is named twice", id="twice"),
        pytest.param("time,latency_s\n", "no data rows", id="no rows"),
        pytest.param("time,latency_s\n1,0.05\nx,0.05\n", "line 3: time must be a finite number", id="time"),
        pytest.param("time,latency_s\n,0.05\n", "line 2: time is missing", id="no time"),
        pytest.param("time,latency_s\n2,0.05\n1,0.05\n", "line 3: time must ascend (1 follows 2)", id="descending"),
        pytest.param("time,latency_s\n1,\n", "line 2: latency_s is missing", id="no latency"),
        pytest.param("time,latency_s\n1,0\n", "line 2: latency_s must be a number above 0", id="zero latency"),
        pytest.param("time,latency_s\n1,-0.1\n", "line 2: latency_s must be a number above 0", id="negative"),
        pytest.param("time,latency_s\n1,nan\n", "line 2: latency_s must be a number above 0", id="nan"),
        pytest.param("time,latency_s\n1,inf\n", "line 2: latency_s must be a number above 0", id="infinite"),
        pytest.param("time,latency_s,ok\n1,0.05,maybe\n", "line 2: ok must be 1 or 0 (given: 'maybe')", id="ok"),
        pytest.param("time,latency_s,load\n1,0.05,high\n", "line 2: load must be a finite number", id="load"),
        pytest.param("time,latency_s\n1,0.05,7\n", "line 2: 3 fields, the header has 2", id="a field too many"),
        pytest.param("time,latency_s\n1\n", "line 2: 1 fields, the header has 2", id="a field too few"),
    ],
)
def test_a_bad_latency_row_is_refused_with_its_line(text: str, message: str) -> None:
    """Nothing is skipped or repaired in silence."""
    with pytest.raises(ReplayError) as refused:
        latency(text)
    assert message in str(refused.value)


def test_equal_times_are_allowed() -> None:
    """Clocks are coarse; only going back is wrong."""
    assert len(latency("time,latency_s\n1,0.05\n1,0.05\n")) == 2


def test_memory_columns() -> None:
    """used_bytes is the host's with its capacity; workers are lives; empty optional cells are unknown."""
    text = "time,used_bytes,capacity_bytes,worker,allocated_bytes,reserved_bytes\n1,3e9,8e9,a,1e9,2e9\n2,3e9,,b,,\n"
    first, second = read_memory_csv(io.StringIO(text)).points
    assert (first.host_anon_bytes, first.capacity_bytes, first.life) == (3_000_000_000, 8_000_000_000, "a")
    assert (first.allocated_bytes, first.reserved_bytes) == (1_000_000_000, 2_000_000_000)
    assert (second.capacity_bytes, second.allocated_bytes, second.life) == (None, None, "b")


def test_used_bytes_beside_host_anon_bytes_are_the_devices() -> None:
    """A file that tells host memory apart means the device by used_bytes, and its capacity is the device's."""
    point = read_memory_csv(["time,used_bytes,capacity_bytes,host_anon_bytes\n", "1,3e9,8e9,1e9\n"]).points[0]
    assert (point.host_anon_bytes, point.capacity_bytes) == (1_000_000_000, None)
    assert (point.gpu_used_bytes, point.gpu_capacity_bytes) == (3_000_000_000, 8_000_000_000)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("time,used\n1,1\n", "line 1: column used_bytes is missing"),
        ("time,used_bytes\n1,\n", "line 2: used_bytes is missing"),
        ("time,used_bytes\n1,-5\n", "line 2: used_bytes must be 0 or more"),
        ("time,used_bytes,capacity_bytes\n1,5,lots\n", "line 2: capacity_bytes must be a finite number"),
    ],
    ids=["column", "missing", "negative", "words"],
)
def test_a_bad_memory_row_is_refused_with_its_line(text: str, message: str) -> None:
    """The same promise for memory."""
    with pytest.raises(ReplayError) as refused:
        read_memory_csv(io.StringIO(text))
    assert message in str(refused.value)


def test_what_csv_itself_refuses_has_a_line_too() -> None:
    """A field beyond the reader's limit is a bad row, not a crash."""
    with pytest.raises(ReplayError, match=r"line 2: not CSV"):
        latency("time,latency_s\n1," + "9" * 200_000 + "\n")
