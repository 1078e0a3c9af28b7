"""What the documents say of commands, options, metrics, files and configuration is what there is."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase
from typer.main import get_command

from watchdog.cli.main import app
from watchdog.config import parse_config
from watchdog.metrics import Metrics

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("packaging/*/*.md")])
README = (ROOT / "README.md").read_text()
EVERYWHERE = {"--config", "-c", "--json", "--help"}
BY_DEFAULT: dict[tuple[str, ...], tuple[str, ...]] = {
    ("baseline",): ("baseline", "take"),
    ("incidents",): ("incidents", "list"),
}

page = pytest.mark.parametrize("path", PAGES, ids=[str(p.relative_to(ROOT)) for p in PAGES])


def _fences(text: str, *languages: str) -> list[str]:
    return [
        body
        for language, body in re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        if language in languages
    ]


@cache
def _commands() -> dict[tuple[str, ...], set[str]]:
    """Every option by the command's words, `-c` and `--json` among them."""
    found = {}

    def walk(command: Any, words: tuple[str, ...]) -> None:
        for name, each in getattr(command, "commands", {}).items():
            walk(each, (*words, name))
        if not hasattr(command, "commands"):
            found[words] = {name for p in command.params if p.param_type_name == "option" for name in p.opts}

    walk(get_command(app), ())
    return found


def _split(line: str) -> tuple[tuple[str, ...], set[str]]:
    """`watchdog baseline list x --json` as (("baseline", "list"), {"--json"}); () when it names no command."""
    words = line.split()[1:]
    for length in (2, 1):
        path = tuple(words[:length])
        path = BY_DEFAULT.get(path, path)
        if path in _commands():
            return path, set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", line))
    return (), set()


# --- commands -----------------------------------------------------------------------------------------------------


def test_every_command_and_option_is_in_commands_md() -> None:
    """The usage lines of docs/commands.md are the command line, no more and no less."""
    text = (ROOT / "docs" / "commands.md").read_text()
    usages = re.findall(r"^watchdog .*(?:\n    .*)*", "\n".join(_fences(text, "text")), re.MULTILINE)
    shown = dict(_split(usage) for usage in usages)
    assert len(shown) == len(usages)
    assert shown == {path: options - EVERYWHERE for path, options in _commands().items()}


def test_commands_md_says_which_commands_take_no_configuration_and_that_all_take_json() -> None:
    """Its first sentences hold for every command."""
    text = (ROOT / "docs" / "commands.md").read_text()
    match = re.search(r"Every command but (.*?) takes `-c", text)
    assert match is not None
    without = {" ".join(path) for path, options in _commands().items() if "--config" not in options}
    assert set(re.findall(r"`(\w+)`", match[1])) == without
    assert "Every command takes `--json`" in text
    assert all("--json" in options for options in _commands().values())


def _spoken(text: str) -> Iterator[str]:
    """Command lines of ours in code, in fences or inline."""
    code = [*_fences(text, "console", "text", "sh", "bash", ""), *re.findall(r"`(watchdog [^`\n]+)`", text)]
    for line in "\n".join(code).splitlines():
        if found := re.match(r"(?:\$ )?(?:\S*/bin/)?(watchdog (?!.*──).*)", line.strip()):
            yield found[1]


@page
def test_a_command_in_the_text_exists_with_its_options(path: Path) -> None:
    """Nobody types a command from a page and is told that there is none."""
    for line in _spoken(path.read_text()):
        words, options = _split(line)
        if line.split()[1].startswith("-"):
            assert line.split()[1] in ("--help", "--version")
            continue
        assert words, line
        assert options <= _commands()[words] | {"--help"}, line


