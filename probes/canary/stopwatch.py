"""When a request left and when its answer came: by the kernel's own stamp where there is one.

The kernel notes when a packet arrived, whatever the watchdog was doing then. So a thread that had to wait for a core or
for the interpreter lock before it could read does not make the server look slower. Not under TLS, whose library reads
the socket itself: there the clock is looked at after each read.
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Callable, Iterable
from typing import Any

import httpcore

SO_TIMESTAMPNS = (
    35  # asm-generic/socket.h; a socket message of this type holds a struct timespec. Python has no name for it
)
_TIMESPEC = struct.Struct("qq")
_ANCILLARY_BYTES = 64  # room for the one message and its header


class Stopwatch:
    """Seconds from the last write of a request to the bytes read since.

    now, monotonic: seconds; the kernel stamps by the wall clock, so a stamp is believed only while the monotonic clock
    does not contradict it (the wall clock may be set in the middle of a request).
    """

    def __init__(self, *, now: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._now = now
        self._monotonic = monotonic
        self.start()

    def start(self) -> None:
        """Another request."""
        self._sent_at = self._sent_monotonic = 0.0
        self.elapsed_s: float | None = None
        """Seconds until the bytes last read; None before the first."""
        self.by_kernel = True
        """Whether every byte so far was stamped."""

    def sent(self) -> None:
        """Bytes are being sent now. Called again for each write: a server begins when it has the whole request."""
        self._sent_at, self._sent_monotonic = self._now(), self._monotonic()

    def arrived(self, stamp: float | None) -> None:
        """Bytes were read. stamp: Unix seconds of their arrival; None when nobody knows better than the clock."""
        elapsed_s = self._monotonic() - self._sent_monotonic
        if stamp is not None and 0 <= stamp - self._sent_at <= elapsed_s:
            elapsed_s = stamp - self._sent_at
        else:
            self.by_kernel = False
        self.elapsed_s = elapsed_s


class TimedBackend(httpcore.NetworkBackend):
    """The HTTP library's way to the network, with a stopwatch. Source: https://www.encode.io/httpcore/network-backends/"""

    def __init__(self, stopwatch: Stopwatch) -> None:
        self._stopwatch = stopwatch
        self._backend = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        options = [*(socket_options or ()), (socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)]
        stream = self._backend.connect_tcp(host, port, timeout, local_address, options)
        return _TimedStream(stream, self._stopwatch)


class _TimedStream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream, stopwatch: Stopwatch) -> None:
        self._stream = stream
        self._stopwatch = stopwatch
        connection = stream.get_extra_info("socket")
        self._plain = None if isinstance(connection, ssl.SSLSocket) else connection

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self._plain is None:
            data, stamp = self._stream.read(max_bytes, timeout), None
        else:
            data, stamp = _receive(self._plain, max_bytes, timeout)
        self._stopwatch.arrived(stamp)
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if buffer:
            self._stopwatch.sent()
            self._stream.write(buffer, timeout)

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _TimedStream(self._stream.start_tls(ssl_context, server_hostname, timeout), self._stopwatch)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _receive(connection: socket.socket, max_bytes: int, timeout: float | None) -> tuple[bytes, float | None]:
    """Bytes and when the last of them arrived, in Unix seconds; None at the end of the stream, or without a stamp."""
    try:
        connection.settimeout(timeout)
        data, ancillary, _, _ = connection.recvmsg(max_bytes, _ANCILLARY_BYTES)
    except TimeoutError as error:
        raise httpcore.ReadTimeout(error) from error
    except OSError as error:
        raise httpcore.ReadError(error) from error
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS) and len(content) >= _TIMESPEC.size:
            seconds, nanoseconds = _TIMESPEC.unpack_from(content)
            return data, seconds + nanoseconds / 1e9
    return data, None
