"""The configuration: each mistake with the exact words, every mistake at once, and secrets that never show."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from watchdog import config as sections
from watchdog.config import Config, ConfigError, HttpCanarySection, TorchCanarySection, load_config
from watchdog.mistakes import LEAK_INTERVAL_S, LEAK_WINDOW_S
from watchdog.spelling import parse_bytes, parse_duration

CANARY = '[[target.canary]]\nurl = "http://127.0.0.1:8000/predict"\n'
TARGET = f'[[target]]\nname = "m"\n{CANARY}'
DEVICE = 'must be a UUID like "GPU-..." or "MIG-...", as nvidia-smi -L shows them, or an index like 0'
DURATION = 'must be a duration like "500ms", "30s", "10m", "4h" or "7d", or a number of seconds'
SIZE = 'must be a size like "16MB" or "8GiB", or a number of bytes'
NAME = "must be 1 to 64 letters, digits, '_', '.' or '-', the first a letter or digit"
LISTEN = 'must be host:port, for example "127.0.0.1:9477" or "[::1]:9477"'
COMMAND = 'command = ["program", "argument", ...] is needed with kind = "command" and only there'
CANARY_KEYS = "name, interval, timeout, burst, warmup, max_busy, expect, kind"
TORCH_KEYS = "model, python, weights, input, load_timeout, control"
HTTP_KEYS = "url, method, json, body_file, headers, control_url, control"
EXPECT_KEYS = "status, json_path, shape, finite, rtol, atol, cosine, top_k, text"
URL = "must be a URL that begins with http:// or https://"
SECRET = "5ecret-Value"


def load(tmp_path: Path, text: str | bytes) -> Config:
    path = tmp_path / "config.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_config(path)


def problems_of(tmp_path: Path, text: str | bytes) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    return caught.value.problems


MISTAKES: dict[str, tuple[str, list[str]]] = {
    "empty file": ("", ["target: is needed"]),
    "no target": ("target = []", ["target: must not be empty"]),
    "one bracket too few": (
        '[target]\nname = "m"',
        ["target: must be a list of tables: write [[target]], not [target]"],
    ),
    "one bracket too few inside": (
        '[[target]]\nname = "m"\n[target.canary]\nurl = "http://x"',
        ["target[m].canary: must be a list of tables: write [[target.canary]], not [target.canary]"],
    ),
    "target is a number": ("target = 3", ["target: must be a list (given: 3)"]),
    "unknown section": (
        TARGET + "[servers]\n",
        ["servers: unknown key; allowed: store, web, log, nvml, notifier, target"],
    ),
    "unknown key, its whole path": (
        TARGET + "[target.canary.expect]\nrtool = 1",
        [f"target[m].canary[0].expect.rtool: unknown key; allowed: {EXPECT_KEYS}"],
    ),
    "unknown key of a named canary": (
        TARGET + 'name = "big"\nurll = "x"',
        [f"target[m].canary[big].urll: unknown key; allowed: {CANARY_KEYS}, {HTTP_KEYS}"],
    ),
    "unknown key of a torch canary": (
        TARGET + '[[target.canary]]\nname = "t"\nkind = "torch"\nmodel = "m.pt2"\nurl = "http://x"',
        [f"target[m].canary[t].url: unknown key; allowed: {CANARY_KEYS}, {TORCH_KEYS}"],
    ),
    "missing keys": (
        "[[target]]\n[[target.canary]]\n",
        ["target[0].name: is needed", "target[0].canary[0].url: is needed"],
    ),
    "no canary": ('[[target]]\nname = "m"\n', ["target[m].canary: is needed"]),
    "empty canary list": ('[[target]]\nname = "m"\ncanary = []', ["target[m].canary: must not be empty"]),
    "canary is no table": ('[[target]]\nname = "m"\ncanary = [3]', ["target[m].canary[0]: must be a table (given: 3)"]),
    "unknown kind of canary": (
        TARGET + 'kind = "grpc"',
        ["target[m].canary[0].kind: must be one of 'http', 'torch' (given: 'grpc')"],
    ),
    "not a whole number": (
        TARGET + 'burst = "ten"',
        ["target[m].canary[0].burst: must be a whole number (given: 'ten')"],
    ),
    "half a request": (TARGET + "burst = 2.5", ["target[m].canary[0].burst: must be a whole number (given: 2.5)"]),
    "not a number": (TARGET + 'max_busy = "some"', ["target[m].canary[0].max_busy: must be a number (given: 'some')"]),
    "not a share": (
        TARGET + "max_busy = 1.5",
        ["target[m].canary[0].max_busy: must be less than or equal to 1 (given: 1.5)"],
    ),
    "not true or false": (
        TARGET + "[target.recycle]\nkind = 'command'\ncommand = ['x']\nallow_kill = 'maybe'",
        ["target[m].recycle.allow_kill: must be true or false (given: 'maybe')"],
    ),
    "not a list": (
        TARGET + "[target.recycle]\nkind = 'command'\ncommand = 'systemctl restart x'",
        ["target[m].recycle.command: must be a list (given: 'systemctl restart x')"],
    ),
    "bad duration": (TARGET + 'interval = "soon"', [f"target[m].canary[0].interval: {DURATION} (given: 'soon')"]),
    "duration without unit": (TARGET + 'interval = "60"', [f"target[m].canary[0].interval: {DURATION} (given: '60')"]),
    "duration is true": (TARGET + "interval = true", [f"target[m].canary[0].interval: {DURATION} (given: True)"]),
    "no time at all": (TARGET + "interval = 0", ["target[m].canary[0].interval: must be greater than 0 (given: 0)"]),
    "negative duration": (TARGET + "timeout = -1", ["target[m].canary[0].timeout: must be greater than 0 (given: -1)"]),
    "endless duration": (
        TARGET + "interval = inf",
        ['target[m].canary[0].interval: must be a duration of at most "36500d" (given: inf)'],
    ),
    "duration is no number": (
        TARGET + "interval = nan",
        ['target[m].canary[0].interval: must be a duration of at most "36500d" (given: nan)'],
    ),
    "bad size": (TARGET + '[target.leak]\ncapacity = "8 gigs"', [f"target[m].leak.capacity: {SIZE} (given: '8 gigs')"]),
    "size is a fraction": (TARGET + "[target.leak]\nmin_gain = 1.5", [f"target[m].leak.min_gain: {SIZE} (given: 1.5)"]),
    "negative size": (
        TARGET + "[target.leak]\ncapacity = -1",
        ["target[m].leak.capacity: must be greater than 0 (given: -1)"],
    ),
    "an Xid asks for what nobody knows": (
        TARGET + '[target.gpu]\nxid = { 109 = "ignored" }',
        [
            (
                "target[m].gpu.xid.109: must be 'restart_app', 'reset_gpu', 'reboot', 'workflow' or 'ignore'"
                " (given: 'ignored')"
            )
        ],
    ),
    "an Xid is no number": (
        TARGET + '[target.gpu]\nxid = { mmu = "ignore" }',
        ["target[m].gpu.xid.mmu: must be a whole number (given: 'mmu')"],
    ),
    "an Xid that cannot be": (
        TARGET + '[target.gpu]\nxid = { 0 = "ignore" }',
        ["target[m].gpu.xid.0: must be greater than or equal to 1 (given: '0')"],
    ),
    "url without scheme": (
        TARGET.replace("http://", ""),
        [f"target[m].canary[0].url: {URL} (given: '127.0.0.1:8000/predict')"],
    ),
    "url with a password": (
        TARGET.replace("127.0.0.1", "ana:5ecret@127.0.0.1"),
        [
            (
                "target[m].canary[0].url: must hold no user name and password; put them into headers:"
                ' { Authorization = "env:NAME" }'
            )
        ],
    ),
    "url with impossible port": (
        TARGET.replace("8000", "80000"),
        [
            "target[m].canary[0].url: must be a URL with a host and a port up to 65535 (given: 'http://127.0.0.1:80000/predict')"
        ],
    ),
    "url that is none": (
        TARGET.replace("127.0.0.1:8000", "localhost:port"),
        [f"target[m].canary[0].url: {URL}: invalid port: 'port' (given: 'http://localhost:port/predict')"],
    ),
    "name with a space": (
        TARGET.replace('"m"', '"my model"'),
        [f"target[my model].name: {NAME} (given: 'my model')"],
    ),
    "index of no GPU": (TARGET + "[target.gpu]\ndevices = [-1]", [f"target[m].gpu.devices[0]: {DEVICE} (given: -1)"]),
    "name of a GPU": (
        TARGET + '[target.gpu]\ndevices = ["GPU-1f", "H200"]',
        [f"target[m].gpu.devices[1]: {DEVICE} (given: 'H200')"],
    ),
    "unknown key of NVML": (
        TARGET + "[nvml]\nretries = 3",
        ["nvml.retries: unknown key; allowed: interval, lists, deadline"],
    ),
    "unknown key of a target's GPUs": (
        TARGET + "[target.gpu]\ndevice = 0",
        ["target[m].gpu.device: unknown key; allowed: devices, xid"],
    ),
    "name of a command": (
        TARGET.replace('"m"', '"list"'),
        ["target[list].name: is a word of the command line; choose another (given: 'list')"],
    ),
    "two targets of a name": (TARGET + TARGET, ["target: names must differ (used twice: m)"]),
    "two canaries of a name": (
        TARGET + CANARY,
        ["target[m].canary: names must differ within a target (used twice: default)"],
    ),
    "two notifiers of a name": (
        '[[notifier]]\nname = "a"\nkind = "slack"\nurl = "http://x"\n' * 2 + TARGET,
        ["notifier: names must differ (used twice: a)"],
    ),
    "notifier of an unknown target": (
        '[[notifier]]\nname = "a"\nkind = "slack"\nurl = "http://x"\ntargets = ["m", "n"]\n' + TARGET,
        ["notifier[a].targets: no target is named 'n'; there are: m"],
    ),
    "act without recycle": (
        TARGET.replace('"m"', '"m"\nmode = "act"'),
        [
            'target[m]: mode = "act" needs a [target.recycle] table',
            'target[m]: mode = "act" needs a [target.process] table: a worker that is not watched is not acted on',
        ],
    ),
    "process recycler without process": (
        TARGET + '[target.recycle]\nkind = "process"',
        ['target[m]: recycle.kind = "process" needs a [target.process] table'],
    ),
    "agent without process": (
        TARGET + "[target.agent]",
        ["target[m].agent: needs a [target.process] table: an agent is asked for each worker found by it"],
    ),
    "control by an agent that nobody asks": (
        TARGET + 'control = "agent"',
        ['target[m].canary[0]: control = "agent" needs a [target.agent] table'],
    ),
    "two controls": (
        TARGET + 'control = "agent"\ncontrol_url = "http://x"\n[target.process]\nport = 1\n[target.agent]',
        ["target[m].canary[0]: control_url and control exclude each other"],
    ),
    "control of the other kind of canary": (
        TARGET + 'control = "kernel"',
        ["target[m].canary[0].control: must be 'agent' (given: 'kernel')"],
    ),
    "control of a torch canary": (
        TARGET + '[[target.canary]]\nname = "t"\nkind = "torch"\nmodel = "m.pt2"\ncontrol = true',
        ["target[m].canary[t].control: must be 'kernel' or 'none' (given: True)"],
    ),
    "agent with half an address": (
        TARGET + '[target.process]\nport = 1\n[target.agent]\nport = 2\nfolder = "/run/m"',
        ["target[m].agent: port and token go together", "target[m].agent: folder and port exclude each other"],
    ),
    "load without url and metric": (
        TARGET + "[target.load]",
        [
            'target[m].load: url is needed with kind = "prometheus"',
            'target[m].load: metric is needed with kind = "prometheus"',
        ],
    ),
    "load of nginx with what is Prometheus'": (
        TARGET + '[target.load]\nkind = "stub_status"\nurl = "http://h/"\nmetric = "x"\nrate = true',
        [
            'target[m].load: metric is not used with kind = "stub_status"',
            'target[m].load: rate is not used with kind = "stub_status"',
        ],
    ),
    "load of agents that are not there": (
        TARGET + '[target.load]\nkind = "agent"\nurl = "http://h/"\nheaders = { "a b" = "x" }',
        [
            'target[m].load: url is not used with kind = "agent"',
            'target[m].load: headers is not used with kind = "agent"',
            'target[m].load: kind = "agent" needs a [target.agent] table',
            'target[m].load.headers."a b": a header\'s name is made of letters, digits and -',
        ],
    ),
    "load that is no metric": (
        TARGET + '[target.load]\nurl = "http://h/"\nmetric = "sum(x)"',
        ["target[m].load.metric: must be the name of a metric, or name{label=\"value\"} (given: 'sum(x)')"],
    ),
    "requests that nobody counts": (
        TARGET + '[target.recycle]\nkind = "command"\ncommand = ["true"]\nmax_requests = 1000',
        ["target[m].recycle: max_requests needs a [target.agent] table: only an agent counts requests"],
    ),
    "command recycler without command": (
        TARGET + '[target.recycle]\nkind = "command"',
        [f"target[m].recycle: {COMMAND}"],
    ),
    "process recycler with command": (
        TARGET + '[target.process]\nport = 1\n[target.recycle]\nkind = "process"\ncommand = ["x"]',
        [f"target[m].recycle: {COMMAND}"],
    ),
    "empty command": (
        TARGET + '[target.recycle]\nkind = "command"\ncommand = []',
        ["target[m].recycle.command: must not be empty"],
    ),
    "no way to find the process": (
        TARGET + "[target.process]",
        ["target[m].process: exactly one of pid_file, port, parent_pid is needed"],
    ),
    "two ways to find the process": (
        TARGET + '[target.process]\nport = 1\npid_file = "x"',
        ["target[m].process: exactly one of pid_file, port, parent_pid is needed"],
    ),
    "no such body": (
        TARGET + 'body_file = "no-such.bin"',
        ["target[m].canary[0].body_file: there is no such file (given: 'no-such.bin')"],
    ),
    "two bodies": (
        TARGET + "json = [1]\nbody_file = '/dev/null'",
        [
            "target[m].canary[0].body_file: there is no such file (given: '/dev/null')",
            "target[m].canary[0]: json and body_file exclude each other",
        ],
    ),
    "listen without port": ('[web]\nlisten = "127.0.0.1"\n' + TARGET, [f"web.listen: {LISTEN} (given: '127.0.0.1')"]),
    "listen on no port": ('[web]\nlisten = "h:0"\n' + TARGET, [f"web.listen: {LISTEN} (given: 'h:0')"]),
    "listen beyond ports": ('[web]\nlisten = "h:65536"\n' + TARGET, [f"web.listen: {LISTEN} (given: 'h:65536')"]),
    "listen on a bare IPv6": ('[web]\nlisten = "::1:80"\n' + TARGET, [f"web.listen: {LISTEN} (given: '::1:80')"]),
    "another database": (
        '[store]\nurl = "postgresql://db/watchdog"\n' + TARGET,
        ["store.url: must be sqlite:///FILE (given: 'postgresql://db/watchdog')"],
    ),
    "no database": (
        '[store]\nurl = "watchdog.db"\n' + TARGET,
        ["store.url: must be sqlite:///FILE (given: 'watchdog.db')"],
    ),
    "memory looked at too seldom": (
        TARGET + '[target.leak]\ninterval = "30m"',
        ["target[m].leak: interval (1800 s) must be at most a 12th of window (14400 s), else memory is never judged"],
    ),
    "window too short for the usual interval": (
        TARGET + '[target.leak]\nwindow = "2m"',
        ["target[m].leak: interval (15 s) must be at most a 12th of window (120 s), else memory is never judged"],
    ),
    "no interval at all": (
        TARGET + '[target.leak]\ninterval = "often"\nwindow = "2m"',
        [f"target[m].leak.interval: {DURATION} (given: 'often')"],
    ),
    "unknown level": (
        '[log]\nlevel = "loud"\n' + TARGET,
        ["log.level: must be 'debug', 'info', 'warning' or 'error' (given: 'loud')"],
    ),
    "unknown mode": (
        TARGET.replace('"m"', '"m"\nmode = "restart"'),
        ["target[m].mode: must be 'observe', 'alert' or 'act' (given: 'restart')"],
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES, ids=str)
def test_mistake_is_named_with_its_path_and_what_is_allowed(tmp_path: Path, mistake: str) -> None:
    """Each mistake gives exactly one line (each): where, what is allowed, what was given."""
    text, expected = MISTAKES[mistake]
    assert problems_of(tmp_path, text) == expected


@pytest.mark.parametrize(("interval", "window"), [("250ms", "12s"), ("10s", "2m"), ("20m", "4h")], ids=str)
def test_memory_that_can_be_judged_is_no_mistake(tmp_path: Path, interval: str, window: str) -> None:
    """The demo's short windows, and both ends of what is allowed."""
    load(tmp_path, TARGET + f'[target.leak]\ninterval = "{interval}"\nwindow = "{window}"')


