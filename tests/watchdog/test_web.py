"""The web side: the page, health, readiness, metrics and the read-only API, asked as a client asks."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema
import pytest
from builders import NOW, make_baseline, make_burst, make_incident
from prometheus_client.parser import text_string_to_metric_families
from pydantic import TypeAdapter
from site_stage import Site, fill, make_config, make_episode, make_verdict, opened_site
from sqlalchemy import event
from starlette.routing import Route

from alerts import recycle_store
from alerts import store as alert_store
from alerts.episode import Outcome as RecycleOutcome
from alerts.incident import State
from baselines import baseline_store, burst_store, memory_store, verdict_store
from baselines.database import Database
from baselines.verdict import Cause, Check, Level, Reason, Status
from probes.messages import MemorySample, Outcome
from watchdog.web.api import COLLECTIONS

HOSTILE = "</td><script>alert('x')</script>&amp;"


@pytest.fixture
def site(database: Database) -> Site:
    """Nothing is known yet."""
    return Site(database, make_config())


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The same, for tests that only look."""
    with opened_site(tmp_path_factory.mktemp("empty")) as made:
        yield made


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Something of everything, for tests that only look."""
    with opened_site(tmp_path_factory.mktemp("full")) as made:
        fill(made.database, made.config)
        yield made


# --- the page ---------------------------------------------------------------------------------------------------------


def test_page_without_any_data_says_unknown(empty: Site) -> None:
    """A watchdog that just started shows every target, and claims nothing."""
    answer = empty.ask("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.text.count('<span class="UNKNOWN">UNKNOWN</span>') == 2
    assert "never" in answer.text
    assert "none yet" in answer.text


def test_page_shows_how_a_target_stands(full: Site) -> None:
    """Status, reason, cause, latency, baseline, worker, and how the last recycle ended."""
    page = full.ask("/").text
    for said in (
        '<span class="WORSE">WORSE</span>',
        "regressed (unknown, info)",
        "1 min 30 s ago",
        "50.0 ms (v1)",
        "5 MB of 8.0 GB",
        "last recycle: verified, 40 s ago",
    ):
        assert said in page, said


def test_page_says_that_a_baseline_is_provisional(site: Site) -> None:
    """A baseline that nobody vouched for is marked."""
    with site.database.write() as connection:
        baseline = baseline_store.save_baseline(connection, make_baseline(provisional=True))
        baseline_store.promote(connection, baseline, at=NOW, by="watchdog", why="first")
    assert "50.0 ms (provisional)" in site.ask("/").text


def test_page_escapes_what_comes_from_outside(site: Site) -> None:
    """Labels, subjects, workers and words of a server are text, whatever they hold."""
    with site.database.write() as connection:
        memory_store.add_memory(connection, [MemorySample(target="chat", slot=0, life=HOSTILE, at=NOW)])
        baseline = baseline_store.save_baseline(connection, make_baseline(label=HOSTILE))
        baseline_store.promote(connection, baseline, at=NOW, by=HOSTILE, why=HOSTILE)
        verdict = make_verdict(Check.MEMORY, Status.WORSE, subject=f"slot {HOSTILE}", evidence={HOSTILE: HOSTILE})
        verdict_store.save_verdict(connection, verdict)
        recycle_store.save_episode(connection, make_episode(reason=HOSTILE, detail=HOSTILE))
    page = site.ask("/").text
    assert "<script" not in page
    assert page.count(html.escape(HOSTILE)) == 3


def test_page_allows_no_script(empty: Site) -> None:
    """Were something ever left unescaped, the browser would still not run it."""
    policy = empty.ask("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script" not in policy


@pytest.mark.parametrize("subject", ["renamed", "slot 0", "peers default"])
def test_verdicts_about_what_is_watched_no_longer_do_not_count(database: Database, subject: str) -> None:
    """A canary that was renamed, or a worker when processes are watched no more, makes nothing WORSE for ever."""
    site = Site(database, make_config(chat={}))
    worker = MemorySample(target="chat", slot=0, life="77@5", at=NOW, host_anon_bytes=5_000_000)
    with site.database.write() as connection:
        memory_store.add_memory(connection, [worker])
        verdict_store.save_verdict(connection, make_verdict(Check.MEMORY, Status.WORSE, subject=subject))
        verdict_store.save_verdict(connection, make_verdict(Check.AVAILABILITY, Status.OK, reason=Reason.GOOD))
    (chat,) = site.ask("/api/v1/targets?target=chat").json()
    assert chat["status"] == "OK"
    assert [v["subject"] for v in chat["verdicts"]] == ["default"]
    assert chat["workers"] == []


def test_verdicts_about_workers_count_while_they_are_watched(site: Site) -> None:
    """With a [target.process] table a slot is a subject."""
    with site.database.write() as connection:
        verdict_store.save_verdict(connection, make_verdict(Check.MEMORY, Status.WORSE, subject="slot 0"))
    (chat,) = site.ask("/api/v1/targets?target=chat").json()
    assert chat["status"] == "WORSE"


# --- health and readiness ---------------------------------------------------------------------------------------------


def test_healthz_is_200_while_nothing_is_wrong(empty: Site) -> None:
    """The daemon is alive."""
    answer = empty.ask("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"alive": True, "problems": [], "notes": []})


def test_healthz_is_503_with_the_problems(site: Site) -> None:
    """What is wrong with the watchdog itself, in words."""
    site.problems = ("the database cannot be written: disk full",)
    answer = site.ask("/healthz")
    assert (answer.status_code, answer.json()) == (
        503,
        {"alive": False, "problems": list(site.problems), "notes": []},
    )


def test_readyz_is_200_when_the_database_answers(empty: Site) -> None:
    """The watchdog can tell how things stand."""
    answer = empty.ask("/readyz")
    assert (answer.status_code, answer.json()) == (200, {"ready": True, "reasons": []})


@pytest.fixture
def broken_site(site: Site) -> Site:
    """The database file is no longer one."""
    site.database.close()
    for path in site.database.path.parent.glob("watchdog.db*"):
        path.unlink()
    site.database.path.write_bytes(b"this is no database, whatever its name says" * 100)
    return site


def test_readyz_is_503_when_the_database_does_not_answer(broken_site: Site) -> None:
    """And says why."""
    answer = broken_site.ask("/readyz")
    assert answer.status_code == 503
    assert "database" in answer.json()["reasons"][0]


def test_unreadable_database_is_no_evidence_against_a_target(broken_site: Site) -> None:
    """The watchdog's own trouble takes no target out of rotation; a drain that is under way still does."""
    assert broken_site.ask("/readyz/chat").status_code == 200
    broken_site.draining = frozenset({"chat"})
    assert broken_site.ask("/readyz/chat").json() == {"ready": False, "reasons": ["a recycle is under way"]}


