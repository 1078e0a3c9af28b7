"""What may be changed over HTTP: with the token alone, from no other site, and each refusal says what is allowed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from builders import NOW, make_incident
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from site_stage import Site, fill, opened_site
from structlog.testing import capture_logs

from alerts import store as alert_store
from alerts.incident import State
from alerts.store import Silence
from watchdog.web.changes import MAX_BODY_BYTES
from watchdog.web.guard import RefusalReason, refuse_change

ACK, SILENCES = "/api/v1/incidents/i1/ack", "/api/v1/silences"
CHANGES = [
    pytest.param("POST", ACK, {}, id="ack"),
    pytest.param("POST", SILENCES, {"target": "chat"}, id="silence"),
    pytest.param("DELETE", f"{SILENCES}/1", None, id="end"),
]


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def state_of(site: Site) -> tuple[Any, ...]:
    """All that could have been changed."""
    with site.database.read() as connection:
        return alert_store.find_incident(connection, "i1"), alert_store.list_silences(connection, now=NOW)


def silence_one(site: Site) -> None:
    with site.database.write() as connection:
        alert_store.add_silence(
            connection, Silence(target="chat", from_at=NOW, until_at=NOW + 600, by="ann", why="deploy")
        )


def test_incident_is_acknowledged_and_a_silence_begins_and_ends(site: Site, token: str) -> None:
    """What the commands do, with the same effect; who and what goes on record and into the log."""
    with capture_logs() as log:
        acked = site.ask(ACK, method="POST", headers=bearer(token), json={"by": "ann"})
        body = {"target": "chat", "check": "latency", "for": "2h", "why": "deploy of v2", "by": "ann"}
        added = site.ask(SILENCES, method="POST", headers=bearer(token), json=body)
        listed = site.ask(SILENCES)
        ended = site.ask(f"{SILENCES}/{added.json()['id']}", method="DELETE", headers=bearer(token))
        after = site.ask(SILENCES)
    assert (acked.status_code, acked.json()["acked_by"]) == (200, "ann")
    assert added.status_code == 201
    silence = Silence(
        id=1, target="chat", check="latency", from_at=NOW, until_at=NOW + 7200, by="ann", why="deploy of v2"
    )
    assert Silence(**added.json()) == Silence(**listed.json()[0]) == silence
    assert (ended.status_code, ended.content, after.json()) == (204, b"", [])
    assert [(line["event"], line.get("by")) for line in log] == [
        ("acknowledged", "ann"),
        ("silenced", "ann"),
        ("silence ended", None),
    ]
    assert token not in json.dumps(log, default=str)


def test_acknowledging_needs_no_body(site: Site, token: str) -> None:
    """`curl -X POST` is enough at three in the morning."""
    assert site.ask(ACK, method="POST", headers=bearer(token)).json()["acked_by"] == "api"


@pytest.mark.parametrize(("method", "path", "body"), CHANGES)
@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({}, id="none"),
        pytest.param(bearer("wrong"), id="wrong"),
        pytest.param(bearer(""), id="empty"),
        pytest.param({"Authorization": "t0ken-of-the-web-side"}, id="no scheme"),
        pytest.param({"Authorization": "Basic t0ken-of-the-web-side"}, id="another scheme"),
        pytest.param(bearer("T0KEN-OF-THE-WEB-SIDE"), id="case"),
        pytest.param({"X-Token": "t0ken-of-the-web-side"}, id="another header"),
    ],
)
def test_without_the_token_nothing_changes(
    site: Site, method: str, path: str, body: Any, headers: Mapping[str, str]
) -> None:
    """401 with what is needed, and nothing was changed."""
    silence_one(site)
    before = state_of(site)
    with capture_logs() as log:
        answer = site.ask(path, method=method, headers=headers, json=body)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert "Authorization: Bearer TOKEN" in answer.json()["error"]
    assert state_of(site) == before
    assert [line["reason"] for line in log] == [RefusalReason.WRONG_TOKEN]


@pytest.mark.parametrize(("method", "path", "body"), CHANGES)
@pytest.mark.parametrize("headers", [{}, bearer(""), bearer("None"), bearer("t0ken-of-the-web-side")], ids=repr)
def test_without_a_configured_token_all_is_refused(
    tmp_path: Path, method: str, path: str, body: Any, headers: Mapping[str, str]
) -> None:
    """403, and how to configure one: no token is not an empty token."""
    with opened_site(tmp_path) as site:
        fill(site.database, site.config)
        silence_one(site)
        before = state_of(site)
        answer = site.ask(path, method=method, headers=headers, json=body)
        assert (answer.status_code, state_of(site)) == (403, before)
        assert '[web] token = "env:NAME"' in answer.json()["error"]


@pytest.mark.parametrize(("method", "path", "body"), CHANGES)
@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://evil.example.com"},
        {"Origin": "http://127.0.0.1:8000"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "http://[::1"},
    ],
    ids=repr,
)
def test_page_of_another_site_changes_nothing(
    site: Site, token: str, *, method: str, path: str, body: Any, headers: Mapping[str, str]
) -> None:
    """403 even with the token: another port of this machine is another site, too."""
    silence_one(site)
    before = state_of(site)
    answer = site.ask(path, method=method, headers={**bearer(token), **headers}, json=body)
    assert (answer.status_code, state_of(site)) == (403, before)


def test_own_page_is_no_other_site(site: Site, token: str) -> None:
    """What a browser sends for a page of this very server; a proxy in front may have ended TLS."""
    for origin in ("http://127.0.0.1:9477", "https://127.0.0.1:9477"):
        headers = {**bearer(token), "Sec-Fetch-Site": "same-origin", "Origin": origin}
        assert site.ask(ACK, method="POST", headers=headers, json={}).status_code == 200


@pytest.mark.parametrize(("method", "path", "body"), CHANGES)
def test_foreign_host_changes_nothing(site: Site, token: str, method: str, path: str, body: Any) -> None:
    """A name that somebody points at 127.0.0.1 is refused before anything is looked at."""
    silence_one(site)
    before = state_of(site)
    answer = site.ask(path, method=method, headers=bearer(token), json=body, host="evil.example.com:9477")
    assert (answer.status_code, state_of(site)) == (400, before)


@pytest.mark.parametrize(
    ("more", "status", "said"),
    [
        pytest.param({"content": b"target=chat"}, 415, "application/json", id="no type"),
        pytest.param(
            {"content": b"{}", "headers": {"Content-Type": "text/plain"}}, 415, "application/json", id="text/plain"
        ),
        pytest.param({"data": {"target": "chat"}}, 415, "application/json", id="form"),
        pytest.param({"content": b"{", "headers": {"Content-Type": "application/json"}}, 400, "not JSON", id="broken"),
        pytest.param(
            {"content": b"\xff\xfe", "headers": {"Content-Type": "application/json"}}, 400, "not JSON", id="bytes"
        ),
        pytest.param(
            {"content": b"[" * 10_000, "headers": {"Content-Type": "application/json"}}, 400, "not JSON", id="deep"
        ),
        pytest.param(
            {"content": b'{"target": "\\ud800"}', "headers": {"Content-Type": "application/json"}},
            400,
            "not JSON",
            id="surrogate",
        ),
        pytest.param({"json": {"target": "x" * MAX_BODY_BYTES}}, 413, str(MAX_BODY_BYTES), id="long"),
        pytest.param({"json": {"target": "nobody"}}, 404, "there are: chat, other", id="unknown target"),
    ],
)
def test_body_that_cannot_be_used_is_refused(
    site: Site, token: str, more: dict[str, Any], status: int, said: str
) -> None:
    """The status says what kind of mistake, the words what is allowed."""
    headers = {**bearer(token), **more.pop("headers", {})}
    answer = site.ask(SILENCES, method="POST", headers=headers, **more)
    assert answer.status_code == status
    assert said in answer.json()["error"]


@pytest.mark.parametrize(
    ("body", "key", "given_", "allowed"),
    [
        ([], "", "[]", "an object"),
        ({}, "target", "", "is needed"),
        ({"target": 7}, "target", "7", "must be a valid string"),
        ({"target": "chat", "for": "yesterday"}, "for", "'yesterday'", "must match pattern"),
        ({"target": "chat", "for": "0h"}, "for", "'0h'", "must match pattern"),
        ({"target": "chat", "for": 3600}, "for", "3600", "must be a valid string"),
        ({"target": "chat", "check": "speed"}, "check", "'speed'", "'availability'"),
        ({"target": "chat", "length": "1h"}, "length", "'1h'", "unknown key; allowed: target, check, for, why, by"),
        ({"target": "chat", "why": "x" * 501}, "why", "'xxx", "at most 500 characters"),
        ({"target": "chat", "\x1b[2J": 1}, "[2J", "1", "unknown key"),
    ],
)
def test_wrong_value_is_named_with_what_is_allowed(
    site: Site, token: str, *, body: Any, key: str, given_: str, allowed: str
) -> None:
    """422: the key, the value, what is allowed; nothing of it can move a terminal's cursor."""
    answer = site.ask(SILENCES, method="POST", headers=bearer(token), json=body)
    problem = answer.json()["problems"][0]
    assert answer.status_code == 422
    assert problem["key"] == key
    assert problem["given"].startswith(given_)
    assert allowed in problem["allowed"]
    assert answer.text.isprintable()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/api/v1/incidents/nobody/ack", 404),
        ("POST", "/api/v1/incidents/%2e%2e%2f%2e%2e%2fetc%2fpasswd/ack", 404),
        ("POST", "/api/v1/incidents/i1%00/ack", 404),
        ("DELETE", f"{SILENCES}/7", 404),
        ("DELETE", f"{SILENCES}/0", 404),
        ("DELETE", f"{SILENCES}/-1", 404),
        ("DELETE", f"{SILENCES}/{10**18 * 99}", 404),
        ("DELETE", f"{SILENCES}/{'9' * 5000}", 404),
        ("DELETE", f"{SILENCES}/%D9%A1", 404),
        ("DELETE", f"{SILENCES}/1;drop table silences", 404),
        ("GET", f"{SILENCES}/1", 405),
        ("PUT", SILENCES, 405),
        ("GET", ACK, 405),
    ],
)
def test_what_is_not_there_is_said_as_json(site: Site, token: str, method: str, path: str, status: int) -> None:
    """Whatever the id looks like."""
    answer = site.ask(path, method=method, headers=bearer(token))
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
    assert answer.json()["error"]


