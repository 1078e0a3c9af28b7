"""Secrets planted wherever the configuration takes one; then everything that comes out is searched for them."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from cli_stage import Driver
from daemon_stage import Stage, wait_until

from baselines.database import Database
from watchdog.bootstrap import build_targets
from watchdog.config import load_config

pytestmark = pytest.mark.slow

PLACES = "token hook hook_sign slack refused redirect tls header_env header_file header_plain query control"
PLACES += " load_header load_query"
SECRETS = {name: f"s3cr3t-{name.replace('_', '-')}-9f8e7d" for name in PLACES.split()}
COLLECTIONS = "targets verdicts incidents baselines deliveries recycles silences history?target=echo"
READ = ["/", "/healthz", "/readyz", "/readyz/echo", "/metrics", "/api/v1/openapi.json", "/nothing"]
READ += [f"/api/v1/{name}" for name in COLLECTIONS.split()]


@dataclass
class Echo:
    """A server that hands back all that it was sent, wherever HTTP has room for it."""

    failing: bool = False
    port: int = 0
    took: list[bytes] = field(default_factory=list)  # what the notifiers posted

    def answer(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        if handler.path.startswith(("/hook/", "/redirect/")):
            self.took.append(body)
        sent = " ".join([handler.path, *handler.headers.values()])
        content = json.dumps({"numbers": [1.0, 2.0], "sent": sent, sent: sent}).encode()
        status = 302 if handler.path.startswith("/redirect/") else 500 if self.failing else 200
        handler.send_response_only(status, sent[:200])
        for name in ("Server", "X-Model-Version", "Location", "Set-Cookie", "Retry-After", "Content-Language"):
            handler.send_header(name, handler.headers.get("Authorization", sent)[:90])
        key = handler.headers.get("X-Key", "none")
        handler.send_header("X-Watchdog-Worker", f"1@2;torch={key};cuda={handler.headers.get('X-Plain', 'none')}")
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)


@contextmanager
def echoing() -> Iterator[Echo]:
    echo = Echo()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            echo.answer(self, self.rfile.read(int(self.headers.get("Content-Length") or 0)))

        def do_GET(self) -> None:
            echo.answer(self, b"")

        def do_HEAD(self) -> None:
            self.close_connection = True  # the answer has a body all the same
            echo.answer(self, b"")

        def log_message(self, format: str, *args: object) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    echo.port = server.server_address[1]
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield echo
    finally:
        server.shutdown()
        server.server_close()


class Search:
    """Collects what came out and looks for secrets in it."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self.looked_at = 0

    def look(self, where: str, content: bytes | str, *, but: tuple[str, ...] = ()) -> None:
        data = content.encode(errors="surrogateescape") if isinstance(content, str) else content
        self.looked_at += len(data)
        for name, secret in SECRETS.items():
            if name not in but and (at := data.find(secret.encode())) >= 0:
                self.found.append(f"{where}: {name}: ...{data[max(0, at - 60) : at + 40]!r}...")


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """A stage whose children have the secrets in their environment."""
    for name, secret in SECRETS.items():
        monkeypatch.setenv(f"PLANTED_{name.upper()}", secret)
    stage = Stage(tmp_path / "stage")
    stage.folder.mkdir()
    yield stage
    stage.close()


def write_config(stage: Stage, echo: Echo, *, format: str, more: str = "") -> None:
    """A secret at every place that takes one: by variable, by file, in an address, as it is."""
    there = f"http://127.0.0.1:{echo.port}"
    addresses = {
        "hook": f"{there}/hook/{SECRETS['hook']}",
        "slack": f"{there}/hook/{SECRETS['slack']}",
        "redirect": f"{there}/redirect/{SECRETS['redirect']}",
        "refused": f"http://127.0.0.1:1/{SECRETS['refused']}",
        "tls": f"https://127.0.0.1:{echo.port}/{SECRETS['tls']}",
    }
    secrets = stage.folder.parent / "secrets"
    secrets.mkdir(exist_ok=True)
    (secrets / "header").write_text(SECRETS["header_file"] + "\n")
    (secrets / "hook").write_text(addresses["hook"])
    for name in ("slack", "refused", "tls"):
        os.environ[f"PLANTED_URL_{name.upper()}"] = addresses[name]
    stage.config.write_text(f"""
[store]
url = "sqlite:///{stage.database}"
[web]
listen = "127.0.0.1:{stage.web_port}"
token = "env:PLANTED_TOKEN"
[log]
format = "{format}"
level = "debug"
[[notifier]]
name = "hook"
kind = "webhook"
url = "file:{secrets}/hook"
secret = "env:PLANTED_HOOK_SIGN"
min_level = "info"
[[notifier]]
name = "slack"
kind = "slack"
url = "env:PLANTED_URL_SLACK"
min_level = "info"
[[notifier]]
name = "refused"
kind = "slack"
url = "env:PLANTED_URL_REFUSED"
[[notifier]]
name = "redirect"
kind = "webhook"
url = "{addresses["redirect"]}"
[[notifier]]
name = "tls"
kind = "webhook"
url = "env:PLANTED_URL_TLS"
[[target]]
name = "echo"
device = "cpu"
[[target.canary]]
url = "{there}/predict?key={SECRETS["query"]}"
control_url = "{there}/control?key={SECRETS["control"]}"
json = [1]
interval = "250ms"
timeout = "1s"
max_busy = 1.0
burst = 3
[target.canary.headers]
Authorization = "env:PLANTED_HEADER_ENV"
X-Key = "file:{secrets}/header"
X-Plain = "{SECRETS["header_plain"]}"
[target.canary.expect]
json_path = "numbers"
rtol = 0.01
[target.load]
url = "{there}/metrics?key={SECRETS["load_query"]}"
metric = "x"
headers = {{ X-Key = "env:PLANTED_LOAD_HEADER" }}
{more}
""")