def test_rules_between_keys_know_the_defaults() -> None:
    """A key that is not there counts with what the section says."""
    leak = sections.LeakSection()
    assert (leak.interval, leak.window) == (LEAK_INTERVAL_S, LEAK_WINDOW_S)


def test_every_mistake_is_named_at_once(tmp_path: Path) -> None:
    """Wrong values, unknown keys and broken rules in several places come together, so that one edit mends them all."""
    text = f"""
[web]
listen = "x"
[[notifier]]
name = "a"
kind = "pager"
url = "http://x"
targets = ["nobody"]
[[target]]
name = "m"
mode = "act"
colour = "red"
{CANARY}interval = "soon"
burst = 0
{TARGET}
"""
    problems = problems_of(tmp_path, text)
    assert [p.partition(":")[0] for p in problems] == [
        "web.listen",
        "notifier[a].kind",
        "target[m].canary[0].interval",
        "target[m].canary[0].burst",
        "target[m].colour",
        "target",
        "notifier[a].targets",
        "target[m]",
        "target[m]",
    ]


SECRETS: dict[str, tuple[str, str]] = {
    "variable missing": ("env:NO_SUCH_VARIABLE", "the environment variable NO_SUCH_VARIABLE is not set"),
    "variable empty": ("env:EMPTY", "the environment variable EMPTY is not set"),
    "file missing": ("file:/no/such", "cannot read /no/such: No such file or directory"),
    "file is a folder": ("file:/", "cannot read /: Is a directory"),
    "file empty": ("file:/dev/null", "/dev/null is empty"),
    "literal": (SECRET, 'must be "env:NAME" or "file:PATH"'),
    "no name": ("env:", 'must be "env:NAME" or "file:PATH"'),
    "another scheme": (f"vault:{SECRET}", 'must be "env:NAME" or "file:PATH"'),
}


