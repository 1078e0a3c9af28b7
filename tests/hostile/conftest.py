"""Fixtures of the hostile tests: a site with a token, and the daemon's stage."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from site_stage import Site, fill, opened_site

for folder in ("daemon", "cli"):  # their stages, when this folder is run alone
    sys.path.append(str(Path(__file__).parents[1] / folder))

TOKEN = "t0ken-of-the-web-side"


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> str:
    """The configured token, as `env:WEB_TOKEN`."""
    monkeypatch.setenv("WEB_TOKEN", TOKEN)
    return TOKEN


@pytest.fixture
def site(tmp_path: Path, token: str) -> Iterator[Site]:
    """Something of everything, and a token."""
    with opened_site(tmp_path, token="env:WEB_TOKEN") as made:
        fill(made.database, made.config)
        yield made
