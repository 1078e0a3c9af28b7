from __future__ import annotations

import pytest

from probes.canary.provenance import read_life, read_provenance


@pytest.mark.parametrize(
    ("value", "life"),
    [
        ("12@345", "12@345"),
        (" 12@345 ;torch=2.13", "12@345"),
        ("torch=2.13", None),
        ("12", None),
        ("", None),
        ("-1@2", None),
        ("1" * 11 + "@2", None),
        ("\u0661@2", None),
    ],
)
def test_a_life_is_a_pid_and_a_start_time_or_nothing(value: str, life: str | None) -> None:
    """Anything else in its place is ignored, not guessed at."""
    assert read_life({"x-watchdog-worker": value}) == life


def test_facts_are_few_short_and_printable() -> None:
    """A server cannot fill the store through its headers."""
    flood = ";".join(f"k{i}=v" for i in range(1000))
    assert len(read_provenance({"x-watchdog-worker": f"1@2;{flood}"}, version_header="v")) <= 16
    bad = "1@2;long=" + "x" * 101 + ";tab=a\tb;UPPER=1;=x;empty=;fine=a b"
    assert read_provenance({"x-watchdog-worker": bad}, version_header="v") == {"fine": "a b"}


def test_server_and_version_come_from_headers_of_their_own() -> None:
    """The agent knows better where both speak."""
    headers = {"server": "uvicorn", "x-model-version": "v1"}
    assert read_provenance(headers, version_header="x-model-version") == {"server": "uvicorn", "model_version": "v1"}
    headers["x-watchdog-worker"] = "1@2;model_version=v2"
    assert read_provenance(headers, version_header="x-model-version")["model_version"] == "v2"
    assert read_provenance({}, version_header="x-model-version") == {}