def test_incident_that_is_over_cannot_be_acknowledged(site: Site, token: str) -> None:
    """409: nothing to be on."""
    with site.database.write() as connection:
        alert_store.save_incident(connection, replace(make_incident("i9"), state=State.RESOLVED, resolved_at=NOW))
    answer = site.ask("/api/v1/incidents/i9/ack", method="POST", headers=bearer(token))
    assert (answer.status_code, answer.json()["problems"]) == (409, [])


def test_words_go_on_record_as_one_printable_line(site: Site, token: str) -> None:
    """They are shown in terminals: no escape, no second line, no turned direction of writing."""
    body = {"target": "*", "why": "a\x1b[31m\nINFO all is well\u202e\x07", "by": "ann\r\nbob"}
    added = site.ask(SILENCES, method="POST", headers=bearer(token), json=body).json()
    assert (added["why"], added["by"]) == ("a [31m INFO all is well", "ann bob")


def test_unreadable_database_is_an_answer(site: Site, token: str) -> None:
    """503 in words, for reading and for changing."""
    site.database.close()
    for path in site.database.path.parent.glob("watchdog.db*"):
        path.unlink()
    site.database.path.write_bytes(b"this is no database, whatever its name says" * 100)
    for answer in (site.ask("/api/v1/targets"), site.ask("/"), site.ask(ACK, method="POST", headers=bearer(token))):
        assert answer.status_code == 503
        assert "database" in answer.json()["error"]


