"""The configuration file: parsed, validated whole, every error at once with its key path and what is allowed.

This module only turns TOML into the policies that the packages below define; it holds no rule of judging or acting.
`config.example.toml` shows every key with its unit, default and why.
"""

from __future__ import annotations

import os
import re
import tomllib
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_UNITS_BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
RESERVED_TARGET_NAMES = {"list", "show", "diff", "promote", "rollback", "ack", "test"}  # words of the command line


class ConfigError(Exception):
    """The configuration cannot be used. `problems` holds one line per mistake, each with its key path."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def parse_duration(value: object) -> float:
    """Seconds from "500ms", "30s", "10m", "4h", "7d" or a number of seconds. Raises ValueError for anything else."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)\s*", value) if isinstance(value, str) else None
    if match is None:
        raise ValueError('must be a duration like "500ms", "30s", "10m", "4h" or "7d", or a number of seconds')
    return float(match[1]) * _UNITS_S[match[2]]


def parse_bytes(value: object) -> int:
    """Bytes from "16MB", "8GiB" or a number of bytes. Raises ValueError for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]i?B|B)\s*", value) if isinstance(value, str) else None
    if match is None:
        raise ValueError('must be a size like "16MB" or "8GiB", or a number of bytes')
    return int(float(match[1]) * _UNITS_BYTES[match[2]])


def resolve_secret(value: object) -> object:
    """A secret from `env:NAME` or `file:PATH` (trailing newline removed). Raises ValueError when it is not there.

    A literal is refused: configuration files are copied into tickets.
    """
    if not isinstance(value, str):
        return value
    kind, _, where = value.partition(":")
    if kind == "env" and where:
        if not os.environ.get(where):
            raise ValueError(f"the environment variable {where} is not set")
        return os.environ[where]
    if kind == "file" and where:
        try:
            return Path(where).read_text().strip()
        except OSError as error:
            raise ValueError(f"cannot read {where}: {error.strerror}") from error
    raise ValueError('must be "env:NAME" or "file:PATH"')


def _check_listen(value: object) -> object:
    if not isinstance(value, str) or not re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[^:\s]+):\d{1,5}", value):
        raise ValueError('must be host:port, for example "127.0.0.1:9477" or "[::1]:9477"')
    return value


def _check_url(value: object) -> object:
    if not isinstance(value, str) or not re.match(r"https?://[^\s/]+", value):
        raise ValueError("must be a URL that begins with http:// or https://")
    return value


def _check_name(value: object) -> object:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", value):
        raise ValueError("must be 1 to 64 letters, digits, '_', '.' or '-', the first a letter or digit")
    return value


Duration = Annotated[float, BeforeValidator(parse_duration), Field(gt=0)]
Size = Annotated[int, BeforeValidator(parse_bytes), Field(gt=0)]
Secret = Annotated[SecretStr, BeforeValidator(resolve_secret)]
Name = Annotated[str, BeforeValidator(_check_name)]
Url = Annotated[str, BeforeValidator(_check_url)]
Share = Annotated[float, Field(gt=0, le=1)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StoreSection(Section):
    url: str = "sqlite:///watchdog.db"
    samples: Duration = 14 * 86400.0
    failures: Duration = 90 * 86400.0
    memory: Duration = 14 * 86400.0
    max_rows: Annotated[int, Field(ge=1000)] = 500_000


class WebSection(Section):
    listen: Annotated[str, BeforeValidator(_check_listen)] = "127.0.0.1:9477"
    token: Secret | None = None
    readyz_strict: bool = False

    @property
    def host(self) -> str:
        return self.listen.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        return int(self.listen.rpartition(":")[2])


class LogSection(Section):
    format: Literal["console", "json"] = "console"
    level: Literal["debug", "info", "warning", "error"] = "info"


class NotifierSection(Section):
    name: Name
    kind: Literal["slack", "webhook"]
    url: Secret | Url
    secret: Secret | None = None
    min_level: Literal["info", "watch", "page", "urgent"] = "watch"
    targets: list[str] = Field(default_factory=list)
    timeout: Duration = 10.0

    @property
    def address(self) -> str:
        return self.url.get_secret_value() if isinstance(self.url, SecretStr) else self.url

    @field_validator("url", mode="before")
    @classmethod
    def _url_or_secret(cls, value: object) -> object:
        return value if isinstance(value, str) and re.match(r"https?://", value) else resolve_secret(value)


class ExpectSection(Section):
    status: int = 200
    json_path: str | None = None
    shape: list[int] | None = None
    finite: bool = True
    rtol: Annotated[float, Field(ge=0)] | None = None
    atol: Annotated[float, Field(ge=0)] | None = None
    cosine: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=1, le=100)] | None = None
    text: str | None = None


class CanarySection(Section):
    name: Name = "default"
    interval: Duration = 60.0
    timeout: Duration = 10.0
    burst: Annotated[int, Field(ge=1, le=1000)] = 10
    warmup: Annotated[int, Field(ge=0, le=100)] = 1
    max_busy: Share = 0.01
    expect: ExpectSection = ExpectSection()


class HttpCanarySection(CanarySection):
    kind: Literal["http"] = "http"
    url: Url
    method: Literal["GET", "POST", "PUT"] = "POST"
    json_: Any = Field(default=None, alias="json")
    body_file: Path | None = None
    headers: dict[str, str] = Field(default_factory=dict)
    control_url: Url | None = None

    @model_validator(mode="after")
    def _one_body(self) -> HttpCanarySection:
        if self.json_ is not None and self.body_file is not None:
            raise ValueError("json and body_file exclude each other")
        if self.body_file is not None and not self.body_file.is_file():
            raise ValueError(f"body_file {self.body_file} does not exist")
        return self


class TorchCanarySection(CanarySection):
    kind: Literal["torch"]
    model: str
    python: str | None = None
    weights: Path | None = None
    input: dict[str, Any] = Field(default_factory=lambda: {"shape": [1], "seed": 0})
    load_timeout: Duration = 300.0


AnyCanary = Annotated[HttpCanarySection | TorchCanarySection, Field(discriminator="kind")]


class ProcessSection(Section):
    pid_file: Path | None = None
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    parent_pid: Annotated[int, Field(ge=1)] | None = None
    workers: Literal["auto", "self", "children"] = "auto"

    @model_validator(mode="after")
    def _exactly_one(self) -> ProcessSection:
        if sum(v is not None for v in (self.pid_file, self.port, self.parent_pid)) != 1:
            raise ValueError("exactly one of pid_file, port, parent_pid is needed")
        return self


class RegressionSection(Section):
    threshold: Annotated[float, Field(gt=0.01, le=10)] = 0.20
    bursts: Annotated[int, Field(ge=3, le=100)] = 5


class LeakSection(Section):
    horizon: Duration = 7 * 86400.0
    urgent: Duration = 4 * 3600.0
    interval: Duration = 15.0
    warmup: Duration = 1800.0
    window: Duration = 4 * 3600.0
    min_gain: Size = 16_000_000
    capacity: Size | None = None


class LimitsSection(Section):
    p95: Duration | None = None
    memory_ratio: Share | None = None


class RecycleSection(Section):
    kind: Literal["command", "process"]
    command: list[str] | None = None
    timeout: Duration = 300.0
    grace: Duration = 30.0
    allow_kill: bool = False
    drain: Annotated[float, BeforeValidator(parse_duration), Field(ge=0)] = 0.0
    ready_timeout: Duration = 600.0
    verify_bursts: Annotated[int, Field(ge=1, le=100)] = 3
    min_uptime: Annotated[float, BeforeValidator(parse_duration), Field(ge=0)] = 1800.0
    cooldown: Annotated[float, BeforeValidator(parse_duration), Field(ge=0)] = 1800.0
    budget: Annotated[int, Field(ge=1)] = 3
    budget_window: Duration = 6 * 3600.0
    max_age: Duration | None = None
    max_age_jitter: Annotated[float, Field(ge=0, le=0.5)] = 0.1

    @model_validator(mode="after")
    def _command_given(self) -> RecycleSection:
        if (self.kind == "command") != (self.command is not None):
            raise ValueError('command = ["program", "argument", ...] is needed with kind = "command" and only there')
        if self.command == []:
            raise ValueError("command must name a program")
        return self


class TargetSection(Section):
    name: Name
    group: Name | None = None
    device: Literal["cpu", "cuda", "auto"] = "auto"
    mode: Literal["observe", "alert", "act"] = "alert"
    auto_baseline: bool = True
    canary: Annotated[list[AnyCanary], Field(min_length=1)]
    process: ProcessSection | None = None
    regression: RegressionSection = RegressionSection()
    leak: LeakSection = LeakSection()
    limits: LimitsSection = LimitsSection()
    recycle: RecycleSection | None = None

    @field_validator("canary", mode="before")
    @classmethod
    def _http_by_default(cls, value: object) -> object:
        if isinstance(value, list):
            return [{"kind": "http", **c} if isinstance(c, dict) else c for c in value]
        return value

    @model_validator(mode="after")
    def _consistent(self) -> TargetSection:
        if self.name in RESERVED_TARGET_NAMES:
            raise ValueError(f"name {self.name!r} is a word of the command line; choose another")
        if len({c.name for c in self.canary}) != len(self.canary):
            raise ValueError("canary names must differ within a target (the default name is 'default')")
        if self.mode == "act" and self.recycle is None:
            raise ValueError('mode = "act" needs a [target.recycle] section')
        if self.recycle is not None and self.recycle.kind == "process" and self.process is None:
            raise ValueError('recycle.kind = "process" needs a [target.process] section')
        return self


class Config(Section):
    store: StoreSection = StoreSection()
    web: WebSection = WebSection()
    log: LogSection = LogSection()
    notifier: list[NotifierSection] = Field(default_factory=list)
    target: Annotated[list[TargetSection], Field(min_length=1)]

    @model_validator(mode="after")
    def _names_differ(self) -> Config:
        targets, notifiers = [t.name for t in self.target], [n.name for n in self.notifier]
        for kind, names in (("target", targets), ("notifier", notifiers)):
            twice = sorted({n for n in names if names.count(n) > 1})
            if twice:
                raise ValueError(f"{kind} names must differ; used twice: {', '.join(twice)}")
        for notifier in self.notifier:
            unknown = sorted(set(notifier.targets) - set(targets))
            if unknown:
                raise ValueError(f"notifier {notifier.name!r}: no target is named {', '.join(unknown)}")
        return self

    def find(self, name: str) -> TargetSection:
        """The target of that name. Raises ConfigError that lists the names there are."""
        for target in self.target:
            if target.name == name:
                return target
        raise ConfigError([f"no target is named {name!r}; there are: {', '.join(t.name for t in self.target)}"])


def load_config(path: Path) -> Config:
    """Read and validate a file. Raises ConfigError with every problem found."""
    try:
        with path.open("rb") as file:
            raw = tomllib.load(file)
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror}"]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: not TOML: {error}"]) from error
    return parse_config(raw)


def parse_config(raw: dict[str, Any]) -> Config:
    """Validate parsed TOML. Raises ConfigError with every problem found."""
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        raise ConfigError([_problem(e, raw) for e in error.errors(include_url=False)]) from error


def _problem(error: Any, raw: dict[str, Any]) -> str:
    """One line: the key path with the names of targets and canaries in it, what is wrong, and the value given."""
    path = ""
    here: Any = raw
    for part in error["loc"]:
        if part in ("http", "torch") and not (isinstance(here, dict) and part in here):
            continue  # pydantic's tag of the canary's kind, not a key of the file
        try:
            here = here[part]
        except (KeyError, IndexError, TypeError):
            here = {}
        if isinstance(part, int):
            name = here.get("name") if isinstance(here, dict) else None
            path += f"[{name or part}]"
        else:
            path += f".{part}" if path else str(part)
    if error["type"] == "extra_forbidden":
        return f"{path}: unknown key"
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    given = error.get("input")
    secret = path.startswith("notifier") or path == "web.token"  # may hold a secret that was mistyped
    shown = f" (given: {given!r})" if isinstance(given, (str, int, float, bool)) and not secret else ""
    return f"{path or 'configuration'}: {message}{shown}"