def test_target_is_ready_before_anything_is_known(empty: Site) -> None:
    """A watchdog that just started is no reason to take a target out of rotation."""
    assert empty.ask("/readyz/chat").json() == {"ready": True, "reasons": []}


def add_incident(database: Database, **about: Any) -> None:
    with database.write() as connection:
        alert_store.save_incident(connection, make_incident(**about))


@pytest.mark.parametrize(
    ("check", "reason"), [(Check.AVAILABILITY, Reason.TIMEOUT), (Check.OUTPUT, Reason.DRIFTED)], ids=str
)
def test_target_is_not_ready_while_it_fails_or_answers_wrongly(site: Site, check: Check, reason: Reason) -> None:
    """A firing availability or output incident is positive evidence; another target is not touched by it."""
    add_incident(site.database, check=check, reason=reason)
    answer = site.ask("/readyz/chat")
    assert (answer.status_code, answer.json()) == (503, {"ready": False, "reasons": [f"{check}: {reason}"]})
    assert site.ask("/readyz/other").status_code == 200


@pytest.mark.parametrize("check", [Check.LATENCY, Check.MEMORY, Check.GPU], ids=str)
def test_target_stays_ready_while_it_is_slow_or_leaks(site: Site, check: Check) -> None:
    """Slow or leaking serves better than not at all."""
    add_incident(site.database, check=check, level=Level.URGENT, reason=Reason.LEAKING)
    assert site.ask("/readyz/chat").status_code == 200


@pytest.mark.parametrize("state", [State.PENDING, State.RESOLVED], ids=str)
def test_target_stays_ready_until_an_incident_fires_and_after_it_resolved(site: Site, state: State) -> None:
    """One bad burst is not enough, and what is over is over."""
    add_incident(site.database, state=state)
    assert site.ask("/readyz/chat").status_code == 200


@pytest.mark.parametrize("check", Check)
def test_target_stays_ready_while_anything_is_unknown(site: Site, check: Check) -> None:
    """UNKNOWN is shown, and is never a reason to act."""
    with site.database.write() as connection:
        verdict_store.save_verdict(connection, make_verdict(check, Status.UNKNOWN, reason=Reason.NO_DATA))
    assert site.ask("/readyz/chat").status_code == 200


