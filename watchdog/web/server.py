"""The HTTP server under the web side: whoever connects, however many and however slowly, holds nothing up.

A client that sends its request byte by byte, never reads its answer, or only sits there costs a file descriptor, and a
daemon without descriptors can send no canaries. So an answer has a deadline, and connections have a cap: beyond it the
one that has waited longest is dropped, never the newcomer, who may be the one that asks for /healthz.
(`limit_concurrency` of uvicorn does the opposite: it turns newcomers away while the idle ones stay.)
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

ANSWER_S = 15.0
"""From connecting, or from the end of the last answer, to the end of the next one. An idle connection gets 5 s of it
(uvicorn's keep-alive), a slow network the rest."""

MAX_CONNECTIONS = 100
"""Far below the usual limit of 1024 descriptors, far above what Prometheus, a load balancer and people open."""

MAX_HEAD_BYTES = 16 * 1024
LOOK_S = 0.5


class BoundedConnection(H11Protocol):
    """One connection with a deadline, among a bounded number of them. Uses the library's `connections` and `loop`."""

    def __init__(self, *, answer_s: float, max_connections: int, **theirs: Any) -> None:
        super().__init__(**theirs)
        self._answer_s = answer_s
        self._max_connections = max_connections
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as the library's own
        super().connection_made(transport)
        self._set_deadline()
        others = [c for c in self.connections if isinstance(c, BoundedConnection) and c is not self]
        if len(others) >= self._max_connections:
            min(others, key=BoundedConnection.deadline_at).drop()

    def connection_lost(self, exc: Exception | None) -> None:
        self._clear_deadline()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        self._set_deadline()
        super().on_response_complete()

    def deadline_at(self) -> float:
        """On the loop's clock; infinite when the connection is closing already."""
        return self._deadline.when() if self._deadline is not None else float("inf")

    def drop(self) -> None:
        """At once: what is still to be written is not waited for."""
        self._clear_deadline()
        self.connections.discard(self)  # it is none any more, before the loop gets to tell us so
        self.transport.abort()

    def _set_deadline(self) -> None:
        self._clear_deadline()
        self._deadline = self.loop.call_later(self._answer_s, self.drop)

    def _clear_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class QuietServer(uvicorn.Server):
    """Looks twice a second whether it should end. The library looks ten times, half of what an idle daemon costs."""

    async def main_loop(self) -> None:
        while not await self.on_tick(0):  # 0: brings the Date header up to date
            await asyncio.sleep(LOOK_S)


def new_server(app: ASGIApp, *, answer_s: float = ANSWER_S, max_connections: int = MAX_CONNECTIONS) -> uvicorn.Server:
    """A server to run on sockets of the caller's: `server.run(sockets=[...])` until `server.should_exit`."""
    return QuietServer(
        uvicorn.Config(
            app,
            http=partial(BoundedConnection, answer_s=answer_s, max_connections=max_connections),  # type: ignore[arg-type]  # called as the class is
            ws="none",
            h11_max_incomplete_event_size=MAX_HEAD_BYTES,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=1,
            lifespan="off",
        )
    )