COMMANDS = [
    "check",
    "check --json",
    "check --live",
    "check --live --json",
    "canary echo",
    "canary echo --json",
    "baseline --quick --apart 10ms",
    "baseline --quick --apart 10ms --json",
    "baseline list",
    "baseline show 1 --json",
    "baseline diff 1 2 --json",
    "status",
    "status --json",
    "history echo",
    "headroom echo --json",
    "incidents",
    "incidents --json",
    "silence echo --for 1s --why test --json",
    "notify test",
    "notify test --json",
    "replay --target echo",
    "replay --target echo --json",
    "recycle echo --dry-run --json",
    "profile echo",
    "incidents ack nobody",
]


@pytest.fixture
def driver(stage: Stage) -> Iterator[Driver]:
    driver = Driver()  # after the stage: it has the secrets in its environment
    yield driver
    driver.close()


def test_no_secret_comes_out_of_a_command(stage: Stage, driver: Driver) -> None:
    """Good answers, failing answers and errors, for people and as JSON."""
    search = Search()
    with echoing() as echo:
        write_config(stage, echo, format="console")
        for failing in (False, True):
            echo.failing = failing
            for command in COMMANDS:
                done = driver.run([*command.split(), "-c", str(stage.config)], stage.folder, dict(os.environ))
                assert "Traceback" not in done.err, done.err
                search.look(f"watchdog {command}", done.said)
    search_files(stage, search)
    assert search.looked_at > 10_000
    assert not search.found, "\n".join(search.found)


@pytest.mark.parametrize("format", ["console", "json"])
def test_no_secret_comes_out_of_the_daemon(stage: Stage, format: str) -> None:
    """Its log at debug level, its database, its web side and its messages, while everything goes wrong."""
    search = Search()
    with echoing() as echo:
        write_config(stage, echo, format=format)
        assert stage.run("baseline", "--quick", "--apart", "50ms").returncode == 0
        daemon = stage.start_daemon()
        wait_until(lambda: stage.rows("select 1 from bursts limit 1"), "a burst is stored")
        echo.failing = True
        wait_until(lambda: stage.rows("select 1 from incidents where state = 'firing'"), "an incident fires")
        wait_until(lambda: stage.rows("select 1 from deliveries where last_error is not null"), "a delivery failed")
        wait_until(lambda: len(echo.took) >= 2, "the notifiers are told")
        ask_everything(stage, search)
        misread_on_sighup(stage, echo, daemon, format=format)
        break_the_tables(stage)
        wait_until(lambda: "Traceback" in stage.log_of(daemon), "a traceback is logged")
        ask_everything(stage, search)
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(20)
    for body in echo.took:
        search.look("message", body)
    search_files(stage, search)
    assert search.looked_at > 100_000
    assert not search.found, "\n".join(search.found)


def test_no_child_gets_a_secret(stage: Stage, database: Database) -> None:
    """Neither the isolated worker nor a recycle command: what they print in their last moments is kept and told."""
    named = ["PLANTED_TOKEN", "PLANTED_HOOK_SIGN", "PLANTED_HEADER_ENV", "PLANTED_URL_SLACK", "PLANTED_URL_TLS", "PATH"]
    script = f"import os, sys\nprint(*(n for n in {named} if n in os.environ), file=sys.stderr)\nsys.exit(1)\n"
    python = stage.folder / "python"
    python.write_text(f"#!{sys.executable}\n{script}")
    python.chmod(0o755)
    with echoing() as echo:
        write_config(stage, echo, format="json")
    stage.config.write_text(
        stage.config.read_text()
        + f"""
[[target.canary]]
name = "model"
kind = "torch"
model = "m.pt2"
python = "{python}"
[target.recycle]
kind = "command"
command = ["{python}"]
"""
    )
    target = build_targets(load_config(stage.config), database)["echo"]
    assert target.recycler is not None
    assert target.recycler.act([]).detail == f"{python} exited 1: PATH"
    (sample,) = target.canaries["model"].burst().samples
    target.close()
    assert sample.detail == "exit code 1: PATH"


