"""What the OpenAPI document says of what may be changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import TypeAdapter

from alerts.incident import Incident
from alerts.store import Silence
from watchdog.web.changes import AckRequest, SilenceRequest

Mode = Literal["serialization", "validation"]
Schemas = Mapping[tuple[str, Mode], Any]

MODELS: list[tuple[str, Mode, TypeAdapter[Any]]] = [
    ("incident", "serialization", TypeAdapter(Incident)),
    ("silence", "serialization", TypeAdapter(Silence)),
    ("silences", "serialization", TypeAdapter(list[Silence])),
    ("ack", "validation", TypeAdapter(AckRequest)),
    ("silencing", "validation", TypeAdapter(SilenceRequest)),
]
"""For `TypeAdapter.json_schemas`, together with the models of the collections; the keys of `Schemas`."""

SECURITY_SCHEMES = {"token": {"type": "http", "scheme": "bearer", "description": "The token of [web]."}}

ERROR = {
    "type": "object",
    "properties": {
        "error": {"type": "string"},
        "problems": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {key: {"type": "string"} for key in ("key", "given", "allowed")},
                "required": ["key", "given", "allowed"],
                "additionalProperties": False,
            },
        },
    },
    "required": ["error", "problems"],
    "additionalProperties": False,
}

_SAID = {
    "400": "The body is not JSON.",
    "401": "The token is missing or wrong.",
    "403": "No token is configured, or a page of another site asks.",
    "404": "There is none of this name or id.",
    "409": "The incident is over.",
    "413": "The body is too long.",
    "415": "The body is not sent as JSON.",
    "422": "The body holds something else; each problem is named.",
}


def paths(schemas: Schemas) -> dict[str, Any]:
    """The path items."""
    ack = _change(
        "acknowledge",
        "Say that you are on it: no more reminders until it gets worse or comes back",
        answers={"200": ("The incident as it is now.", schemas["incident", "serialization"])},
        body=schemas["ack", "validation"],
        body_needed=False,
        refusals=("409",),
    )
    add = _change(
        "add_silence",
        "Keep quiet about a target; it is not recycled by the daemon meanwhile either",
        answers={"201": ("The silence with its id.", schemas["silence", "serialization"])},
        body=schemas["silencing", "validation"],
    )
    listed = {
        "operationId": "list_silences",
        "summary": "Silences that hold now",
        "responses": {"200": _response("Silences that hold now", schemas["silences", "serialization"])},
    }
    end = _change("end_silence", "End a silence now", answers={"204": ("It is over.", None)})
    return {
        "/api/v1/incidents/{incident}/ack": {"post": ack, "parameters": [_in_path("incident")]},
        "/api/v1/silences": {"get": listed, "post": add},
        "/api/v1/silences/{silence}": {"delete": end, "parameters": [_in_path("silence")]},
    }


def _change(
    name: str,
    summary: str,
    *,
    answers: Mapping[str, tuple[str, Any]],
    body: Any = None,
    body_needed: bool = True,
    refusals: tuple[str, ...] = (),
) -> dict[str, Any]:
    of_bodies = ("400", "413", "415", "422") if body is not None else ()
    operation = {
        "operationId": name,
        "summary": summary,
        "security": [{"token": []}],
        "responses": {status: _response(said, schema) for status, (said, schema) in answers.items()}
        | {status: _response(_SAID[status], ERROR) for status in ("401", "403", "404", *of_bodies, *refusals)},
    }
    if body is not None:
        operation["requestBody"] = {"required": body_needed, "content": {"application/json": {"schema": body}}}
    return operation


def _response(said: str, schema: Any) -> dict[str, Any]:
    content = {} if schema is None else {"content": {"application/json": {"schema": schema}}}
    return {"description": said, **content}


def _in_path(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