@pytest.mark.parametrize("mistake", SECRETS, ids=str)
def test_secret_that_is_not_there_is_named_and_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mistake: str
) -> None:
    """The message says which variable or file; what was written instead of a reference is not repeated."""
    monkeypatch.setenv("EMPTY", " ")
    given, message = SECRETS[mistake]
    assert problems_of(tmp_path, f'[web]\ntoken = "{given}"\n{TARGET}') == [f"web.token: {message}"]


def test_secret_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    """Bytes that are no text cannot be a token; none of them is shown."""
    (tmp_path / "key").write_bytes(b"\xff\xfe")
    problems = problems_of(tmp_path, f'[web]\ntoken = "file:{tmp_path}/key"\n{TARGET}')
    assert problems == [f"web.token: cannot read {tmp_path}/key: not UTF-8 text"]


@pytest.mark.parametrize(
    "written", [f'"{SECRET}"', f'"https//{SECRET}"', f'"http://host:{SECRET}/"', f'["{SECRET}"]', '"env:HOOK"']
)
def test_notifier_address_that_is_none_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    """A webhook's URL is a key: a mistyped one, or a variable that holds something else, is refused unseen."""
    monkeypatch.setenv("HOOK", f"hooks/{SECRET}")
    text = f'[[notifier]]\nname = "a"\nkind = "slack"\nurl = {written}\n{TARGET}'
    (problem,) = problems_of(tmp_path, text)
    assert problem.startswith("notifier[a].url: ")
    assert SECRET not in problem


