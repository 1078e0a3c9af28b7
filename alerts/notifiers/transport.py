"""The connection pool that notifiers share, made when the first message is sent."""

from __future__ import annotations

import threading

import httpx


class SharedTransport(httpx.BaseTransport):
    """No ambient proxies, no retries of its own (the outbox retries). May be used from several threads.

    Loading the certificates that a machine trusts takes tens of milliseconds and 1.5 MB, which a start, and a command
    that sends nothing, need not wait for.
    """

    def __init__(self) -> None:
        self._transport: httpx.HTTPTransport | None = None
        self._lock = threading.Lock()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        with self._lock:
            if self._transport is None:
                self._transport = httpx.HTTPTransport(trust_env=False, retries=0)
            transport = self._transport
        return transport.handle_request(request)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
