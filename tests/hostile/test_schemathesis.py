"""The API against its own OpenAPI document: schemathesis makes the requests, all its checks hold for the answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from site_stage import fill, opened_site
from starlette.types import ASGIApp, Receive, Scope, Send

from watchdog.web.api import openapi

TOKEN = "t0ken-of-schemathesis"


class Stand:
    """Where the application of the fixture stands: the library wants one when tests are collected."""

    app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self.app is not None
        await self.app(scope, receive, send)


def document() -> dict[str, Any]:
    """The API's own, with the names that there are hinted at: else hardly a request would be about anything."""
    said = openapi()
    said["components"]["schemas"]["SilenceRequest"]["properties"]["target"] |= hint("chat", "other", "*")
    known = {"target": hint("chat", "other"), "incident": hint("i1"), "silence": hint("1", "2", "3")}
    for item in said["paths"].values():
        for parameter in [*item.get("parameters", []), *item.get("get", {}).get("parameters", [])]:
            if parameter["name"] in known:
                parameter["schema"] |= known[parameter["name"]]
    return said


def hint(*values: str) -> dict[str, Any]:
    """Any string still, but these often."""
    return {"anyOf": [{"enum": list(values)}, {"type": "string"}]}


STAND = Stand()
schema = schemathesis.openapi.from_dict(document())
schema.app = STAND

bounded = settings(max_examples=25, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module", autouse=True)
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Something of everything, a token, and any Host: the library calls the server by a name of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEB_TOKEN", TOKEN)
        with opened_site(tmp_path_factory.mktemp("whole"), token="env:WEB_TOKEN", listen="0.0.0.0:9477") as made:
            fill(made.database, made.config)
            STAND.app = made.app
            yield
            STAND.app = None


@schema.parametrize()
@bounded
def test_answers_are_what_the_document_says_with_the_token(case: Any) -> None:
    """Any request: no server error, a documented status, type and body; what is valid is taken, what is not is not."""
    case.call_and_validate(headers={"Authorization": f"Bearer {TOKEN}"})


@schema.parametrize()
@bounded
def test_answers_are_what_the_document_says_without_a_token(case: Any) -> None:
    """The same for whoever has none."""
    case.call_and_validate()