def with_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setenv("HOOK", f"https://hooks.example.com/{SECRET}")
    monkeypatch.setenv("KEY", SECRET)
    (tmp_path / "token").write_text(f"{SECRET}\n")
    text = f"""
[web]
token = "file:{tmp_path}/token"
[[notifier]]
name = "from-env"
kind = "slack"
url = "env:HOOK"
[[notifier]]
name = "literal"
kind = "webhook"
url = "https://hooks.example.com/{SECRET}"
secret = "env:KEY"
{TARGET}headers = {{ Authorization = "env:KEY", Accept = "application/json" }}
"""
    return load(tmp_path, text)


def test_secrets_are_read_from_where_they_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the environment and from files, for tokens, notifiers and the canary's headers; a file's newline is cut."""
    config = with_secrets(tmp_path, monkeypatch)
    canary = config.target[0].canary[0]
    assert isinstance(canary, HttpCanarySection)
    assert config.web.token == SecretStr(SECRET)
    assert config.notifier[0].url.get_secret_value() == f"https://hooks.example.com/{SECRET}"
    assert config.notifier[1].secret == SecretStr(SECRET)
    assert canary.headers == {"Authorization": SecretStr(SECRET), "Accept": SecretStr("application/json")}


def test_secrets_show_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither printing nor dumping a configuration gives one away."""
    config = with_secrets(tmp_path, monkeypatch)
    for shown in (repr(config), str(config), config.model_dump_json(), repr(config.model_dump())):
        assert SECRET not in shown


