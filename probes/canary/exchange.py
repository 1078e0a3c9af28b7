"""One HTTP request and its answer, timed where the bytes leave and come in, below the HTTP library."""

from __future__ import annotations

import socket
import ssl
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpcore
import httpx

from probes.canary.deadline import SocketDeadline
from probes.canary.failures import FAILURES, outcome_of_failure
from probes.canary.stopwatch import Stopwatch, TimedBackend
from probes.messages import Outcome

MAX_ANSWER_BYTES = 8 * 1024 * 1024
"""Far above any answer worth comparing; keeps a runaway answer out of the daemon's memory.

A list of numbers takes up to 29 times its JSON while it is read.
"""

Address = tuple[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is sent. A header given here replaces ours of the same name."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """How it went.

    failure: why no answer was completed, with one line for a person; None when there is a status, headers (names in
    lower case) and a body.
    latency_s: from sending the body (of a request without one: the headers) to the last byte received; first_byte_s: to
    the first byte of the body; connect_s: TCP and TLS set-up, None on a reused connection. Those that did not happen
    are None.
    by_kernel: the kernel stamped every packet of the answer, see `stopwatch`.
    """

    failure: tuple[Outcome, str] | None = None
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    latency_s: float | None = None
    first_byte_s: float | None = None
    connect_s: float | None = None
    by_kernel: bool = False


class Connection:
    """A fresh connection for one burst: no proxy, no redirect, no retry, no cookie, HTTP/1.1, one request at a time.

    It is opened by the first request, and again by the next one where the server closed it. `timeout_s` holds for a
    whole request; only the name lookup is out of its reach (the resolver has limits of its own).
    """

    def __init__(
        self,
        *,
        timeout_s: float,
        ssl_context: ssl.SSLContext | None,
        now: Callable[[], float],
        monotonic: Callable[[], float],
        max_answer_bytes: int = MAX_ANSWER_BYTES,
    ) -> None:
        self._timeout_s = timeout_s
        self._monotonic = monotonic
        self._max_answer_bytes = max_answer_bytes
        self._stopwatch = Stopwatch(now=now, monotonic=monotonic)
        # httpx's engine alone: cookies, redirects, proxies and retries are what a canary must not have.
        self._pool = httpcore.ConnectionPool(
            ssl_context=ssl_context,
            max_connections=1,
            socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
            network_backend=TimedBackend(self._stopwatch),
        )
        self._deadline = SocketDeadline(timeout_s=timeout_s, monotonic=monotonic)
        self._addresses: tuple[Address, Address] | None = None
        self._prepared: tuple[Question, str, httpcore.URL, list[tuple[bytes, bytes]]] | None = None

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.close()
        self._deadline.close()

    @property
    def addresses(self) -> tuple[Address, Address] | None:
        """Our own and the server's end of the connection last opened; None when it failed to open."""
        return self._addresses

    def ask(self, question: Question) -> Exchange:
        """Send it and read the whole answer."""
        trace = _Trace(self._monotonic, self._attach)
        status: int | None = None
        headers: Mapping[str, str] = {}
        body = b""
        first_byte_s: float | None = None
        failure: tuple[Outcome, str] | None = None
        self._stopwatch.start()
        self._deadline.begin()
        try:
            response = self._pool.handle_request(self._build(question, trace))
            try:
                status, headers = response.status, dict(httpx.Headers(response.headers))
                body, first_byte_s = self._read(response)
            finally:
                response.close()
            latency_s = self._stopwatch.elapsed_s
            body = _decode(body, headers.get("content-encoding", "identity"), self._max_answer_bytes)
        except _AnswerError as error:
            failure = error.outcome, str(error)
        except FAILURES as error:
            failure = outcome_of_failure(error)
        finally:
            expired = self._deadline.end()
        if expired or (failure is not None and failure[0] is Outcome.TIMEOUT):
            failure = Outcome.TIMEOUT, f"no complete answer within {self._timeout_s:g} s: {trace.stage}"
        if failure is not None:
            return Exchange(failure=failure, connect_s=trace.connect_s)
        return Exchange(
            status=status,
            headers=headers,
            body=body,
            latency_s=latency_s,
            first_byte_s=first_byte_s,
            connect_s=trace.connect_s,
            by_kernel=self._stopwatch.by_kernel,
        )

    def _build(self, question: Question, trace: _Trace) -> httpcore.Request:
        if self._prepared is None or self._prepared[0] is not question:  # once a burst: it costs as much as sending
            self._prepared = question, *_spell(question)
        _, method, url, headers = self._prepared
        timeouts = dict.fromkeys(("connect", "read", "write", "pool"), self._timeout_s)
        return httpcore.Request(
            method, url, headers=headers, content=question.body, extensions={"trace": trace, "timeout": timeouts}
        )

    def _attach(self, connection: socket.socket | None) -> None:
        """Another socket from now on; None while it connects."""
        self._addresses = None
        self._deadline.attach(connection)
        if connection is None:
            return
        try:
            ours, theirs = connection.getsockname(), connection.getpeername()
        except OSError:  # reset already
            return
        self._addresses = (ours[0], ours[1]), (theirs[0], theirs[1])

    def _read(self, response: httpcore.Response) -> tuple[bytes, float | None]:
        """The body, and the seconds until its first byte; None when it is empty."""
        parts: list[bytes] = []
        first_byte_s: float | None = None
        size = 0
        for part in response.iter_stream():
            if not parts:
                first_byte_s = self._stopwatch.elapsed_s
            parts.append(part)
            size += len(part)
            if size > self._max_answer_bytes:
                raise _AnswerError(Outcome.ANSWER_TOO_LARGE, f"more than {self._max_answer_bytes} bytes")
        return b"".join(parts), first_byte_s


def _spell(question: Question) -> tuple[str, httpcore.URL, list[tuple[bytes, bytes]]]:
    """Method, address and headers as they are sent."""
    headers = httpx.Headers({"User-Agent": "inference-watchdog", "Accept": "*/*", "Accept-Encoding": "identity"})
    headers.update(dict(question.headers))
    request = httpx.Request(question.method, question.url, headers=headers, content=question.body)
    url = request.url
    address = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
    return request.method, address, request.headers.raw


class _AnswerError(Exception):
    """An answer that came and cannot be used."""

    def __init__(self, outcome: Outcome, detail: str) -> None:
        super().__init__(detail)
        self.outcome = outcome


class _Trace:
    """Times of the library's events, on the monotonic clock. Names: https://www.encode.io/httpcore/extensions/#trace"""

    def __init__(self, monotonic: Callable[[], float], attach: Callable[[socket.socket | None], None]) -> None:
        self._monotonic = monotonic
        self._attach = attach
        self._times: dict[str, float] = {}

    def __call__(self, event: str, info: Mapping[str, Any]) -> None:
        self._times[event] = self._monotonic()
        if event == "connection.connect_tcp.started":
            self._attach(None)
        if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            self._attach(info["return_value"].get_extra_info("socket"))

    @property
    def connect_s(self) -> float | None:
        last = "start_tls" if "connection.start_tls.started" in self._times else "connect_tcp"
        ready = self._times.get(f"connection.{last}.complete")
        return None if ready is None else ready - self._times["connection.connect_tcp.started"]

    @property
    def stage(self) -> str:
        """Where the request is, in words."""
        if "http11.send_request_headers.started" not in self._times:
            return "not connected"
        if "http11.receive_response_headers.started" not in self._times:
            return "the request was not taken"
        if "http11.receive_response_headers.complete" not in self._times:
            return "no answer began"
        return "the answer began and did not end"


def _decode(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """The body as it was before a server, not asked to, compressed it. Raises _AnswerError."""
    if encoding.strip().lower() in ("", "identity") or not body:
        return body
    if encoding.strip().lower() not in ("gzip", "x-gzip", "deflate"):
        raise _AnswerError(Outcome.PROTOCOL_ERROR, "the answer is compressed in a way that was not asked for")
    unpack = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # 32: gzip or zlib, by its first bytes
    try:
        plain = unpack.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise _AnswerError(Outcome.PROTOCOL_ERROR, "the compressed answer cannot be unpacked") from error
    if len(plain) > max_bytes:
        raise _AnswerError(Outcome.ANSWER_TOO_LARGE, f"more than {max_bytes} bytes once unpacked")
    if not unpack.eof:
        raise _AnswerError(Outcome.PROTOCOL_ERROR, "the compressed answer ends too early")
    return plain
