"""Both wheels, built from a copy of the tree: what is in them, and how they live beside what a machine already has."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from email.message import Message
from email.parser import Parser
from pathlib import Path, PurePosixPath

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("alerts", "baselines", "probes", "watchdog", "watchdog_agent")
BUILT_FROM = (*PACKAGES, "packaging", "pyproject.toml", "README.md", "LICENSE")
TIMEOUT_S = 120
# Modules of PyPI's `watchdog`, a file watcher. pip lays both packages into one folder, and the later one wins.
TAKEN = {"__main__", "events", "observers", "tricks", "utils", "version", "watchmedo"}


@dataclass(frozen=True, slots=True)
class Wheel:
    path: Path

    def files(self) -> list[PurePosixPath]:
        """Everything but the metadata."""
        with zipfile.ZipFile(self.path) as archive:
            paths = [PurePosixPath(name) for name in archive.namelist()]
        return [path for path in paths if not path.parts[0].endswith(".dist-info")]

    def read(self, name: str) -> bytes:
        with zipfile.ZipFile(self.path) as archive:
            return archive.read(name)

    def metadata(self) -> Message:
        with zipfile.ZipFile(self.path) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
            return Parser().parsestr(archive.read(name).decode())


def _run(command: Sequence[str | Path], cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, cwd=cwd, env=clean)


def _run_well(command: Sequence[str | Path], cwd: Path | None = None) -> str:
    done = _run(command, cwd)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what wheels are made from: building leaves folders behind that a later build would pack."""
    copy = tmp_path_factory.mktemp("tree")
    for name in BUILT_FROM:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "build", "*.egg-info")
            shutil.copytree(source, copy / name, ignore=ignored, symlinks=True)
        else:
            shutil.copy(source, copy / name)
    return copy