def test_target_is_not_ready_while_it_is_drained(site: Site) -> None:
    """A recycle takes it out of rotation first."""
    site.draining = frozenset({"chat"})
    answer = site.ask("/readyz/chat")
    assert (answer.status_code, answer.json()["reasons"]) == (503, ["a recycle is under way"])
    assert site.ask("/readyz/other").status_code == 200


@pytest.mark.parametrize(("failures", "status"), [(1, 200), (2, 503)])
def test_target_is_not_ready_while_its_breaker_is_open(site: Site, failures: int, status: int) -> None:
    """Two recycles that did not help: a person must look."""
    with site.database.write() as connection:
        for number in range(failures):
            helpless = make_episode(id=f"recycle-{number}", outcome=RecycleOutcome.NOT_HELPED, ended_at=NOW + number)
            recycle_store.save_episode(connection, helpless)
    answer = site.ask("/readyz/chat")
    assert answer.status_code == status
    assert answer.json()["reasons"] == (["the recycle breaker is open"] if status == 503 else [])


@pytest.mark.parametrize(
    ("outcomes", "status"),
    [(None, 503), ((Outcome.REFUSED,), 503), ((Outcome.GOOD,) * 3, 200)],
    ids=["none", "bad", "good"],
)
def test_strict_readiness_waits_for_a_good_canary(
    database: Database, outcomes: tuple[Outcome, ...] | None, status: int
) -> None:
    """With readyz_strict a target gets traffic only once a canary was good."""
    site = Site(database, make_config(readyz_strict=True))
    if outcomes is not None:
        with database.write() as connection:
            burst_store.add_burst(connection, make_burst(*outcomes))
    assert site.ask("/readyz/chat").status_code == status


def test_readiness_asks_about_one_target_only(site: Site) -> None:
    """A load balancer asks every second: no verdict, no memory and no burst is read for it, of whatever target."""
    asked: list[str] = []
    event.listen(site.database.fast, "before_cursor_execute", lambda *about: asked.append(about[2]))
    assert site.ask("/readyz/chat").status_code == 200
    assert site.ask("/readyz").status_code == 200
    for what in ("FROM verdicts", "FROM memory_samples", "FROM baselines", "bursts.samples"):
        assert not [statement for statement in asked if what in statement]
    assert len(asked) < 10


def test_strict_readiness_does_not_count_answers_from_before_the_start(database: Database) -> None:
    """A good canary of yesterday's daemon says nothing about the server of today."""
    with database.write() as connection:
        burst_store.add_burst(connection, make_burst(Outcome.GOOD, at=NOW - 86400.0))
    assert Site(database, make_config(readyz_strict=True)).ask("/readyz/chat").status_code == 503


# --- metrics, methods, hosts ------------------------------------------------------------------------------------------