@page
def test_a_target_of_make_in_the_text_exists(path: Path) -> None:
    """`make X` is in the Makefile."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|^ *(?:\$ )?)make ([a-z]+)", path.read_text(), re.MULTILINE)) <= targets


def test_the_readme_begins_with_the_two_commands() -> None:
    """`make demo` and `make test` do all the set-up, and a reader meets them first."""
    first = _fences(README, "console")[0]
    assert "make demo" in first
    assert "make test" in first


# --- metrics ------------------------------------------------------------------------------------------------------


def test_every_metric_is_in_metrics_md_with_its_type_and_labels() -> None:
    """The table of docs/metrics.md is the registry."""
    metrics = Metrics(CollectorRegistry(), targets={"t": ["c"]}, notifiers=["n"])
    there = set()
    for metric in metrics.registry._collector_to_names:
        assert isinstance(metric, MetricWrapperBase)
        name = metric._name + ("_total" if metric._type == "counter" else "")
        there.add((name, metric._type, ", ".join(metric._labelnames)))
    rows = re.findall(
        r"^\| `(watchdog_\w+)` \| (\w+) \|([^|]*)\|", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE
    )
    assert len(rows) == len(there)
    assert {(name, kind, labels.strip()) for name, kind, labels in rows} == there


# --- configuration --------------------------------------------------------------------------------------------------


@page
def test_configuration_in_the_text_is_valid(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole configuration loads; a piece of a target does once it is put into one."""
    monkeypatch.setenv("SLACK_WEBHOOK_URL", "https://hooks.example.com/services/T0/B0/x")
    monkeypatch.setenv("WATCHDOG_AGENT_TOKEN", "sixteen or more characters")
    for text in _fences(path.read_text(), "toml"):
        if "[[target]]" in text:
            parse_config(tomllib.loads(text))
            continue
        target = '[[target]]\nname = "m"\n'
        canary = '[[target.canary]]\nurl = "http://127.0.0.1:8000/predict"\n'
        process = "[target.process]\nport = 8000\n" if "[target.process]" not in text else ""
        pieces = [target, canary, process, text] if "[[target.canary]]" not in text else [target, process, text]
        parse_config(tomllib.loads("\n".join(pieces)))


@page
def test_python_in_the_text_imports_what_there_is(path: Path) -> None:
    """A snippet compiles, and its imports are found."""
    for snippet in _fences(path.read_text(), "python"):
        tree = ast.parse(snippet)
        imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
        for node in imports:
            module = importlib.import_module(node.module or "")
            assert all(hasattr(module, each.name) for each in node.names)


# --- links and versions ---------------------------------------------------------------------------------------------


def _anchor(heading: str) -> str:
    """As GitHub makes it: lower case, punctuation dropped, spaces to hyphens."""
    return re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-")


@page
def test_relative_links_resolve(path: Path) -> None:
    """Files that pages link to are there, and so are the headings."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, heading = link.partition("#")
        target = (path.parent / name) if name else path
        assert target.exists(), link
        if heading:
            headings = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
            assert heading in {_anchor(h) for h in headings}, link


def test_a_guarantee_names_a_test_that_there_is() -> None:
    """Each guarantee is proved by a test of that name in that file."""
    text = (ROOT / "docs" / "guarantees.md").read_text()
    proofs = re.findall(r"\[`(test_\w+)`\]\(([^)]+)\)", text)
    assert len(proofs) >= 10
    for name, file in proofs:
        assert f"def {name}(" in (ROOT / "docs" / file).read_text(), name


@page
def test_files_named_in_the_text_exist(path: Path) -> None:
    """`examples/fastapi.toml`, `docs/metrics.md` and their like are where the text says."""
    named = re.findall(r"`((?:examples|docs|deploy|tests|packaging|\.ci)/[\w./-]+\w)`", path.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_changelog_knows_the_version() -> None:
    """The newest version in the changelog is the one that is built."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    versions = re.findall(r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert next(v for v in versions if v != "Unreleased") == version


def test_shell_lines_in_the_readme_can_be_split() -> None:
    """No unbalanced quote in a line that people copy."""
    for line in "\n".join(_fences(README, "console", "sh")).splitlines():
        if line.startswith("$ "):
            shlex.split(line.removeprefix("$ "), comments=True)