def _build(folder: Path, into: Path) -> Wheel:
    _run_well([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", into, folder])
    (path,) = into.glob("*.whl")
    return Wheel(path)


@pytest.fixture(scope="session")
def daemon_wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Wheel:
    return _build(tree, tmp_path_factory.mktemp("daemon-wheel"))


@pytest.fixture(scope="session")
def agent_wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Wheel:
    return _build(tree / "packaging" / "agent", tmp_path_factory.mktemp("agent-wheel"))


@pytest.fixture(scope="session")
def file_watcher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of PyPI's `watchdog`."""
    folder = tmp_path_factory.mktemp("file-watcher")
    download = [sys.executable, "-m", "pip", "--retries", "1", "download", "--no-deps", "--dest", folder]
    done = _run([*download, "watchdog"])
    if done.returncode != 0:
        assert os.environ.get("CI") != "true", done.stderr
        pytest.skip("no package index can be reached to fetch PyPI's watchdog")
    (path,) = folder.glob("watchdog-*")
    return path


class Environment:
    """A virtual environment of its own; whatever it lacks is looked up in the one that runs the tests."""

    def __init__(self, folder: Path) -> None:
        _run_well([sys.executable, "-m", "venv", "--without-pip", folder])
        self.bin = folder / "bin"
        (site_packages,) = folder.glob("lib/python*/site-packages")
        (site_packages / "tests-own.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")

    def install(self, wheel: Path) -> None:
        pip = [sys.executable, "-m", "pip", "--python", self.bin / "python", "install", "--no-deps", "--no-index"]
        _run_well([*pip, "--ignore-installed", wheel])

    def run(self, *command: str) -> str:
        """Its output; started outside the tree, which must not be found by accident."""
        return _run_well([self.bin / command[0], *command[1:]], cwd=self.bin)


def test_daemon_wheel_holds_every_file_of_its_packages_and_nothing_else(tree: Path, daemon_wheel: Wheel) -> None:
    """No template, page or migration is forgotten; no tests, examples or benchmarks come along."""
    sources = {
        PurePosixPath(path.relative_to(tree).as_posix())
        for package in PACKAGES
        for path in (tree / package).rglob("*")
        if path.is_file()
    }

    assert set(daemon_wheel.files()) == sources


def test_daemon_wheel_takes_no_name_of_the_file_watcher(daemon_wheel: Wheel) -> None:
    """Neither package may overwrite a module of the other."""
    ours = {path.parts[1].removesuffix(".py") for path in daemon_wheel.files() if path.parts[0] == "watchdog"}

    assert not ours & TAKEN


@pytest.mark.parametrize("package", ["watchdog", "probes"])
def test_package_is_empty_at_the_top(daemon_wheel: Wheel, package: str) -> None:
    """watchdog: the file watcher's `__init__` is empty too, so either may win. probes: importing it loads nothing."""
    assert daemon_wheel.read(f"{package}/__init__.py") == b""


@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_daemon_and_file_watcher_share_one_environment(
    daemon_wheel: Wheel, file_watcher: Path, tmp_path: Path, first: str
) -> None:
    """Dev servers pull PyPI's watchdog in; whichever comes second, both work."""
    environment = Environment(tmp_path / "env")
    order = [daemon_wheel.path, file_watcher]
    for wheel in order if first == "ours" else reversed(order):
        environment.install(wheel)

    code = "import watchdog.events, watchdog.config; print(watchdog.events.__file__, watchdog.config.__file__)"
    files = [Path(name).resolve() for name in environment.run("python", "-c", code).split()]

    assert len({file.parent for file in files}) == 1
    assert all(file.is_relative_to(tmp_path.resolve()) for file in files)


def test_installed_command_starts(daemon_wheel: Wheel, tmp_path: Path) -> None:
    """The wheel works without the tree it was built from."""
    environment = Environment(tmp_path / "env")
    environment.install(daemon_wheel.path)

    assert "baseline" in environment.run("watchdog", "--help")


def test_agent_wheel_holds_the_agent_alone(tree: Path, agent_wheel: Wheel) -> None:
    """What goes into a serving environment is the agent and its licence."""
    sources = {f"watchdog_agent/{path.name}" for path in (tree / "watchdog_agent").iterdir() if path.is_file()}

    assert {str(path) for path in agent_wheel.files()} == sources


def test_agent_wheel_requires_nothing_but_python(agent_wheel: Wheel) -> None:
    """Installing the agent moves no version of anything in a serving environment."""
    metadata = agent_wheel.metadata()

    assert metadata["Name"] == "inference-watchdog-agent"
    assert metadata["Requires-Python"] == ">=3.9"
    assert metadata.get_all("Requires-Dist") is None


def test_both_wheels_bear_one_version(agent_wheel: Wheel, daemon_wheel: Wheel) -> None:
    """They speak one wire protocol and are released together."""
    assert agent_wheel.metadata()["Version"] == daemon_wheel.metadata()["Version"]


def test_both_wheels_carry_the_licence(agent_wheel: Wheel, daemon_wheel: Wheel) -> None:
    """The Apache licence asks for a copy with every copy."""
    for wheel in (agent_wheel, daemon_wheel):
        with zipfile.ZipFile(wheel.path) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith("licenses/LICENSE"))
            assert archive.read(name) == (ROOT / "LICENSE").read_bytes()


def _agent_sources() -> Iterator[Path]:
    yield from sorted((ROOT / "watchdog_agent").glob("*.py"))


@pytest.mark.parametrize("source", [pytest.param(path, id=path.stem) for path in _agent_sources()])
def test_agent_module_suits_python_3_9(source: Path) -> None:
    """Serving environments are older than the daemon's."""
    tree = ast.parse(source.read_text(), feature_version=(3, 9))

    keywords = {
        (_name(call.func), k.arg) for call in ast.walk(tree) if isinstance(call, ast.Call) for k in call.keywords
    }
    assert not keywords & {("dataclass", "slots"), ("dataclass", "kw_only"), ("zip", "strict")}


def _name(node: ast.expr) -> str:
    return ast.unparse(node).rpartition(".")[2]


def test_agent_modules_shadow_no_standard_module(agent_wheel: Wheel) -> None:
    """A folder may end up on a foreign sys.path by itself; `profile.py` or `queue.py` there would break the host."""
    names = {path.stem for path in agent_wheel.files()}

    assert not names & sys.stdlib_module_names


def test_agent_loads_nothing_but_the_standard_library(agent_wheel: Wheel, tmp_path: Path) -> None:
    """Every agent module imports in a bare interpreter that sees only the agent; torch comes when a model does."""
    with zipfile.ZipFile(agent_wheel.path) as archive:
        archive.extractall(tmp_path)
    modules = sorted(f"watchdog_agent.{path.stem}" for path in agent_wheel.files() if path.stem != "__init__")
    assert {"watchdog_agent.wire", "watchdog_agent.identity"} <= set(modules)

    code = (
        "import importlib, json, sys\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    loaded = set(json.loads(_run_well([sys.executable, "-I", "-S", "-c", code])))

    assert loaded - set(sys.stdlib_module_names) <= {"__main__", "watchdog_agent"}


def test_extras_are_all_there(daemon_wheel: Wheel) -> None:
    """The daemon's wheel offers the demo without the tools of the tests."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert set(daemon_wheel.metadata().get_all("Provides-Extra", [])) == set(project["optional-dependencies"])
    assert not any(name.startswith(("torch", "scipy")) for name in project["dependencies"])