def test_metrics_are_what_prometheus_reads(empty: Site) -> None:
    """The content type of the text format, and a body that parses."""
    answer = empty.ask("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert answer.headers["content-type"].count("charset=") == 1
    names = {family.name for family in text_string_to_metric_families(answer.text)}
    assert "watchdog_canary_requests" in names


PATHS = [
    "/",
    "/healthz",
    "/readyz",
    "/readyz/chat",
    "/metrics",
    "/api/v1/openapi.json",
    *(f"/api/v1/{c}" for c in COLLECTIONS),
]


@pytest.mark.parametrize("path", PATHS)
def test_nothing_but_reading_is_allowed(empty: Site, path: str) -> None:
    """GET and HEAD; every other method is 405 and says which are allowed."""
    assert empty.ask(path, method="HEAD").status_code == 200
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"):
        answer = empty.ask(path, method=method)
        assert answer.status_code == 405, method
        assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD"}


@pytest.mark.parametrize("path", ["/nothing", "/readyz/nobody", "/api/v1", "/api/v1/nothing", "/api/v2/targets"])
def test_unknown_path_is_404(empty: Site, path: str) -> None:
    """No page, no target and no collection of that name."""
    assert empty.ask(path).status_code == 404


@pytest.mark.parametrize(
    "host", ["evil.example.com", "evil.example.com:9477", "127.0.0.1.evil.example.com", "192.0.2.1"]
)
@pytest.mark.parametrize("path", ["/", "/metrics", "/api/v1/targets"])
def test_foreign_host_is_refused_on_loopback(empty: Site, host: str, path: str) -> None:
    """A web page that points its own name at 127.0.0.1 gets nothing (DNS rebinding)."""
    assert empty.ask(path, host=host).status_code == 400


@pytest.mark.parametrize("host", ["127.0.0.1:9477", "localhost:9477", "localhost", "[::1]:9477"])
@pytest.mark.parametrize("listen", ["127.0.0.1:9477", "localhost:9477", "[::1]:9477"])
def test_own_names_are_served_on_loopback(database: Database, listen: str, host: str) -> None:
    """Whichever loopback address it listens on, under whichever of its names."""
    assert Site(database, make_config(listen=listen)).ask("/healthz", host=host).status_code == 200


def test_any_host_is_served_elsewhere(database: Database) -> None:
    """Who listens on the network is reached under names that the watchdog cannot know."""
    assert (
        Site(database, make_config(listen="0.0.0.0:9477")).ask("/healthz", host="gpu7.example.com").status_code == 200
    )


# --- the API ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COLLECTIONS)
@pytest.mark.parametrize("kind", ["empty", "full"])
def test_collection_reads_back_as_its_type(name: str, kind: str, request: pytest.FixtureRequest) -> None:
    """What is served is what the types say, and nothing of it is NaN, which no JSON reader takes."""
    site: Site = request.getfixturevalue(kind)
    answer = site.ask(f"/api/v1/{name}")
    assert answer.headers["content-type"] == "application/json"
    items = json.loads(answer.text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    read = TypeAdapter(list[COLLECTIONS[name].item]).validate_json(answer.text)  # type: ignore[name-defined]
    assert len(read) == len(items) > (0 if kind == "full" else -1)


@pytest.mark.parametrize("name", COLLECTIONS)
@pytest.mark.parametrize("kind", ["empty", "full"])
def test_collection_is_what_the_openapi_document_says(name: str, kind: str, request: pytest.FixtureRequest) -> None:
    """Validated with a JSON Schema library against the document that the API itself serves."""
    site: Site = request.getfixturevalue(kind)
    document = site.ask("/api/v1/openapi.json").json()
    told = document["paths"][f"/api/v1/{name}"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    schema = {**told, "components": document["components"]}
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(site.ask(f"/api/v1/{name}").json())


def test_openapi_document_names_every_collection(empty: Site) -> None:
    """Each collection has its path, with a parameter to choose a target."""
    document = empty.ask("/api/v1/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    for name in COLLECTIONS:
        assert [p["name"] for p in document["paths"][f"/api/v1/{name}"]["get"]["parameters"]] == ["target"]


def test_openapi_document_names_every_path_of_the_api(empty: Site) -> None:
    """And no other, with every method that it takes."""
    described = {
        (path, method.upper())
        for path, item in empty.ask("/api/v1/openapi.json").json()["paths"].items()
        for method in item
        if method != "parameters"
    }
    served = {
        (route.path, method)
        for route in empty.app.routes
        if isinstance(route, Route) and route.path.startswith("/api/") and route.methods
        for method in route.methods - {"HEAD"}
    }
    assert served - described == {("/api/v1/openapi.json", "GET")}
    assert described <= served


@pytest.mark.parametrize("name", COLLECTIONS)
def test_target_chooses(full: Site, name: str) -> None:
    """?target= keeps what is about it, and nothing is about the other one but that it is there."""
    every = full.ask(f"/api/v1/{name}").json()
    assert full.ask(f"/api/v1/{name}?target=chat").json() == [i for i in every if i.get("name", "chat") == "chat"]
    assert len(full.ask(f"/api/v1/{name}?target=other").json()) == (1 if name == "targets" else 0)


@pytest.mark.parametrize("name", COLLECTIONS)
@pytest.mark.parametrize("target", ["nobody", "", "'; drop table bursts", HOSTILE])
def test_unknown_target_is_404_with_the_names_there_are(full: Site, name: str, target: str) -> None:
    """Whoever mistypes a name is told the right ones."""
    answer = full.ask(str(httpx.URL(f"/api/v1/{name}", params={"target": target})))
    assert answer.status_code == 404
    assert answer.json() == {"error": f"no target is named {target!r}", "targets": ["chat", "other"]}


def test_page_and_api_hold_no_address_of_a_notifier(full: Site) -> None:
    """A webhook's URL is a key."""
    for path in PATHS:
        assert "127.0.0.1:1/key" not in full.ask(path).text


def test_incident_carries_its_cause_and_level(site: Site) -> None:
    """The API's words are the design's."""
    add_incident(site.database, evidence={"ratio": 1.31})
    (incident,) = site.ask("/api/v1/incidents").json()
    assert (incident["cause"], incident["level"], incident["state"]) == (Cause.MODEL, Level.PAGE, State.FIRING)
    assert incident["evidence"] == {"ratio": 1.31}