def ask_everything(stage: Stage, search: Search) -> None:
    """Every path, and the changes with a wrong token and with the right one."""
    base = f"http://127.0.0.1:{stage.web_port}"
    with httpx.Client(base_url=base, timeout=10, trust_env=False) as client:
        for path in READ:
            answer = client.get(path)
            search.look(path, answer.text + str(answer.headers))
        for token in ("wrong", SECRETS["token"]):
            for method, path, body in (
                ("POST", "/api/v1/silences", {"target": "echo", "for": "1s"}),
                ("POST", "/api/v1/silences", {"target": "echo", "secret": 1}),
                ("POST", "/api/v1/incidents/nobody/ack", {}),
                ("DELETE", "/api/v1/silences/99", None),
            ):
                answer = client.request(method, path, json=body, headers={"Authorization": f"Bearer {token}"})
                search.look(f"{method} {path}", answer.text + str(answer.headers))


def misread_on_sighup(stage: Stage, echo: Echo, daemon: subprocess.Popen[bytes], *, format: str) -> None:
    """A configuration that is refused, with secrets at wrong places."""
    wrong = f'[[target]]\nname = "x"\nurl = "http://h/?key={SECRETS["query"]}"\ntoken = "{SECRETS["token"]}"\n'
    write_config(stage, echo, format=format, more=wrong)
    daemon.send_signal(signal.SIGHUP)
    wait_until(lambda: "target[x]" in stage.log_of(daemon), "the mistakes are logged")


def break_the_tables(stage: Stage) -> None:
    """From outside: the next verdict cannot be stored, which nothing expects."""
    with sqlite3.connect(stage.database, timeout=30) as connection:
        connection.execute("alter table verdicts rename to gone")
    connection.close()


def search_files(stage: Stage, search: Search) -> None:
    """Logs, database, its WAL, whatever else lies there: but the configuration."""
    files = [path for path in stage.folder.rglob("*") if path.is_file() and path != stage.config]
    assert any(path.name == "watchdog.db" for path in files)
    for path in files:
        search.look(path.name, path.read_bytes())


WRONG = {
    "token as it is": '[web]\ntoken = "SECRET"\n',
    "token behind env": '[web]\ntoken = "env:SECRET"\n',
    "token of another type": "[web]\ntoken = ['SECRET']\n",
    "misspelled key": '[web]\ntokn = "SECRET"\n',
    "secret as it is": '[[notifier]]\nname = "a"\nkind = "webhook"\nurl = "http://h/"\nsecret = "SECRET"\n',
    "address without scheme": '[[notifier]]\nname = "a"\nkind = "slack"\nurl = "hooks.slack.com/services/SECRET"\n',
    "address as a name": '[[notifier]]\nname = "https://hooks.slack.com/services/SECRET"\nkind = "slack"\n',
    "address as a kind": '[[notifier]]\nname = "a"\nkind = "https://hooks.slack.com/services/SECRET"\n',
    "user in a URL": '[[target]]\nname = "a"\n[[target.canary]]\nurl = "http://u:SECRET@h/"\n',
    "query of a bad URL": '[[target]]\nname = "a"\n[[target.canary]]\nurl = "htp://h/?key=SECRET"\n',
    "query of a bad control": '[[target]]\nname = "a"\n[[target.canary]]\ncontrol_url = "h?key=SECRET"\n',
    "header of another type": '[[target]]\nname = "a"\n[[target.canary]]\nheaders = ["SECRET"]\n',
    "header with a line end": '[[target]]\nname = "a"\n[[target.canary]]\nheaders = { A = "SECRET\\n" }\n',
    "broken file": '[web]\ntoken = "SECRET\n',
    "key without a value": "[web]\ntoken = SECRET\n",
}


@pytest.mark.parametrize("mistake", WRONG)
def test_no_secret_comes_out_of_a_wrong_configuration(tmp_path: Path, mistake: str) -> None:
    """The key is named, the value is not told."""
    config = tmp_path / "config.toml"
    config.write_text(WRONG[mistake].replace("SECRET", "xoxb-9f8e7d"))
    done = subprocess.run(
        [sys.executable, "-m", "watchdog.cli.main", "check", "-c", str(config)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("watchdog: ")
    assert "9f8e7d" not in done.stdout + done.stderr, done.stderr
    with suppress(OSError):
        config.unlink()
