"""The real command as a child process, on a configuration in a folder of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from little_server import Model

from baselines.database import Database, open_database
from watchdog.migrations.migrate import bring_up_to_date

TIMEOUT_S = 60
SECRET = "5ecret-Value"
FAST = "baseline --quick --apart 10ms"  # six bursts of twelve, as fast as they come


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        return self.out + self.err

    def json(self) -> Any:
        return json.loads(
            self.out, parse_constant=lambda word: (_ for _ in ()).throw(ValueError(f"{word} is not JSON"))
        )


# main() again and again in one interpreter, since starting one takes a second: a line of JSON in, a line of JSON out.
DRIVER = """
import contextlib, io, json, os, sys
from watchdog.cli.main import main
variables = dict(os.environ)
for line in sys.stdin:
    asked = json.loads(line)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(variables | asked["variables"])
    sys.argv, out, err, code = ["watchdog", *asked["argv"]], io.StringIO(), io.StringIO(), None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""


class Driver:
    """A child process that runs one command after the other."""

    def __init__(self) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-c", DRIVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, argv: Sequence[str], folder: Path, variables: Mapping[str, str]) -> Ended:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        asked = {"argv": list(argv), "folder": str(folder), "variables": dict(variables)}
        self._child.stdin.write(json.dumps(asked) + "\n")
        self._child.stdin.flush()
        answer = self._child.stdout.readline()
        assert answer, f"watchdog {' '.join(argv)} ended the process: see its standard error"
        return Ended(*json.loads(answer))

    def close(self) -> None:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.close()
        try:
            self._child.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._child.stdout.close()


@dataclass
class Stage:
    """A folder with a configuration of one target, `chat`, on a little server."""

    folder: Path
    model: Model
    driver: Driver
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def config(self) -> Path:
        return self.folder / "config.toml"

    def write_config(self, *, before: str = "", target: str = "", canary: str = "", after: str = "") -> None:
        """before: sections before the target; target, canary: keys of theirs; after: sections of the target."""
        self.config.write_text(
            f"""
[store]
url = "sqlite:///{self.folder}/watchdog.db"
{before}
[[target]]
name = "chat"
device = "cpu"
{target}
[target.regression]
threshold = 2.0
[[target.canary]]
url = "{self.model.url}"
json = {{ inputs = [3, 1, 4, 1, 5] }}
interval = "1s"
timeout = "5s"
burst = 12
max_busy = 1.0
{canary}
[target.canary.expect]
json_path = "outputs"
rtol = 0.01
{after}
"""
        )

    def argv(self, *args: str) -> list[str]:
        return [sys.executable, "-m", "watchdog.cli.main", *args]

    @property
    def environment(self) -> dict[str, str]:
        return {"WATCHDOG_CONFIG": str(self.config), "COLUMNS": "200", **self.variables}

    def start(self, *args: str) -> Ended:
        """Run one command as a process of its own, as a person does."""
        done = subprocess.run(
            self.argv(*args),
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
            cwd=self.folder,
            env={**os.environ, **self.environment},
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Ended(done.returncode, done.stdout, done.stderr)

    def run(self, command: str, *more: str) -> Ended:
        """Run one command in the driver's process. command: words; more: arguments that may hold spaces."""
        return self.driver.run([*command.split(), *more], self.folder, self.environment)

    def database(self) -> Database:
        """The same file, to look into or to prepare."""
        database = open_database(f"sqlite:///{self.folder}/watchdog.db")
        bring_up_to_date(database)
        return database
