"""What may be changed over HTTP, with the token: acknowledge an incident, add a silence, end one.

Every refusal is JSON: {"error": ..., "problems": [{"key", "given", "allowed"}]}. Every change and every refusal to
change is logged; the token never is.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from functools import wraps
from typing import Annotated, Any, Literal, TypeVar

import structlog
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from alerts.incident import IllegalSignal, Incident
from alerts.store import EVERYTHING, Silence
from baselines.database import Database
from baselines.verdict import Check
from probes.printable import one_line
from watchdog import oncall
from watchdog.config import Config, ConfigError
from watchdog.spelling import parse_duration
from watchdog.web.guard import refuse_change

MAX_BODY_BYTES = 16 * 1024  # far above anything that a person types

Endpoint = Callable[[Request], Awaitable[Response]]
Body = TypeVar("Body", bound=BaseModel)

_log = structlog.get_logger("web")

By = Annotated[str, Field(max_length=oncall.MAX_NAME_CHARS, description="Who; goes on record.")]


class AckRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    by: By = "api"


class SilenceRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    target: Annotated[str, Field(strict=True, max_length=64, description='A target, or "*" for all.')]
    check: Check | Literal["*"] = "*"
    for_: Annotated[
        str,
        Field(alias="for", strict=True, pattern=r"^[1-9][0-9]{0,3}[smhd]$", description='How long: "30m", "2h", "7d".'),
    ] = "1h"
    why: Annotated[str, Field(strict=True, max_length=oncall.MAX_WHY_CHARS, description="Goes on record.")] = ""
    by: Annotated[By, Field(strict=True)] = "api"


class _Unusable(Exception):  # noqa: N818  (the name says what happened)
    """The request cannot be carried out: the answer is in it."""

    def __init__(self, status: int, error: str, problems: list[dict[str, str]] | None = None) -> None:
        super().__init__(error)
        self.answer = error_answer(status, error, problems)


def error_answer(
    status: int, error: str, problems: list[dict[str, str]] | None = None, *, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """The form of every refusal."""
    return JSONResponse({"error": error, "problems": problems or []}, status_code=status, headers=headers)


def routes(database: Database, config: Config, *, now: Callable[[], float]) -> list[Route]:
    """The routes that change something, and the list of silences."""
    token = config.web.token.get_secret_value() if config.web.token is not None else None

    async def acknowledge(request: Request) -> Response:
        wanted = await _read(request, AckRequest)
        incident_id = request.path_params["incident"]
        incident = await run_in_threadpool(oncall.acknowledge, database, incident_id, by=wanted.by, now=now())
        _note(request, "acknowledged", incident=incident.id, by=incident.acked_by)
        return _answer(Incident, incident)

    async def add_silence(request: Request) -> Response:
        wanted = await _read(request, SilenceRequest)
        silence = await run_in_threadpool(
            oncall.add_silence,
            database,
            config,
            target=wanted.target,
            check=None if wanted.check == EVERYTHING else Check(wanted.check),
            length_s=parse_duration(wanted.for_),
            why=wanted.why,
            by=wanted.by,
            now=now(),
        )
        about = {"target": silence.target, "check": str(silence.check), "until": silence.until_at, "why": silence.why}
        _note(request, "silenced", silence=silence.id, by=silence.by, **about)
        return _answer(Silence, silence, status=201)

    async def end_silence(request: Request) -> Response:
        text = request.path_params["silence"]
        silence_id = int(text) if re.fullmatch(r"[0-9]{1,19}", text) else 0
        if silence_id == 0:
            raise oncall.NotThere(f"no silence {one_line(text, limit=60)!r} holds now: its id is a whole number")
        await run_in_threadpool(oncall.end_silence, database, silence_id, now=now())
        _note(request, "silence ended", silence=silence_id)
        return Response(status_code=204)

    def list_silences(_request: Request) -> Response:
        return _answer(list[Silence], oncall.list_silences(database, now=now()))

    guarded_add = _guarded(add_silence, token)

    async def silences(request: Request) -> Response:
        return await (guarded_add(request) if request.method == "POST" else run_in_threadpool(list_silences, request))

    return [
        Route("/api/v1/incidents/{incident}/ack", _guarded(acknowledge, token), methods=["POST"]),
        Route("/api/v1/silences", silences, methods=["GET", "POST"]),
        Route("/api/v1/silences/{silence}", _guarded(end_silence, token), methods=["DELETE"]),
    ]


def _guarded(endpoint: Endpoint, token: str | None) -> Endpoint:
    """Only with the token; what cannot be done is an answer."""

    @wraps(endpoint)
    async def guarded(request: Request) -> Response:
        refusal = refuse_change(request.headers, token)
        if refusal is not None:
            _note(request, "change refused", path=one_line(request.url.path, limit=100), reason=refusal.reason)
            headers = {"WWW-Authenticate": "Bearer"} if refusal.status == 401 else None
            return error_answer(refusal.status, refusal.words, headers=headers)
        try:
            return await endpoint(request)
        except _Unusable as error:
            return error.answer
        except (oncall.NotThere, ConfigError) as error:
            return error_answer(404, str(error))
        except IllegalSignal as error:
            return error_answer(409, str(error))

    return guarded


async def _read(request: Request, body_type: type[Body]) -> Body:
    """The body as that type; nothing at all is an empty object. Raises _Unusable."""
    body = b""
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise _Unusable(413, f"at most {MAX_BODY_BYTES} bytes are taken")
    except ClientDisconnect:
        raise _Unusable(400, "the connection ended before the request did") from None
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if (body or media_type) and media_type != "application/json":
        raise _Unusable(415, "the body must be JSON: Content-Type: application/json")
    try:
        return body_type.model_validate_json(body or b"{}")
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False)
    if any(problem["type"] == "json_invalid" for problem in found):
        raise _Unusable(400, "the body is not JSON")
    raise _Unusable(422, "the body is not what this takes", [_describe(problem, body_type) for problem in found])


def _describe(problem: Mapping[str, Any], body_type: type[BaseModel]) -> dict[str, str]:
    """The key, what was given, what is allowed."""
    kind, said = problem["type"], problem["msg"].replace("Input should", "must").replace("String should", "must")
    keys = ", ".join(field.alias or name for name, field in body_type.model_fields.items())
    words = {"extra_forbidden": f"unknown key; allowed: {keys}", "missing": "is needed", "model_type": "an object"}
    return {
        "key": one_line(".".join(str(step) for step in problem["loc"][:1]), limit=60),
        "given": "" if kind == "missing" else one_line(repr(problem["input"]), limit=60),
        "allowed": words.get(kind, said),
    }


def _answer(type_: Any, value: Any, *, status: int = 200) -> Response:
    return Response(TypeAdapter(type_).dump_json(value), status_code=status, media_type="application/json")


def _note(request: Request, what: str, **about: object) -> None:
    """One line about a change or a refusal, with the address it came from."""
    client = request.client.host if request.client else None
    _log.warning(what, client=client, **about) if "refused" in what else _log.info(what, client=client, **about)
