"""Whatever a configuration holds: a Config that can be built, or a ConfigError whose lines name keys and no secret."""

from __future__ import annotations

import contextlib
import copy
import datetime
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from alerts.notifiers.transport import SharedTransport
from baselines.database import Database
from watchdog.bootstrap import build_routes, build_targets
from watchdog.config import _SECTIONS, Config, ConfigError, load_config, parse_config
from watchdog.policies import policies_of, retention_of
from watchdog.spelling import parse_bytes, parse_duration, resolve_secret

EXAMPLE = Path(__file__).parents[2] / "config.example.toml"
PLANTED = "pl4nted-s3cret"
many = settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])

WHOLE: dict[str, Any] = {
    "store": {"url": "sqlite:///watchdog.db", "max_rows": 5000},
    "web": {"listen": "127.0.0.1:9477", "token": "env:PLANTED"},
    "log": {"format": "json", "level": "debug"},
    "notifier": [
        {"name": "slack", "kind": "slack", "url": "env:PLANTED_URL", "targets": ["chat"]},
        {"name": "hook", "kind": "webhook", "url": f"http://127.0.0.1:1/{PLANTED}", "secret": "env:PLANTED"},
    ],
    "target": [
        {
            "name": "chat",
            "device": "cpu",
            "mode": "act",
            "canary": [
                {
                    "url": f"http://127.0.0.1:1/predict?key={PLANTED}",
                    "json": {"inputs": [1.5]},
                    "headers": {"Authorization": "env:PLANTED", "X-Key": PLANTED},
                    "control_url": f"http://127.0.0.1:1/health?key={PLANTED}",
                    "expect": {"json_path": "outputs[0]", "rtol": 0.01, "shape": [1], "top_k": 3},
                },
                {"name": "model", "kind": "torch", "model": "m.pt2", "input": {"shape": [1, 4]}},
            ],
            "process": {"pid_file": "server.pid"},
            "regression": {"threshold": 0.1},
            "leak": {"horizon": "7d", "capacity": "16GB"},
            "limits": {"p95": "1s", "memory_ratio": 0.9},
            "recycle": {"kind": "command", "command": ["true"], "max_age": "1h"},
        }
    ],
}
KEYS = sorted({key for section in _SECTIONS.values() for key in section.model_fields} | {"json", "a\nb", "\x1b[2J", ""})
TIMES = st.sampled_from(
    [datetime.date(2026, 1, 1), datetime.time(1, 2), datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)]
)
ODD_NUMBERS = [10**400, -(10**400), 2**63, 0, -1, float("nan"), float("inf"), 1e308, 5e-324, True]
ODD_WORDS = [
    *("9s", "9GB", "1h", "5MB", "process", "torch", "act", "chat", "*", "127.0.0.1:99999", "http://", "http://["),
    *(
        "env:PLANTED",
        "env:",
        f"env:{PLANTED}",
        "file:/",
        "file:/dev/null",
        f"http://u:{PLANTED}@h",
        f"htp://h?k={PLANTED}",
    ),
]
ODD = st.sampled_from([*ODD_NUMBERS, *ODD_WORDS, "", "9" * 400 + "s", "9" * 400 + "GB", "a\x00b", "a\nb", "\x1b[2J"])
VALUES = st.recursive(
    ODD
    | TIMES
    | st.integers()
    | st.floats()
    | st.booleans()
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3),
    max_leaves=6,
)


