"""Counts requests, and answers the watchdog's question "which worker are you?". One line in a server:

    app = WatchdogASGI(app)              # Starlette, FastAPI, Django's ASGI application
    app.wsgi_app = WatchdogWSGI(app.wsgi_app)        # Flask; or app = WatchdogWSGI(app) for any WSGI application
    with watching(batch): ...            # a Celery task, a gRPC method, a loop: anything that is no HTTP application

Only requests that carry `X-Watchdog-Canary` get a header in their answer:
`X-Watchdog-Worker: PID@START_TICKS;torch=2.9.1;cuda=12.8` (pieces that are not known are left out). Torch is not
loaded for this, and nothing is ever raised into the server. Counts are told by the agent, see `attach`.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Awaitable, Callable, Dict, Iterable, Iterator, List, MutableMapping, Tuple

from watchdog_agent.identity import ANSWER_HEADER, ASKING_HEADER, Worker
from watchdog_agent.ledger import LEDGER

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_ASGIApp = Callable[[_Message, _Receive, _Send], Awaitable[None]]

_ASKING_BYTES = ASKING_HEADER.lower().encode()
_ASKING_KEY = "HTTP_" + ASKING_HEADER.upper().replace("-", "_")


@contextmanager
def watching(*inputs: Any) -> Iterator[None]:
    """One request, from entering to leaving. inputs: whose shapes are to be counted, in any nesting of one level."""
    LEDGER.counting = True
    LEDGER.begin()
    try:
        if inputs:
            LEDGER.note_shapes(inputs)
        yield
    finally:
        LEDGER.end()


class WatchdogASGI:
    """ASGI middleware: counts HTTP requests, and names the worker in the answers to canaries."""

    def __init__(self, app: _ASGIApp) -> None:
        self._app = app
        self._worker = Worker()
        LEDGER.counting = True

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        if scope.get("type") != "http":
            await self._app(scope, receive, send)
            return
        LEDGER.begin()
        try:
            for name, _ in scope.get("headers") or ():
                if name == _ASKING_BYTES:
                    break
            else:
                await self._app(scope, receive, send)
                return

            async def send_named(message: _Message) -> None:
                await send(self._named(message))

            await self._app(scope, receive, send_named)
        finally:
            LEDGER.end()

    def _named(self, message: _Message) -> _Message:
        if message.get("type") != "http.response.start":
            return message
        try:
            header = (ANSWER_HEADER.lower().encode(), self._worker.header(LEDGER.version).encode("latin-1"))
            return {**message, "headers": [*(message.get("headers") or ()), header]}
        except Exception:  # noqa: BLE001 - never the server's problem
            return message


class WatchdogWSGI:
    """WSGI middleware: counts requests until their answer is sent, and names the worker in the answers to canaries."""

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self._app = app
        self._worker = Worker()
        LEDGER.counting = True

    def __call__(self, environ: Dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        LEDGER.begin()
        try:
            if _ASKING_KEY in environ:
                start_response = self._naming(start_response)
            body = self._app(environ, start_response)
        except BaseException:
            LEDGER.end()
            raise
        # A server looks at the length of a list, and sends a wrapped file by itself: these go out as they are.
        if isinstance(body, (list, tuple)) or _is_wrapped(body, environ.get("wsgi.file_wrapper")):
            LEDGER.end()
            return body
        return _Body(body)

    def _naming(self, start_response: Callable[..., Any]) -> Callable[..., Any]:
        def start_named(status: str, headers: List[Tuple[str, str]], *exc_info: Any) -> Any:
            return start_response(status, self._named(headers), *exc_info)

        return start_named

    def _named(self, headers: List[Tuple[str, str]]) -> List[Tuple[str, str]]:
        try:
            return [*headers, (ANSWER_HEADER, self._worker.header(LEDGER.version))]
        except Exception:  # noqa: BLE001 - never the server's problem
            return headers


def _is_wrapped(body: Any, wrapper: Any) -> bool:
    """A wrapper is a type, or as in uWSGI a function that gives the file back."""
    return isinstance(body, wrapper) if isinstance(wrapper, type) else wrapper is not None and hasattr(body, "read")


class _Body:
    """An answer that is still being made. It ends when the server closes it, at the latest when nobody holds it."""

    def __init__(self, body: Iterable[bytes]) -> None:
        self._body = body
        self._open = True

    def __iter__(self) -> Iterator[bytes]:
        """Whoever keeps the iterator alone, as a middleware's loop does, holds the answer too."""
        for part in self._body:  # "yield from" would close it when it is dropped, and so does the server
            yield part

    def close(self) -> None:
        try:
            close = getattr(self._body, "close", None)
            if close is not None:
                close()
        finally:
            self._end()

    def __del__(self) -> None:
        self._end()

    def _end(self) -> None:
        if self._open:
            self._open = False
            LEDGER.end()
