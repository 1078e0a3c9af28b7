"""The protocol of the isolated worker against whatever comes down the pipe, on both sides, with real processes."""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from probes.messages import Outcome
from probes.worker import MAX_DETAIL_CHARS, WorkerError, WorkerProcess
from watchdog_agent import wire

many = settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])

KINDS = ["load", "burst", "profile", "stop", "loaded", "timed", "measured", "profiled", "failed", "nothing", 1, None]
ODD = st.sampled_from(
    [10**400, -(10**400), 2**63, 1e308, float("nan"), float("inf"), True, None, "", "\x1b[2J\n", [], {}]
)
VALUE = st.recursive(
    ODD | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = sorted({name for kind in wire._KINDS.values() for name in kind.__dataclass_fields__})
CONTENT = st.fixed_dictionaries(
    {"v": st.sampled_from([1, 1, 1, 2, 1.0, "1", None, [1]]), "kind": st.sampled_from(KINDS)},
    optional=dict.fromkeys(FIELDS, VALUE),
)


def lines() -> st.SearchStrategy[bytes]:
    """Of the right form with any values: each kind with just its fields, and with others."""
    right = st.sampled_from(sorted(wire._KINDS)).flatmap(
        lambda kind: st.fixed_dictionaries(
            {"v": st.just(1), "kind": st.just(kind)} | dict.fromkeys(wire._KINDS[kind].__dataclass_fields__, VALUE)
        )
    )
    return (right | CONTENT).map(lambda content: json.dumps(content).encode())


@many
@given(st.binary(max_size=200) | lines())
@example(b'{"v": 1, "kind": "timed", "device_s": null, "latency_s": ' + b"9" * 400 + b"}")
@example(b'{"v": 1, "kind": "profile", "steps": ' + b"9" * 400 + b"}")
@example(b'{"v": 1, "kind": "load", "model": "m", "device": "", "folder": "", "weights": null, "input": ' + b"[" * 900)
def test_any_line_is_a_message_or_a_wire_error(line: bytes) -> None:
    """And a message can be written again and reads the same: its numbers fit into 64 bits."""
    try:
        message = wire.decode(line)
    except wire.WireError as error:
        assert len(str(error)) < 400  # noqa: PT017  (either end is fine)
        return
    again = wire.encode(message)
    assert repr(wire.decode(again)) == repr(message)


@many
@given(st.lists(st.binary(max_size=50), max_size=20), st.integers(1, 40))
def test_any_stream_is_cut_or_refused(parts: list[bytes], limit: int) -> None:
    """No line beyond the limit is ever given or kept."""
    buffer = wire.Lines(limit=limit)
    with contextlib.suppress(wire.WireError):
        for part in parts:
            assert all(len(line) <= limit for line in buffer.feed(part))
    assert len(buffer._rest) <= limit + 50


# --- the daemon's side: a child that is no worker ------------------------------------------------------------------

TIMED = wire.encode(wire.Timed(latency_s=0.01)).decode()
Start = Callable[[str], WorkerProcess]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a program in place of the worker: an interpreter that runs something else."""
    started: list[WorkerProcess] = []

    def start(program: str, **more: Any) -> WorkerProcess:
        fake = tmp_path / "python"
        fake.write_text(f"#!{sys.executable}\nimport os, sys, time, signal\n{program}\n")
        fake.chmod(0o755)
        started.append(WorkerProcess(python=str(fake), monotonic=time.monotonic, **more))
        return started[-1]

    yield start
    for worker in started:
        worker.close()


HOSTILE_CHILDREN = {
    "garbage": ("os.write(1, bytes(range(256)) + b'\\n'); time.sleep(60)", Outcome.WORKER_ERROR),
    "half a line": (f"os.write(1, {TIMED[:20]!r}.encode()); time.sleep(60)", Outcome.TIMEOUT),
    "half a line and gone": (f"os.write(1, {TIMED[:20]!r}.encode())", Outcome.WORKER_CRASHED),
    "a byte now and then": (
        f"for c in {TIMED[:-1]!r} * 100: os.write(1, c.encode()); time.sleep(0.05)",
        Outcome.TIMEOUT,
    ),
    "closes its output": ("os.close(1); time.sleep(60)", Outcome.WORKER_CRASHED),
    "flood without a line": ("while True: os.write(1, b'x' * 65536)", Outcome.WORKER_ERROR),
    "flood of lines": ("while True: os.write(1, b'\\n' * 65536)", Outcome.WORKER_ERROR),
    "flood of errors": ("while True: os.write(2, b'\\x1b[2J\\n' * 9999)", Outcome.TIMEOUT),
    "another version": (
        """os.write(1, b'{"v": 2, "kind": "timed", "latency_s": 1.0, "device_s": null}\\n')""",
        Outcome.WORKER_ERROR,
    ),
    "another kind": (f"os.write(1, {TIMED!r}.encode()); time.sleep(60)", Outcome.WORKER_ERROR),
    "huge number": (
        """os.write(1, b'{"v": 1, "kind": "timed", "device_s": null, "latency_s": ' + b'9' * 400 + b'}\\n')""",
        Outcome.WORKER_ERROR,
    ),
    "ignores TERM": (
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: time.sleep(1)",
        Outcome.TIMEOUT,
    ),
    "exits at once": ("sys.exit(3)", Outcome.WORKER_CRASHED),
    "stops itself": ("os.kill(os.getpid(), signal.SIGSTOP)", Outcome.TIMEOUT),
}


@pytest.mark.parametrize("name", HOSTILE_CHILDREN)
def test_hostile_child_is_an_outcome_and_is_gone(name: str, start: Start) -> None:
    """Within the deadline, as one printable line; the child does not outlive it."""
    program, outcome = HOSTILE_CHILDREN[name]
    worker = start(program)
    with pytest.raises(WorkerError) as caught:  # noqa: PT012  (which of the two notices is a matter of timing)
        worker.send(wire.Burst(warmup=0, size=1, values=1))
        worker.receive(wire.Measured, timeout_s=1.0 if outcome is Outcome.TIMEOUT else 20.0)
    assert caught.value.outcome is outcome, caught.value.detail
    assert caught.value.detail.isprintable()
    assert len(caught.value.detail) <= MAX_DETAIL_CHARS
    assert worker.ended
    assert not worker.usable


def test_detail_of_a_failure_is_one_short_printable_line(start: Start) -> None:
    """A model's exception may hold anything; it goes to terminals, logs and messages."""
    failed = wire.encode(
        wire.Failed(error="worker_error", detail="\x1b[31mred\nINFO all is well\u202e" + "x" * 100_000)
    )
    worker = start(f"os.write(1, {failed!r}); time.sleep(60)")
    with pytest.raises(WorkerError) as caught:
        worker.receive(wire.Measured, timeout_s=20.0)
    assert caught.value.detail.startswith("[31mred INFO all is well xxx")
    assert len(caught.value.detail) <= MAX_DETAIL_CHARS


def test_answer_that_nobody_asked_for_is_not_taken_for_the_next_one(start: Start) -> None:
    """A child that answers twice would be a burst behind for ever."""
    worker = start(f"os.write(1, {TIMED!r}.encode() * 2); time.sleep(60)")
    worker.receive(wire.Timed, timeout_s=20.0)
    with pytest.raises(WorkerError) as caught:
        worker.send(wire.Burst(warmup=0, size=1, values=1))
    assert caught.value.outcome is Outcome.WORKER_ERROR
    assert worker.ended


def test_worker_gets_no_secret_of_the_daemon(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables that hold secrets are withheld; the others, which a model may need, are not."""
    monkeypatch.setenv("SLACK_WEBHOOK_URL", "geheim")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    names = "'SLACK_WEBHOOK_URL', 'OMP_NUM_THREADS'"
    told = f"""
import json
detail = ' '.join(name for name in ({names}) if name in os.environ)
print(json.dumps({{'v': 1, 'kind': 'failed', 'error': '', 'detail': detail}}))
"""
    worker = start(told, withheld=frozenset({"SLACK_WEBHOOK_URL"}))  # type: ignore[call-arg]  # passed on
    with pytest.raises(WorkerError) as caught:
        worker.receive(wire.Measured, timeout_s=20.0)
    assert caught.value.detail == "OMP_NUM_THREADS"


# --- the worker's side: a daemon that is none -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "answered"),
    [
        pytest.param(b"\xff\xfe\n[]\n{}\n", [b"request not understood"] * 3, id="garbage"),
        pytest.param(b"[" * 30_000 + b"\n", [b"request not understood"], id="deep"),
        pytest.param(TIMED.encode(), [b"no model is loaded"], id="an answer"),
        pytest.param(wire.encode(wire.Burst(warmup=0, size=1, values=1)), [b"no model is loaded"], id="too early"),
        pytest.param(b"x" * (wire.MAX_REQUEST_BYTES + 1), [], id="too long"),
        pytest.param(TIMED.encode()[:-5], [], id="half"),
        pytest.param(b"", [], id="closed"),
    ],
)
def test_worker_answers_or_ends_whatever_it_is_told(said: bytes, answered: list[bytes]) -> None:
    """Every line that is no request gets `failed`; at the end of its input it is gone."""
    root = Path(wire.__file__).resolve().parents[1]
    with subprocess.Popen(
        [sys.executable, "-m", "watchdog_agent.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,  # select sees what the kernel holds, not what a buffer does
        cwd=root,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(said)
        for part in answered:
            assert select.select([child.stdout], [], [], 60)[0], "no answer"
            message = wire.decode(child.stdout.readline())
            assert isinstance(message, wire.Failed)
            assert part in message.detail.encode()
        child.stdin.close()
        assert child.wait(60) == 0
