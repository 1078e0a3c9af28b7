from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import httpcore
import pytest
from builders import Clock, wait_until

from probes.canary.stopwatch import Stopwatch, TimedBackend

LATE_S = 0.2


@pytest.fixture(autouse=True)
def stamping() -> Iterator[None]:
    """Linux begins to stamp a moment after the first socket asked for it, and goes on while one does."""
    stopwatch = Stopwatch(now=time.time, monotonic=time.monotonic)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stream, server = ask(listener, stopwatch)

        def is_stamped() -> bool:
            stopwatch.start()
            stream.write(b"again", timeout=5.0)
            server.sendall(b"more")
            stream.read(100, timeout=5.0)
            return stopwatch.by_kernel

        wait_until(is_stamped, "the kernel stamps what arrives")
        yield
        stream.close()
        server.close()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def ask(listener: socket.socket, stopwatch: Stopwatch) -> tuple[httpcore.NetworkStream, socket.socket]:
    """A connection on which something was sent and is answered before anybody reads."""
    stream = TimedBackend(stopwatch).connect_tcp("127.0.0.1", listener.getsockname()[1], timeout=5.0)
    server, _ = listener.accept()
    stopwatch.start()
    stream.write(b"question", timeout=5.0)
    server.recv(100)
    server.sendall(b"answer")
    return stream, server


def test_a_late_reader_is_not_a_slow_server(listener: socket.socket) -> None:
    """The answer lay in the socket long before it was read: the kernel knows since when."""
    stopwatch = Stopwatch(now=time.time, monotonic=time.monotonic)
    stream, server = ask(listener, stopwatch)
    threading.Event().wait(LATE_S)  # the watchdog is held up
    assert stream.read(100, timeout=5.0) == b"answer"
    assert stopwatch.by_kernel
    assert stopwatch.elapsed_s is not None
    assert stopwatch.elapsed_s < LATE_S / 2
    stream.close()
    server.close()


@pytest.mark.parametrize("step_s", [-3600.0, 3600.0], ids=["back", "forth"])
def test_a_stamp_of_a_clock_that_was_set_is_not_believed(listener: socket.socket, step_s: float) -> None:
    """The monotonic clock says how long it took."""
    clock = Clock(time.time() - step_s)  # what the wall clock was when the request left
    stopwatch = Stopwatch(now=clock, monotonic=time.monotonic)
    began = time.monotonic()
    stream, server = ask(listener, stopwatch)
    stream.read(100, timeout=5.0)
    assert not stopwatch.by_kernel
    assert stopwatch.elapsed_s is not None
    assert 0 <= stopwatch.elapsed_s <= time.monotonic() - began
    stream.close()
    server.close()


def test_the_end_of_the_stream_has_no_stamp(listener: socket.socket) -> None:
    """An answer that ends with the connection is timed by the clock, and says so."""
    stopwatch = Stopwatch(now=time.time, monotonic=time.monotonic)
    stream, server = ask(listener, stopwatch)
    server.close()
    assert stream.read(100, timeout=5.0) == b"answer"
    assert stopwatch.by_kernel
    assert stream.read(100, timeout=5.0) == b""
    assert not stopwatch.by_kernel
    stream.close()


def test_each_write_starts_anew_and_an_empty_one_does_not(listener: socket.socket) -> None:
    """A server begins when it has the whole request, so time between header and body is the watchdog's own."""
    clock = Clock(100.0)
    stopwatch = Stopwatch(now=clock, monotonic=clock)
    stream = TimedBackend(stopwatch).connect_tcp("127.0.0.1", listener.getsockname()[1], timeout=5.0)
    server, _ = listener.accept()
    for at, content in ((100.0, b"headers"), (103.0, b"body"), (104.0, b"")):
        clock.at = at
        stream.write(content, timeout=5.0)
    server.sendall(b"answer")
    clock.at = 107.0
    stream.read(100, timeout=5.0)
    assert stopwatch.elapsed_s == pytest.approx(4.0)
    stream.close()
    server.close()


@pytest.mark.parametrize("end", ["silence", "reset"])
def test_a_read_that_fails_is_the_librarys_error(listener: socket.socket, end: str) -> None:
    """So that it is an outcome like every other."""
    stopwatch = Stopwatch(now=time.time, monotonic=time.monotonic)
    stream = TimedBackend(stopwatch).connect_tcp("127.0.0.1", listener.getsockname()[1], timeout=5.0)
    server, _ = listener.accept()
    if end == "reset":
        server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        server.close()
    with pytest.raises(httpcore.ReadTimeout if end == "silence" else httpcore.ReadError):
        stream.read(100, timeout=0.05)
    assert stopwatch.elapsed_s is None
    stream.close()
    server.close()