@settings(suppress_health_check=[HealthCheck.too_slow])  # the first text in a process loads the tables of Unicode
@given(
    st.dictionaries(
        st.sampled_from(["authorization", "origin", "host", "sec-fetch-site"]),
        st.text(max_size=30) | st.sampled_from(["Bearer geheim", "http://a", "a", "none", "same-origin"]),
    ),
    st.none() | st.sampled_from(["geheim", "gehé-im", "\N{KEY}"]),
)
def test_only_the_token_opens(headers: dict[str, str], token: str | None) -> None:
    """Whatever the headers hold, there is an answer, and without the exact token it is a refusal."""
    refusal = refuse_change(headers, token)
    if refusal is None:
        assert token is not None
        assert headers["authorization"].lower().startswith("bearer ")
        assert headers["authorization"][7:].strip(" \t").encode("latin-1") == token.encode()
    else:
        assert refusal.status in (401, 403)
        assert token is None or token not in refusal.words


def test_token_of_any_letters_is_taken_as_utf8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients send the bytes of the token; which letters they are is not HTTP's business."""
    monkeypatch.setenv("WEB_TOKEN", "schlüssel-à")
    with opened_site(tmp_path, token="env:WEB_TOKEN") as site:
        fill(site.database, site.config)
        headers = httpx.Headers([(b"Authorization", "Bearer schlüssel-à".encode())])
        assert site.ask(ACK, method="POST", headers=headers).status_code == 200
