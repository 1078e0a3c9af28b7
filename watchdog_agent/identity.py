"""Which worker answered? One line in a server lets its answers to the watchdog's canaries say so.

    app = WatchdogASGI(app)              # Starlette, FastAPI, Django's ASGI application
    app.wsgi_app = WatchdogWSGI(app.wsgi_app)        # Flask; or app = WatchdogWSGI(app) for any WSGI application

Only requests that carry `X-Watchdog-Canary` are touched: their answers gain
`X-Watchdog-Worker: PID@START_TICKS;torch=2.9.1;cuda=12.8` (pieces that are not known are left out). Torch is not
loaded for this, nothing is ever raised into the server, and without the header the cost is one look at the headers.
"""

from __future__ import annotations

import os
import sys
from typing import Any, Awaitable, Callable, Dict, Iterable, List, MutableMapping, Optional, Tuple

ASKING_HEADER = "X-Watchdog-Canary"
ANSWER_HEADER = "X-Watchdog-Worker"

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_ASGIApp = Callable[[_Message, _Receive, _Send], Awaitable[None]]


def start_ticks(stat: str = "/proc/self/stat") -> Optional[int]:
    """Clock ticks from boot to the start of this process (field 22 of /proc/PID/stat); None where there is no /proc."""
    try:
        with open(stat, encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - no pathlib inside a server
            after_name = file.read().rpartition(")")[2]  # the name in field 2 may hold spaces and brackets
        return int(after_name.split()[19])
    except (OSError, ValueError, IndexError):
        return None


def life_key() -> Optional[str]:
    """PID@START_TICKS of this process; None where there is no /proc."""
    ticks = start_ticks()
    return None if ticks is None else f"{os.getpid()}@{ticks}"


class _Worker:
    """The header's value. Worked out on the first question after each fork, since master and worker differ."""

    def __init__(self) -> None:
        self._pid = -1
        self._life = ""

    def header(self) -> str:
        pid = os.getpid()
        if pid != self._pid:
            self._life, self._pid = life_key() or str(pid), pid
        pieces = [self._life]
        torch = sys.modules.get("torch")
        for name, version in (
            ("torch", getattr(torch, "__version__", None)),
            ("cuda", getattr(getattr(torch, "version", None), "cuda", None)),
        ):
            if version:
                pieces.append(f"{name}={version}")
        return ";".join(pieces)


class WatchdogASGI:
    """ASGI middleware: names the worker in the answers to canaries."""

    def __init__(self, app: _ASGIApp) -> None:
        self._app = app
        self._worker = _Worker()

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        if scope.get("type") != "http" or not _asked(scope.get("headers") or ()):
            await self._app(scope, receive, send)
            return

        async def send_named(message: _Message) -> None:
            await send(self._named(message))

        await self._app(scope, receive, send_named)

    def _named(self, message: _Message) -> _Message:
        if message.get("type") != "http.response.start":
            return message
        try:
            header = (ANSWER_HEADER.lower().encode(), self._worker.header().encode("latin-1"))
            return {**message, "headers": [*(message.get("headers") or ()), header]}
        except Exception:  # noqa: BLE001 - never the server's problem
            return message


class WatchdogWSGI:
    """WSGI middleware: names the worker in the answers to canaries."""

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self._app = app
        self._worker = _Worker()

    def __call__(self, environ: Dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if "HTTP_" + ASKING_HEADER.upper().replace("-", "_") not in environ:
            return self._app(environ, start_response)

        def start_named(status: str, headers: List[Tuple[str, str]], *exc_info: Any) -> Any:
            return start_response(status, self._named(headers), *exc_info)

        return self._app(environ, start_named)

    def _named(self, headers: List[Tuple[str, str]]) -> List[Tuple[str, str]]:
        try:
            return [*headers, (ANSWER_HEADER, self._worker.header())]
        except Exception:  # noqa: BLE001 - never the server's problem
            return headers


def _asked(headers: Iterable[Tuple[bytes, bytes]]) -> bool:
    wanted = ASKING_HEADER.lower().encode()
    return any(name == wanted for name, _ in headers)