def test_error_carries_no_value_of_a_secret_key(tmp_path: Path) -> None:
    """Nor does the exception that carries the problems: its chain is what a crash report prints."""
    text = f'[web]\ntoken = "{SECRET}"\n{TARGET}headers = {{ Key = ["{SECRET}"] }}'
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert SECRET not in str(caught.value)


def test_kind_is_http_unless_said_otherwise(tmp_path: Path) -> None:
    """A canary without a kind asks over HTTP."""
    text = TARGET + '[[target.canary]]\nname = "t"\nkind = "torch"\nmodel = "m.pt2"'
    canaries = load(tmp_path, text).target[0].canary
    assert [type(c) for c in canaries] == [HttpCanarySection, TorchCanarySection]


def test_smallest_configuration_is_enough(tmp_path: Path) -> None:
    """A name and a URL: everything else has a default, and the defaults are the design's."""
    config = load(tmp_path, TARGET)
    target = config.target[0]
    assert (config.web.host, config.web.port, config.store.url) == ("127.0.0.1", 9477, "sqlite:///watchdog.db")
    assert (target.mode, target.device, target.regression.threshold) == ("alert", "auto", 0.20)
    assert (target.leak.horizon, target.leak.urgent) == (7 * 86400, 4 * 3600)
    canary = target.canary[0]
    assert (canary.burst, canary.interval, canary.max_busy) == (10, 60.0, 0.01)


