"""The configuration file: parsed, validated whole, every error at once with its key path and what is allowed.

This module only turns TOML into the policies that the packages below define; it holds no rule of judging or acting.
`config.example.toml` shows every key with its unit, default and why.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from baselines.database import DatabaseError, path_of
from probes.printable import one_line
from watchdog.mistakes import broken_rules, describe
from watchdog.spelling import Address, Device, Duration, Header, Length, Listen, Metric, Name, Secret, Share, Size, Url

RESERVED_TARGET_NAMES = {"list", "show", "diff", "promote", "rollback", "ack", "test"}  # words of the command line


class ConfigError(Exception):
    """The configuration cannot be used. `problems` holds one line per mistake, each with its key path."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def _check_store(value: object) -> object:
    try:
        path_of(str(value))
    except DatabaseError as error:
        raise ValueError("must be sqlite:///FILE") from error
    return value


def _check_file(value: Path) -> Path:
    if not value.is_file():
        raise ValueError("there is no such file")
    return value


def _check_target_name(value: str) -> str:
    if value in RESERVED_TARGET_NAMES:
        raise ValueError("is a word of the command line; choose another")
    return value


XidCode = Annotated[int, Field(ge=1, le=999)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StoreSection(Section):
    url: Annotated[str, BeforeValidator(_check_store)] = "sqlite:///watchdog.db"
    samples: Duration = 7 * 86400.0
    failures: Duration = 90 * 86400.0
    memory: Duration = 7 * 86400.0
    rollups: Duration = 400 * 86400.0
    max_rows: Annotated[int, Field(ge=1000)] = 1_000_000


class WebSection(Section):
    listen: Listen = "127.0.0.1:9477"
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


class NvmlSection(Section):
    interval: Duration = 5.0
    lists: Duration = 15.0
    deadline: Duration = 10.0


class NotifierSection(Section):
    name: Name
    kind: Literal["slack", "webhook"]
    url: Address
    secret: Secret | None = None
    min_level: Literal["info", "watch", "page", "urgent"] = "watch"
    targets: list[str] = Field(default_factory=list)
    timeout: Duration = 10.0


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
    body_file: Annotated[Path, AfterValidator(_check_file)] | None = None
    headers: dict[str, Header] = Field(default_factory=dict)
    control_url: Url | None = None
    control: Literal["agent"] | None = None


class TorchCanarySection(CanarySection):
    kind: Literal["torch"]
    model: str
    python: str | None = None
    weights: Path | None = None
    input: dict[str, Any] = Field(default_factory=lambda: {"shape": [1], "seed": 0})
    load_timeout: Duration = 300.0
    control: Literal["kernel", "none"] = "kernel"


AnyCanary = Annotated[HttpCanarySection | TorchCanarySection, Field(discriminator="kind")]


class ProcessSection(Section):
    pid_file: Path | None = None
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    parent_pid: Annotated[int, Field(ge=1)] | None = None
    workers: Literal["auto", "self", "children"] = "auto"


class GpuSection(Section):
    devices: list[Device] = Field(default_factory=list)
    xid: dict[XidCode, Literal["restart_app", "reset_gpu", "reboot", "workflow", "ignore"]] = Field(
        default_factory=dict
    )


class AgentSection(Section):
    folder: Path | None = None
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    token: Secret | None = None
    timeout: Duration = 1.0


class LoadSection(Section):
    kind: Literal["prometheus", "stub_status", "agent"] = "prometheus"
    url: Url | None = None
    metric: Metric | None = None
    rate: bool = False
    headers: dict[str, Header] = Field(default_factory=dict)
    timeout: Duration = 1.0


class RegressionSection(Section):
    threshold: Annotated[float, Field(gt=0.01, le=10)] = 0.20
    evidence: Annotated[float, Field(ge=3, le=20)] = 5.0


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
    command: Annotated[list[str], Field(min_length=1)] | None = None
    timeout: Duration = 300.0
    grace: Duration = 30.0
    allow_kill: bool = False
    drain: Length = 0.0
    ready_timeout: Duration = 600.0
    verify_bursts: Annotated[int, Field(ge=1, le=100)] = 3
    min_uptime: Length = 1800.0
    cooldown: Length = 1800.0
    budget: Annotated[int, Field(ge=1)] = 3
    budget_window: Duration = 6 * 3600.0
    max_age: Duration | None = None
    max_age_jitter: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    max_requests: Annotated[int, Field(ge=1)] | None = None
    max_requests_jitter: Annotated[float, Field(ge=0, le=0.5)] = 0.1


class TargetSection(Section):
    name: Annotated[Name, AfterValidator(_check_target_name)]
    group: Name | None = None
    device: Literal["cpu", "cuda", "auto"] = "auto"
    mode: Literal["observe", "alert", "act"] = "alert"
    auto_baseline: bool = True
    canary: Annotated[list[AnyCanary], Field(min_length=1)]
    process: ProcessSection | None = None
    gpu: GpuSection = GpuSection()
    agent: AgentSection | None = None
    load: LoadSection | None = None
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


class Config(Section):
    store: StoreSection = StoreSection()
    web: WebSection = WebSection()
    log: LogSection = LogSection()
    nvml: NvmlSection = NvmlSection()
    notifier: list[NotifierSection] = Field(default_factory=list)
    target: Annotated[list[TargetSection], Field(min_length=1)]

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
    except RecursionError as error:
        raise ConfigError([f"{path}: nested too deeply"]) from error
    except ValueError as error:  # not TOML, not UTF-8, a number of thousands of digits; or no name of a file
        raise ConfigError([one_line(f"{path}: not TOML: {error}")]) from error
    return parse_config(raw)


def parse_config(raw: dict[str, Any]) -> Config:
    """Validate parsed TOML. Raises ConfigError with every problem found."""
    config, problems = None, []
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        problems = [describe(e, raw, _ALLOWED) for e in error.errors(include_url=False)]
    problems += broken_rules(raw)
    if config is None or problems:
        raise ConfigError(problems)
    return config


_SECTIONS: dict[str, type[Section]] = {
    "": Config,
    "store": StoreSection,
    "web": WebSection,
    "log": LogSection,
    "nvml": NvmlSection,
    "notifier": NotifierSection,
    "target": TargetSection,
    "http": HttpCanarySection,
    "torch": TorchCanarySection,
    "expect": ExpectSection,
    "process": ProcessSection,
    "gpu": GpuSection,
    "agent": AgentSection,
    "load": LoadSection,
    "regression": RegressionSection,
    "leak": LeakSection,
    "limits": LimitsSection,
    "recycle": RecycleSection,
}
_ALLOWED = {key: [f.alias or name for name, f in s.model_fields.items()] for key, s in _SECTIONS.items()}