def places(here: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place of a document."""
    yield path
    items = here.items() if isinstance(here, dict) else enumerate(here) if isinstance(here, list) else ()
    for step, value in items:
        yield from places(value, (*path, step))


@st.composite
def mutated(draw: st.DrawFn) -> dict[str, Any]:
    """The whole document with up to four places changed: another value, a key less, a key more."""
    document = copy.deepcopy(WHOLE)
    for _ in range(draw(st.integers(1, 4))):
        path = draw(st.sampled_from([p for p in places(document) if p]))
        holder: Any = document
        for step in path[:-1]:
            holder = holder[step]
        change = draw(st.sampled_from(["replace", "delete", "add"]))
        if change == "delete":
            del holder[path[-1]]
        elif change == "add" and isinstance(holder, dict):
            holder[draw(st.sampled_from(KEYS))] = draw(VALUES)
        else:
            holder[path[-1]] = draw(VALUES)
    return document


@pytest.fixture(autouse=True)
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANTED", PLANTED)
    monkeypatch.setenv("PLANTED_URL", f"http://127.0.0.1:1/{PLANTED}")


def check_problems(error: ConfigError) -> None:
    """Each is one line that a terminal can show, begins with a key path, and tells no secret."""
    assert error.problems
    for problem in error.problems:
        assert problem.isprintable(), problem
        assert re.match(r'(?:"(?:[^"\\]|\\.)*"|[\w\[\]. -])+: \S', problem), problem
        assert len(problem) < 600
        assert PLANTED not in problem, problem


def build(config: Config, database: Database) -> None:
    """All that is made of a configuration at start-up."""
    transport = SharedTransport()
    build_routes(config, transport)
    transport.close()
    retention_of(config.store)
    for section in config.target:
        policies_of(section)
    for target in build_targets(config, database).values():
        target.close()


def changed(*path: Any, to: Any) -> dict[str, Any]:
    """The whole document with one value changed."""
    document = copy.deepcopy(WHOLE)
    holder: Any = document
    for step in path[:-1]:
        holder = holder[step]
    holder[path[-1]] = to
    return document


CANARY = ("target", 0, "canary", 0)


@settings(many, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(document=mutated() | st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4))
@example(document=WHOLE)
@example(document=changed("store", "samples", to=10**400))
@example(document=changed("target", 0, "leak", "capacity", to="9" * 400 + "GB"))
@example(document=changed("target", 0, "regression", "threshold", to=float("nan")))
@example(document=changed(*CANARY, "expect", "rtol", to=float("nan")))
@example(document=changed(*CANARY, "json", to={"when": datetime.date(2026, 1, 1)}))
@example(document=changed("target", 0, "canary", 1, "input", to={"when": datetime.time(1, 2)}))
@example(document=changed(*CANARY, "headers", to={"X-Key": "a\r\nb"}))
@example(document=changed(*CANARY, "headers", to={"X-Key": "schl\u00fcssel"}))
@example(document=changed(*CANARY, "headers", to={"X Key:": "a"}))
@example(document=changed(*CANARY, "url", to=f"htp://127.0.0.1?key={PLANTED}"))
@example(document=changed(*CANARY, "burst", to=2**63))
@example(document=changed("target", 0, "process", "pid_file", to="a\x00b"))
@example(document=changed("web", "a\nb\x1b[2J", to=1))
@example(document=changed("notifier", 0, "targets", to=[f"env:{PLANTED}", f"http://u:{PLANTED}@h"]))
def test_any_document_is_a_configuration_or_names_its_mistakes(document: dict[str, Any], scratch: Database) -> None:
    """Built from the schema, with values of any kind in any place; what is accepted can also be built."""
    try:
        config = parse_config(document)
    except ConfigError as error:
        check_problems(error)
    else:
        build(config, scratch)


@settings(many, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_bytes_are_a_configuration_or_a_config_error(data: st.DataObject, tmp_path: Path) -> None:
    """A file that is anything, or the example with some bytes changed."""
    sample = EXAMPLE.read_bytes()
    pieces = st.binary(max_size=40) | st.sampled_from([b"[[", b"]]", b"=", b"\xff", b"\x00", b'"""', b"{", b"nan"])
    at = data.draw(st.integers(0, len(sample)))
    cut = data.draw(st.integers(0, 60))
    content = data.draw(st.binary(max_size=200) | pieces.map(lambda piece: sample[:at] + piece + sample[at + cut :]))
    with contextlib.suppress(ConfigError):
        check_file(tmp_path, content)


@pytest.mark.parametrize(
    "content",
    [
        b"x = " + b"[" * 100_000,
        b"x = " + b"{a=" * 100_000,
        b"x = " + b"9" * 10_000,
        b"x = 0x" + b"f" * 10_000,
        b"x = 1e999999",
        b"a." * 2_000 + b"b = 1",
        b"[" + b"a." * 2_000 + b"b]",
        b"x = 2026-99-99",
        b"\xef\xbb\xbfx = 1",
        b"\xff\xfe",
        b"",
    ],
    ids=lambda content: repr(content[:12]),
)
def test_hostile_file_is_a_config_error(tmp_path: Path, content: bytes) -> None:
    """Deep, long, wrongly encoded: one error, no traceback."""
    with pytest.raises(ConfigError):
        check_file(tmp_path, content)


def check_file(folder: Path, content: bytes) -> None:
    """Raises what `load_config` raises, once it was seen to be fit for a terminal."""
    path = folder / "config.toml"
    path.write_bytes(content)
    try:
        load_config(path)
    except ConfigError as error:
        check_said(error)
        raise


def check_said(error: ConfigError) -> None:
    assert error.problems
    assert all(problem.isprintable() for problem in error.problems), error.problems
    assert PLANTED not in str(error)


@pytest.mark.parametrize("path", ["", ".", "/", "nothing/config.toml", "a\x00b", "x" * 5000])
def test_file_that_cannot_be_read_is_a_config_error(path: str) -> None:
    """Not there, a folder, no name at all."""
    with pytest.raises(ConfigError):
        load_config(Path(path))


@many
@given(value=VALUES)
@example(value="env:PLANTED")
@example(value="env:\ud800")
@example(value="file:" + "x" * 5000)
def test_any_value_is_spelled_right_or_a_value_error(value: Any) -> None:
    """Durations, sizes, secrets: never another exception, and no secret in it."""
    for read in (parse_duration, parse_bytes, resolve_secret):
        try:
            read(value)
        except ValueError as error:
            assert PLANTED not in str(error) or PLANTED in str(value)  # noqa: PT017  (either end is fine)


@pytest.mark.parametrize("content", [b"", b" \n", b"\xff\xfe", b"a\x00b", b"x" * 100_000], ids=lambda c: repr(c[:5]))
def test_file_that_holds_no_secret_is_refused(tmp_path: Path, content: bytes) -> None:
    """Empty, binary, or far too long to be one; the content is not told."""
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(ValueError, match="key") as caught:
        resolve_secret(f"file:{tmp_path}/key")
    assert "xxx" not in str(caught.value)


def test_variable_that_is_no_text_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that are no UTF-8 would fail later, when the secret is used."""
    monkeypatch.setenv("KEY", "a\udcff")
    with pytest.raises(ValueError, match="KEY is not UTF-8 text"):
        resolve_secret("env:KEY")


def test_reference_that_may_be_the_secret_itself_is_not_told() -> None:
    """Somebody wrote the secret behind `env:`: no name of a variable looks like that."""
    with pytest.raises(ValueError, match="must be") as caught:
        resolve_secret("env:xoxb-123-pl4nted")
    assert "pl4nted" not in str(caught.value)


def test_problems_of_a_mapping_are_bounded() -> None:
    """A long value is cut where it is shown."""
    document: Mapping[str, Any] = changed("log", "level", to="x" * 10_000)
    with pytest.raises(ConfigError) as caught:
        parse_config(dict(document))
    assert len(str(caught.value)) < 300
