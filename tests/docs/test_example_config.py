"""config.example.toml holds every key of the configuration, and what it says of each is true.

How the file is written: `key = value` is in force, `#key = value` (no space) is not; a comment behind the value says
`example` where it is not the default, and `instead of` where it excludes a key above it.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import TypeAdapter
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from watchdog import config
from watchdog.config import Section, load_config, parse_config

EXAMPLE = Path(__file__).resolve().parents[2] / "config.example.toml"

MODELS: dict[str, tuple[type[Section], ...]] = {
    "store": (config.StoreSection,),
    "web": (config.WebSection,),
    "log": (config.LogSection,),
    "nvml": (config.NvmlSection,),
    "notifier": (config.NotifierSection,),
    "target": (config.TargetSection,),
    "target.canary": (config.HttpCanarySection, config.TorchCanarySection),
    "target.canary.expect": (config.ExpectSection,),
    "target.process": (config.ProcessSection,),
    "target.gpu": (config.GpuSection,),
    "target.agent": (config.AgentSection,),
    "target.load": (config.LoadSection,),
    "target.regression": (config.RegressionSection,),
    "target.leak": (config.LeakSection,),
    "target.limits": (config.LimitsSection,),
    "target.recycle": (config.RecycleSection,),
}
SECRETS = (
    "SLACK_WEBHOOK_URL",
    "WATCHDOG_WEBHOOK_SECRET",
    "WATCHDOG_TOKEN",
    "MODEL_AUTHORIZATION",
    "WATCHDOG_AGENT_TOKEN",
    "METRICS_AUTHORIZATION",
)


@dataclass(frozen=True, slots=True)
class Line:
    """One key as the file shows it. model: of the table it is in. about: the comment behind the value."""

    number: int
    section: str
    model: type[Section]
    key: str
    value: Any
    about: str


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, "https://hooks.example.com/services/T0/B0/x")


def _lines() -> Iterator[Line]:
    section, tables = "", dict.fromkeys(MODELS, 0)
    for number, text in enumerate(EXAMPLE.read_text().splitlines(), 1):
        if header := re.fullmatch(r"#?\[{1,2}([a-z.]+)\]{1,2}", text):
            section = header[1]
            model = MODELS[section][
                min(tables[section], len(MODELS[section]) - 1)
            ]  # the second canary is the torch one
            tables[section] += 1
        elif pair := re.fullmatch(r"#?([a-z_0-9]+) = .*", text):
            value = tomllib.loads(text.removeprefix("#"))[pair[1]]
            about = text.rpartition("  # ")[2] if "  # " in text else ""
            yield Line(number, section, model, pair[1], value, about)
        else:
            assert text in ("", "#") or text.startswith("# "), (
                f"line {number} is neither a key, a section nor prose: {text!r}"
            )


LINES = list(_lines())


def _name(line: Line) -> str:
    return f"{line.number}:{line.section}.{line.key}"


def _keys(model: type[Section]) -> dict[str, FieldInfo]:
    """By the key as it is written; sub-tables have a section of their own."""
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    return {key: field for key, field in fields.items() if not any(s.rpartition(".")[2] == key for s in MODELS)}


def _validated(field: FieldInfo, value: object) -> Any:
    kind: Any = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    return TypeAdapter(kind).validate_python(value)


def test_every_section_model_is_shown() -> None:
    """A new section of the configuration cannot be forgotten here."""
    written = {model for models in MODELS.values() for model in models}
    abstract = {Section, config.Config, config.CanarySection}
    assert {m for m in vars(config).values() if isinstance(m, type) and issubclass(m, Section)} == written | abstract


@pytest.mark.parametrize("section", MODELS)
def test_every_key_is_shown_and_no_other(section: str) -> None:
    """What pydantic accepts and what a reader finds are the same set."""
    wanted = {key for model in MODELS[section] for key in _keys(model)}
    assert {line.key for line in LINES if line.section == section} == wanted


def test_it_loads_as_it_is() -> None:
    """A reader who copies it gets a configuration that works."""
    loaded = load_config(EXAMPLE)
    assert [target.name for target in loaded.target] == ["my-model"]


def test_everything_that_is_commented_out_can_be_used_at_once() -> None:
    """Removing every `#` but those of alternatives gives a configuration that works, with nothing unknown in it."""
    alternatives = {line.number for line in LINES if line.about.startswith("instead of")}
    kept = [
        text.removeprefix("#") if re.match(r"#[a-z\[]", text) and number not in alternatives else text
        for number, text in enumerate(EXAMPLE.read_text().splitlines(), 1)
    ]
    loaded = parse_config(tomllib.loads("\n".join(kept)))
    (target,) = loaded.target
    assert [canary.kind for canary in target.canary] == ["http", "torch"]
    assert target.recycle is not None


@pytest.mark.parametrize("line", LINES, ids=_name)
def test_a_shown_value_is_the_default_or_says_that_it_is_an_example(line: Line) -> None:
    """Nobody has to look into the code for a default, and nobody takes an example for one."""
    field = _keys(line.model)[line.key]
    default = field.get_default(call_default_factory=True, validated_data={})
    if line.about.startswith("instead of"):
        assert default is None
        return
    value = _validated(field, line.value)
    if default is PydanticUndefined or default is None:
        return  # needed, or off unless set: any value is an example
    assert (value != default) == line.about.startswith("example"), f"the default is {default!r}"
