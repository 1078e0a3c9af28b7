"""The long view over HTTP: one path, for one target at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from baselines.database import Database
from probes.printable import one_line
from watchdog.config import Config
from watchdog.history import MAX_STEPS, By, CanaryStep, read_canaries
from watchdog.web.changes import error_answer
from watchdog.web.document import ERROR, Mode, Schemas

PATH = "/api/v1/history"
LATEST = 10**11  # some three thousand years from now: beyond it a moment is a mistake

_STEPS: TypeAdapter[list[CanaryStep]] = TypeAdapter(list[CanaryStep])
MODELS: list[tuple[str, Mode, TypeAdapter[Any]]] = [("history", "serialization", _STEPS)]


def routes(database: Database, config: Config) -> list[Route]:
    """The route. Names that are not there are a 404, anything else that cannot be used a 422 that says what can."""

    def history(request: Request) -> Response:
        asked = request.query_params
        section = next((t for t in config.target if t.name == asked.get("target")), None)
        if section is None:
            return _refuse(404, "target", asked.get("target"), ", ".join(t.name for t in config.target))
        names = [c.name for c in section.canary]
        if "canary" in asked and asked["canary"] not in names:
            return _refuse(404, "canary", asked["canary"], ", ".join(names))
        step = asked.get("step", By.DAY)
        if step not in set(By):
            return _refuse(422, "step", step, ", ".join(By))
        since = _moment(asked.get("since", "0"))
        if since is None:
            return _refuse(422, "since", asked["since"], f"Unix seconds, a whole number from 0 to {LATEST}")
        chosen = [asked["canary"]] if "canary" in asked else names
        with database.read() as connection:
            found = read_canaries(connection, section.name, chosen, by=By(step), since=since)
        return Response(_STEPS.dump_json(found), media_type="application/json")

    return [Route(PATH, history, methods=["GET"])]


def paths(schemas: Schemas) -> dict[str, Any]:
    """The path item of the OpenAPI document."""
    summary = f"Requests and latencies of a target's canaries, oldest first, at most {MAX_STEPS} steps of each canary"
    answers: Mapping[str, tuple[str, Any]] = {
        "200": (summary, schemas["history", "serialization"]),
        "404": ("No target or no canary has this name.", ERROR),
        "422": ("A parameter holds something else.", ERROR),
    }
    parameters = [
        _parameter("target", "Of this target.", {"type": "string"}, required=True),
        _parameter("canary", "Only of this canary.", {"type": "string"}),
        _parameter(
            "since",
            "Steps that ended after this moment, Unix seconds.",
            {"type": "integer", "minimum": 0, "maximum": LATEST},
        ),
        _parameter("step", "A day begins at midnight UTC.", {"enum": list(By), "default": By.DAY}),
    ]
    operation = {
        "operationId": "read_history",
        "summary": summary,
        "parameters": parameters,
        "responses": {
            status: {"description": said, "content": {"application/json": {"schema": schema}}}
            for status, (said, schema) in answers.items()
        },
    }
    return {PATH: {"get": operation}}


def _moment(text: str) -> float | None:
    """Unix seconds; None when it is no such number."""
    return float(text) if text.isascii() and text.isdecimal() and float(text) <= LATEST else None


def _refuse(status: int, key: str, given: str | None, allowed: str) -> Response:
    shown = "" if given is None else one_line(given, limit=60)
    problem = {"key": key, "given": shown, "allowed": allowed}
    return error_answer(status, f"{key} cannot be {shown!r}" if given is not None else f"{key} is needed", [problem])


def _parameter(name: str, description: str, schema: Mapping[str, Any], *, required: bool = False) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": required, "description": description, "schema": schema}
