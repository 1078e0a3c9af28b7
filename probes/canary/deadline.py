"""A deadline for a whole request, whatever the server does."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

_POLL_S = 0.05  # while the deadline has passed and there is no socket yet: connecting has a time-out of its own


class SocketDeadline:
    """Shuts a socket down once its moment has passed.

    A time-out of the HTTP library is one of each read, and a server that sends a byte a second never meets it. One
    thread watches for the whole burst; it sleeps until the deadline it last saw, so that a request that is in time
    never wakes it (waking it would take the interpreter lock in the middle of a measurement).
    """

    def __init__(self, *, timeout_s: float, monotonic: Callable[[], float]) -> None:
        self._timeout_s = timeout_s
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._at: float | None = None
        self._socket: socket.socket | None = None
        self._expired = False
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="canary-deadline", daemon=True)
        self._thread.start()

    def begin(self) -> None:
        """A request starts now and has timeout_s seconds."""
        with self._lock:
            self._at, self._expired = self._monotonic() + self._timeout_s, False

    def attach(self, connection: socket.socket | None) -> None:
        """The socket to shut down, from now on; None while there is none."""
        with self._lock:
            self._socket = connection
            if self._expired and connection is not None:
                self._shut_down(connection)

    def end(self) -> bool:
        """The request is over. Whether its deadline had passed; its socket is then shut down."""
        with self._lock:
            self._at = None
            return self._expired

    def close(self) -> None:
        self._closed.set()
        self._thread.join(self._timeout_s)

    def _watch(self) -> None:
        while not self._closed.wait(self._check()):
            pass

    def _check(self) -> float:
        """Act where it is time to. Seconds until the next look: no request can expire before."""
        with self._lock:
            if self._at is None or self._expired:
                return self._timeout_s
            left = self._at - self._monotonic()
            if left > 0:
                return left
            if self._socket is None:
                return _POLL_S
            self._expired = True
            self._shut_down(self._socket)
            return self._timeout_s

    @staticmethod
    def _shut_down(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):  # closed already
            # Not SSLSocket.shutdown, which would let the reader go on without decrypting.
            socket.socket.shutdown(connection, socket.SHUT_RDWR)
