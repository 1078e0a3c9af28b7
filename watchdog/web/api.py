"""The API for reading: one table says what there is; routes and the OpenAPI document are made from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from alerts import recycle_store
from alerts import store as alert_store
from alerts.delivery_store import Delivery, list_deliveries
from alerts.incident import Incident
from alerts.recycle_store import Episode
from baselines import baseline_store, verdict_store
from baselines.baseline import Baseline
from baselines.database import Database
from baselines.verdict import Verdict
from watchdog.config import Config
from watchdog.metrics import package_version
from watchdog.status import TargetStatus, read_targets
from watchdog.web import document, history

LIMIT = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineSummary:
    """A baseline without its samples. Latencies in seconds."""

    id: int | None
    target: str
    canary: str
    taken_at: float
    label: str | None
    provisional: bool
    active: bool
    p50_s: float
    p95_s: float
    samples: int
    provenance: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Collection:
    """One path of the API: what its items are, and how they are read (newest first, at most LIMIT)."""

    summary: str
    item: Any
    read: Callable[[Connection, Config, str | None], list[Any]]


def _baselines(connection: Connection, config: Config, target: str | None) -> list[BaselineSummary]:
    found: list[BaselineSummary] = []
    for section in config.target:
        if target not in (None, section.name):
            continue
        for canary in section.canary:
            active = {p.baseline_id for p in baseline_store.promotions(connection, section.name, canary.name, limit=1)}
            found += [
                summarise_baseline(baseline, active=baseline.id in active)
                for baseline in baseline_store.list_baselines(
                    connection, section.name, canary.name, limit=LIMIT - len(found)
                )
            ]
    return found


def summarise_baseline(baseline: Baseline, *, active: bool) -> BaselineSummary:
    """What is shown of a baseline."""
    return BaselineSummary(
        id=baseline.id,
        target=baseline.target,
        canary=baseline.canary,
        taken_at=baseline.taken_at,
        label=baseline.label,
        provisional=baseline.provisional,
        active=active,
        p50_s=baseline.p50_s,
        p95_s=baseline.p95_s,
        samples=sum(len(b) for b in baseline.bursts),
        provenance=baseline.provenance,
    )


COLLECTIONS: Mapping[str, Collection] = {
    "targets": Collection(
        "How every target stands now",
        TargetStatus,
        lambda c, config, target: [t for t in read_targets(c, config) if target in (None, t.name)],
    ),
    "verdicts": Collection(
        "The newest verdict of each check and subject",
        Verdict,
        lambda c, _config, target: [v for v in verdict_store.latest_verdicts(c) if target in (None, v.target)],
    ),
    "incidents": Collection(
        "Incidents",
        Incident,
        lambda c, _config, target: alert_store.list_incidents(c, target=target, limit=LIMIT),
    ),
    "baselines": Collection("Stored baselines, without their samples", BaselineSummary, _baselines),
    "deliveries": Collection(
        "The outbox",
        Delivery,
        lambda c, _config, target: list_deliveries(c, target=target, limit=LIMIT),
    ),
    "recycles": Collection(
        "Recycle episodes",
        Episode,
        lambda c, _config, target: recycle_store.list_episodes(c, target, limit=LIMIT),
    ),
}


def routes(database: Database, config: Config) -> list[Route]:
    """The routes below /api/v1. An unknown `target` is a 404 that lists the names there are."""
    names = [t.name for t in config.target]

    def serve(name: str, collection: Collection) -> Route:
        adapter = TypeAdapter(list[collection.item])  # type: ignore[name-defined]  # a type made at run time

        def endpoint(request: Request) -> Response:
            target = request.query_params.get("target")
            if target is not None and target not in names:
                return JSONResponse({"error": f"no target is named {target!r}", "targets": names}, status_code=404)
            with database.read() as connection:
                items = collection.read(connection, config, target)
            return Response(adapter.dump_json(items), media_type="application/json")

        return Route(f"/api/v1/{name}", endpoint, methods=["GET"])

    described = openapi()
    return [
        *(serve(name, collection) for name, collection in COLLECTIONS.items()),
        *history.routes(database, config),
        Route("/api/v1/openapi.json", lambda _request: JSONResponse(described), methods=["GET"]),
    ]


def openapi() -> dict[str, Any]:
    """The OpenAPI 3.1 document of the API, with the items' schemas taken from their types.

    All at once, so that types of the same name (there are two `State`) get names of their own.
    """
    adapters = [(name, TypeAdapter(list[collection.item])) for name, collection in COLLECTIONS.items()]  # type: ignore[name-defined]  # as above
    schemas, definitions = TypeAdapter.json_schemas(
        [*((name, "serialization", adapter) for name, adapter in adapters), *document.MODELS, *history.MODELS],
        ref_template="#/components/schemas/{model}",
    )
    return {
        "openapi": "3.1.0",
        "info": {"title": "Inference watchdog", "version": package_version()},
        "paths": {
            f"/api/v1/{name}": {"get": _operation(name, collection.summary, schemas[(name, "serialization")])}
            for name, collection in COLLECTIONS.items()
        }
        | document.paths(schemas)
        | history.paths(schemas),
        "components": {"schemas": definitions["$defs"], "securitySchemes": document.SECURITY_SCHEMES},
    }


def _operation(name: str, summary: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "operationId": f"list_{name}",
        "summary": summary,
        "parameters": [
            {
                "name": "target",
                "in": "query",
                "required": False,
                "description": "Only this target.",
                "schema": {"type": "string"},
            }
        ],
        "responses": {
            "200": {"description": summary, "content": {"application/json": {"schema": schema}}},
            "404": {
                "description": "No target has this name.",
                "content": {"application/json": {"schema": {"type": "object"}}},
            },
        },
    }
