"""Taking turns through a lock file, between threads and between processes."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from builders import DEADLINE_S

from watchdog.turns import POLL_S, Occupied, hold

HOLD = """
import sys, time
from pathlib import Path
from watchdog.turns import hold
with hold(Path(sys.argv[1]), wait_s=0, monotonic=time.monotonic, sleep=time.sleep):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "w.db.chat.default.lock"


def take(path: Path, wait_s: float = 0.0) -> bool:
    """Whether it could be held, for a moment."""
    try:
        with hold(path, wait_s=wait_s, monotonic=time.monotonic, sleep=time.sleep):
            return True
    except Occupied:
        return False


@pytest.fixture
def holder(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds it until it is told to go."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"held\n"
    yield child
    child.kill()
    child.communicate(timeout=DEADLINE_S)


def test_one_at_a_time_and_again_afterwards(path: Path) -> None:
    """Also within one process: each holder opens the file for itself. The file stays, the lock does not."""
    with hold(path, wait_s=0, monotonic=time.monotonic, sleep=time.sleep):
        assert not take(path)
    assert take(path)
    assert path.exists()


def test_an_exception_frees_it(path: Path) -> None:
    """A probe that breaks does not stop the canary for good."""
    with pytest.raises(RuntimeError), hold(path, wait_s=0, monotonic=time.monotonic, sleep=time.sleep):
        raise RuntimeError
    assert take(path)


def test_different_canaries_do_not_wait_for_each_other(path: Path) -> None:
    """A lock is one file."""
    with hold(path, wait_s=0, monotonic=time.monotonic, sleep=time.sleep):
        assert take(path.with_name("w.db.chat.long.lock"))


def test_it_gives_up_at_its_deadline(path: Path) -> None:
    """Occupied, with the file that is held; it asks every POLL_S until then, and not at all after it."""
    clock = iter(range(100))
    slept: list[float] = []
    with hold(path, wait_s=0, monotonic=time.monotonic, sleep=time.sleep):
        with (
            pytest.raises(Occupied, match=str(path)),
            hold(path, wait_s=3.0, monotonic=lambda: next(clock), sleep=slept.append),
        ):
            pytest.fail("held by two")
        assert slept == [POLL_S] * 2
        with (
            pytest.raises(Occupied),
            hold(path, wait_s=0.0, monotonic=lambda: 0.0, sleep=slept.append),
        ):
            pytest.fail("held by two")
    assert len(slept) == 2


def test_another_process_is_kept_out_and_waits_its_turn(path: Path, holder: subprocess.Popen[bytes]) -> None:
    """The daemon and the command line: whoever waits long enough gets it."""
    assert not take(path)
    got: list[bool] = []
    waiter = threading.Thread(target=lambda: got.append(take(path, wait_s=DEADLINE_S)))
    waiter.start()
    waiter.join(0.1)
    assert got == []
    assert holder.stdin is not None
    holder.stdin.write(b"\n")
    holder.stdin.flush()
    waiter.join(DEADLINE_S)
    assert got == [True]


def test_the_kernel_frees_it_when_its_holder_is_killed(path: Path, holder: subprocess.Popen[bytes]) -> None:
    """No stale lock after kill -9."""
    assert not take(path)
    holder.send_signal(signal.SIGKILL)
    holder.wait(DEADLINE_S)
    assert take(path)
