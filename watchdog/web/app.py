"""The web side: page, health, readiness, metrics, API. Without the token it only reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from sqlalchemy.exc import DatabaseError as SqlError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from alerts import store as alert_store
from baselines.database import Database, DatabaseError
from baselines.verdict import Check
from watchdog import exposition
from watchdog.config import Config
from watchdog.status import Readiness, read_readiness, read_targets
from watchdog.web import api, changes
from watchdog.web.page import render

CONTENT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"  # no script


@dataclass(frozen=True, slots=True, kw_only=True)
class Liveness:
    """What the daemon says of itself. problems: one line each, empty when all is well.

    notes: what a person should know or see to and a restart would not cure; they make nothing unhealthy.
    """

    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()


def create_app(
    database: Database,
    config: Config,
    registry: CollectorRegistry,
    *,
    now: Callable[[], float],
    liveness: Callable[[], Liveness],
    draining: Callable[[], frozenset[str]],
    started_at: float | None = None,
) -> Starlette:
    """The application.

    liveness: asked on each /healthz. draining: targets that a recycle keeps out of rotation. started_at: when the
    daemon did, for `readyz_strict`; None is now.
    Foreign Host headers are refused when the server listens on loopback, so that no web page can reach it by DNS
    rebinding.
    """

    good_since = (now() if started_at is None else started_at) if config.web.readyz_strict else None

    def page(_request: Request) -> Response:
        with database.read() as connection:
            targets = read_targets(connection, config)
        return HTMLResponse(render(targets, now=now()), headers={"Content-Security-Policy": CONTENT_POLICY})

    def healthz(_request: Request) -> Response:
        said = liveness()
        answer = {"alive": not said.problems, "problems": said.problems, "notes": said.notes}
        return JSONResponse(answer, status_code=503 if said.problems else 200)

    def readyz(_request: Request) -> Response:
        """The watchdog is ready when its database answers."""
        try:
            with database.read() as connection:
                alert_store.count_firing(connection)
        except SqlError as error:
            return JSONResponse({"ready": False, "reasons": [f"the database: {error.orig}"]}, status_code=503)
        return JSONResponse({"ready": True, "reasons": []})

    def readyz_target(request: Request) -> Response:
        name = request.path_params["target"]
        section = next((t for t in config.target if t.name == name), None)
        if section is None:
            return JSONResponse({"error": f"no target is named {name!r}"}, status_code=404)
        try:
            with database.read() as connection:
                known = read_readiness(connection, section)
        except SqlError:
            known = None
        reasons = not_ready(known, draining=name in draining(), good_since=good_since)
        return JSONResponse({"ready": not reasons, "reasons": reasons}, status_code=503 if reasons else 200)

    def metrics(_request: Request) -> Response:
        return Response(exposition.render(registry), media_type=CONTENT_TYPE_LATEST)

    hosts = ["127.0.0.1", "localhost", "[::1]"] if config.web.host in ("127.0.0.1", "localhost", "::1") else ["*"]
    return Starlette(
        routes=[
            Route("/", page, methods=["GET"]),
            Route("/healthz", healthz, methods=["GET"]),
            Route("/readyz", readyz, methods=["GET"]),
            Route("/readyz/{target}", readyz_target, methods=["GET"]),
            Route("/metrics", metrics, methods=["GET"]),
            *api.routes(database, config),
            *changes.routes(database, config, now=now),
        ],
        exception_handlers={HTTPException: _say, SqlError: _say_unusable, DatabaseError: _say_unusable},
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts)],
    )


async def _say(_request: Request, error: Exception) -> Response:
    """A path or a method that is not there, as JSON as every refusal is."""
    assert isinstance(error, HTTPException)  # what it is registered for
    return changes.error_answer(error.status_code, error.detail, headers=error.headers)


async def _say_unusable(_request: Request, error: Exception) -> Response:
    """The database does not answer: the daemon's log and /healthz say more, again and again here would be noise."""
    said = error.orig if isinstance(error, SqlError) else error
    return changes.error_answer(503, f"the database cannot be used: {said}")


def not_ready(known: Readiness | None, *, draining: bool, good_since: float | None) -> list[str]:
    """Why a target must get no traffic; empty when it may.

    Only positive evidence counts: never latency, a leak, UNKNOWN, or a watchdog that just started or cannot read its
    database (known is None). With good_since (`readyz_strict`: when the daemon started) the start-up gate comes first:
    each canary must have been good once since then.
    """
    reasons = []
    if known is not None:
        reasons += [f"{i.check}: {i.reason}" for i in known.incidents if i.check in (Check.AVAILABILITY, Check.OUTPUT)]
    if draining:
        reasons.append("a recycle is under way")
    if known is not None and known.breaker_open:
        reasons.append("the recycle breaker is open")
    if good_since is not None and (
        known is None or any(at is None or at < good_since for at in known.last_good_at.values())
    ):
        reasons.append("no good canary yet (readyz_strict)")
    return reasons