@pytest.mark.parametrize(
    ("listen", "host", "port"),
    [("[::1]:80", "::1", 80), ("localhost:9477", "localhost", 9477), ("0.0.0.0:1", "0.0.0.0", 1)],
)
def test_listen_is_taken_apart(tmp_path: Path, listen: str, host: str, port: int) -> None:
    """Host and port, the brackets of IPv6 removed."""
    web = load(tmp_path, f'[web]\nlisten = "{listen}"\n{TARGET}').web
    assert (web.host, web.port) == (host, port)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\xff\xfe[\x00", "not TOML: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
        (b"[[target]\n", "not TOML: Expected ']]' at the end of an array declaration (at line 1, column 9)"),
        (b"name = my model", "not TOML: Invalid value (at line 1, column 8)"),
    ],
    ids=["not UTF-8", "bracket missing", "quotes missing"],
)
def test_file_that_is_not_toml_is_named_with_its_place(tmp_path: Path, content: bytes, says: str) -> None:
    """The file and the line, not a traceback."""
    assert problems_of(tmp_path, content) == [f"{tmp_path}/config.toml: {says}"]


def test_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """The path and the system's reason."""
    with pytest.raises(ConfigError, match=rf"^{tmp_path}/no\.toml: No such file or directory$"):
        load_config(tmp_path / "no.toml")


def test_unknown_target_is_answered_with_the_names_there_are(tmp_path: Path) -> None:
    """Whoever mistypes a name sees the right ones."""
    with pytest.raises(ConfigError, match="no target is named 'n'; there are: m"):
        load(tmp_path, TARGET).find("n")


def test_unknown_key_of_every_section_lists_what_is_allowed() -> None:
    """No section was forgotten in the table that the messages are made from."""
    listed = set(sections._SECTIONS.values())
    subclasses = {s for s in vars(sections).values() if isinstance(s, type) and issubclass(s, sections.Section)}
    assert listed == subclasses - {sections.Section, sections.CanarySection}


UNITS_S = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
UNITS_BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


@given(st.integers(0, 36500), st.sampled_from(sorted(UNITS_S)), st.sampled_from(["", " "]))
def test_every_duration_means_what_it_says(number: int, unit: str, space: str) -> None:
    """Number and unit, with or without a space; and the number of seconds it stands for means the same."""
    seconds = parse_duration(f"{number}{space}{unit}")
    assert seconds == pytest.approx(number * UNITS_S[unit])
    assert parse_duration(seconds) == seconds


@given(st.integers(0, 10**6), st.integers(0, 999), st.sampled_from(sorted(UNITS_BYTES)))
def test_every_size_means_what_it_says(whole: int, thousandths: int, unit: str) -> None:
    """Decimal and binary units, with fractions; and the number of bytes it stands for means the same."""
    size = parse_bytes(f"{whole}.{thousandths:03}{unit}")
    assert abs(size - (whole + thousandths / 1000) * UNITS_BYTES[unit]) <= 1
    assert parse_bytes(size) == size


@given(st.text(max_size=8) | st.booleans() | st.none() | st.lists(st.integers()))
def test_anything_else_is_a_value_error(value: object) -> None:
    """What is neither a number nor a spelling raises ValueError and nothing else."""
    for parse in (parse_duration, parse_bytes):
        with suppress(ValueError):
            assert parse(value) >= 0


def test_json_body_may_be_any_value(tmp_path: Path) -> None:
    """The body goes out as it is written."""
    canary = load(tmp_path, TARGET + 'json = { inputs = [[1, 2.5], [true, "x"]] }').target[0].canary[0]
    assert isinstance(canary, HttpCanarySection)
    assert json.dumps(canary.json_) == '{"inputs": [[1, 2.5], [true, "x"]]}'
