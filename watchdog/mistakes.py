"""What is wrong with a configuration, one line per mistake: the key path as it is written in the file, what is allowed.

The rules that several keys must keep together are here too. They are asked of the raw document, so that they are said
together with every other mistake and not only once the rest is right.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from baselines.leak import MIN_SAMPLES
from watchdog.spelling import parse_duration
from watchdog.values import Place, unusable_canary, unusable_headers, unusable_values

MAX_SHOWN = 60  # characters of a value in a message
LEAK_INTERVAL_S, LEAK_WINDOW_S = 15.0, 4 * 3600.0  # of `watchdog.config.LeakSection`, for a key that is not there
_KINDS = ("http", "torch")  # pydantic's tag of a canary's kind: a step of its path, not a key of the file
_BARE_KEY, _PLAIN_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}"), re.compile(r"[\w. -]{1,64}")  # others are quoted
_SECRET_KEYS = frozenset({"token", "secret", "headers"})
_LOAD_KEYS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "prometheus": (("url", "metric"), ("rate", "headers")),
    "stub_status": (("url",), ("headers",)),
    "agent": ((), ()),
}
"""Of each kind of load the keys that it needs, and those that it may have."""
_WORDS = {
    "missing": "is needed",
    "too_short": "must not be empty",
    "list_type": "must be a list",
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "model_attributes_type": "must be a table",
    "string_type": "must be a string",
    "path_type": "must be a string",
    **dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false"),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "must be a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "must be a number"),
}
"""What pydantic's kinds of error are in the words of a configuration file; others keep pydantic's own."""


def describe(error: Mapping[str, Any], raw: Mapping[str, Any], allowed: Mapping[str, Iterable[str]]) -> str:
    """One line about a pydantic error. A value is shown unless it may hold a secret that was mistyped.

    allowed: the keys of each section, by the section's key (a canary's by its kind, the document's by "").
    """
    place: Place = tuple(step for step in error["loc"] if step != "[key]")  # which pydantic puts behind a bad key
    kind, given, message = error["type"], error.get("input"), error["msg"]
    if kind == "extra_forbidden":
        section = next((p for p in reversed(place[:-1]) if isinstance(p, str)), "")
        return f"{path_of(place, raw)}: unknown key; allowed: {', '.join(allowed[section])}"
    if kind == "union_tag_invalid":
        place, given = (*place, "kind"), error["ctx"]["tag"]
        message = f"must be one of {error['ctx']['expected_tags']}"
    elif kind == "list_type" and isinstance(given, dict):
        dotted = ".".join(p for p in place if isinstance(p, str))
        message = f"must be a list of tables: write [[{dotted}]], not [{dotted}]"
    else:
        message = _WORDS.get(kind, message.removeprefix("Value error, ").replace("Input should", "must"))
    path = path_of(place, raw)
    shown = isinstance(given, (str, int, float, bool)) and not _may_be_secret(place, str(given))
    return f"{path or 'configuration'}: {message}" + (f" (given: {_quoted(given)})" if shown else "")


def _may_be_secret(place: Place, given: str) -> bool:
    """A token at its place, a notifier's address at a wrong one, a password in a URL or behind `env:`."""
    key = place[-1] if place else ""
    if _SECRET_KEYS.intersection(place) or _looks_secret(given):
        return True
    return place[:1] == ("notifier",) and (key == "url" or "://" in given)


def _looks_secret(given: str) -> bool:
    return "@" in given or re.match(r"env:(?!\w+$)", given) is not None


def _quoted(given: object) -> str:
    """Short and printable; of a URL only what is before its query, which may hold a key."""
    if isinstance(given, str) and _looks_secret(given):
        return "a value that may be a secret"
    text = repr(given.partition("?")[0][: 2 * MAX_SHOWN] if isinstance(given, str) else given)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def _named(name: str) -> str:
    return name if _PLAIN_NAME.fullmatch(name) else _quoted(name)


def path_of(place: Place, raw: Mapping[str, Any]) -> str:
    """`target[encoder].canary[0].timeout`: named where the file names it, counted from 0 where it does not."""
    path, here = "", raw
    for step in place:
        if step in _KINDS and not (isinstance(here, dict) and step in here):
            continue
        try:
            here = here[step]  # type: ignore[index]  # a list where step is a number
        except (KeyError, IndexError, TypeError):
            here = {}
        if isinstance(step, int):
            name = here.get("name") if isinstance(here, dict) else None
            path += f"[{name if isinstance(name, str) and _PLAIN_NAME.fullmatch(name) else step}]"
        else:
            key = step if _BARE_KEY.fullmatch(step) else json.dumps(step[:MAX_SHOWN])
            path += f".{key}" if path else key
    return path


def broken_rules(raw: Mapping[str, Any]) -> list[str]:
    """One line for each rule between keys that the document breaks; values of a wrong type are not its business."""
    targets, notifiers = _tables(raw, "target"), _tables(raw, "notifier")
    found: list[tuple[Place, str]] = list(unusable_values(raw))
    for kind, tables in (("target", targets), ("notifier", notifiers)):
        found += [((kind,), f"names must differ (used twice: {_named(name)})") for name in _twice(_names(tables))]
    known = _names(targets)
    for place, notifier in notifiers:
        wanted = notifier.get("targets")
        for name in wanted if isinstance(wanted, list) else ():
            if isinstance(name, str) and name not in known:
                there = f"there are: {', '.join(_named(each) for each in known)}"
                found.append(((*place, "targets"), f"no target is named {_quoted(name)}; {there}"))
    for place, target in targets:
        found += _rules_of_target(place, target)
    return [f"{path_of(place, raw)}: {problem}" for place, problem in found]


def _rules_of_target(place: Place, target: Mapping[str, Any]) -> Iterator[tuple[Place, str]]:
    canaries = [((*place, *where), canary) for where, canary in _tables(target, "canary")]
    for name in _twice([canary.get("name", "default") for _, canary in canaries]):
        yield (*place, "canary"), f"names must differ within a target (used twice: {_named(name)})"
    for where, canary in canaries:
        yield from unusable_canary(where, canary)
        if "json" in canary and "body_file" in canary:
            yield where, "json and body_file exclude each other"
        if canary.get("control") == "agent" and "control_url" in canary:
            yield where, "control_url and control exclude each other"
    process, recycle = target.get("process"), target.get("recycle")
    ways = ("pid_file", "port", "parent_pid")
    if isinstance(process, dict) and sum(way in process for way in ways) != 1:
        yield (*place, "process"), f"exactly one of {', '.join(ways)} is needed"
    yield from _rules_of_agent(place, target)
    yield from _rules_of_load((*place, "load"), target)
    if target.get("mode") == "act" and recycle is None:
        yield place, 'mode = "act" needs a [target.recycle] table'
    if target.get("mode") == "act" and target.get("process") is None:
        yield place, 'mode = "act" needs a [target.process] table: a worker that is not watched is not acted on'
    if isinstance(leak := target.get("leak", {}), dict):
        interval_s, window_s = _seconds(leak, "interval", LEAK_INTERVAL_S), _seconds(leak, "window", LEAK_WINDOW_S)
        if interval_s is not None and window_s is not None and interval_s * MIN_SAMPLES > window_s:
            longest = f"at most a {MIN_SAMPLES}th of window ({window_s:g} s)"
            yield (*place, "leak"), f"interval ({interval_s:g} s) must be {longest}, else memory is never judged"
    if isinstance(recycle, dict):
        kind = recycle.get("kind")
        if kind == "process" and process is None:
            yield place, 'recycle.kind = "process" needs a [target.process] table'
        if (kind == "command") != ("command" in recycle) and kind in ("command", "process"):
            needed = 'command = ["program", "argument", ...] is needed with kind = "command" and only there'
            yield (*place, "recycle"), needed


def _rules_of_agent(place: Place, target: Mapping[str, Any]) -> Iterator[tuple[Place, str]]:
    agent, recycle = target.get("agent"), target.get("recycle")
    if isinstance(agent, dict):
        if target.get("process") is None:
            yield (*place, "agent"), "needs a [target.process] table: an agent is asked for each worker found by it"
        if ("port" in agent) != ("token" in agent):
            yield (*place, "agent"), "port and token go together"
        if "folder" in agent and "port" in agent:
            yield (*place, "agent"), "folder and port exclude each other"
    for where, canary in _tables(target, "canary"):
        if canary.get("control") == "agent" and agent is None:
            yield (*place, *where), 'control = "agent" needs a [target.agent] table'
    if isinstance(recycle, dict) and "max_requests" in recycle and agent is None:
        yield (*place, "recycle"), "max_requests needs a [target.agent] table: only an agent counts requests"


def _rules_of_load(place: Place, target: Mapping[str, Any]) -> Iterator[tuple[Place, str]]:
    load = target.get("load")
    if not isinstance(load, dict):
        return
    kind = load.get("kind", "prometheus")
    if kind not in list(_LOAD_KEYS):  # in a list, for a value of any type
        return
    needed, allowed = _LOAD_KEYS[kind]
    for key in ("url", "metric", "rate", "headers"):
        if key in needed and key not in load:
            yield place, f'{key} is needed with kind = "{kind}"'
        if key in load and key not in (*needed, *allowed):
            yield place, f'{key} is not used with kind = "{kind}"'
    if kind == "agent" and target.get("agent") is None:
        yield place, 'kind = "agent" needs a [target.agent] table'
    yield from unusable_headers(place, load)


def _seconds(table: Mapping[str, Any], key: str, default: float) -> float | None:
    """A duration of the raw document; None when it is none, which others say."""
    try:
        return parse_duration(table.get(key, default))
    except ValueError:
        return None


def _tables(raw: Mapping[str, Any], key: str) -> list[tuple[Place, Mapping[str, Any]]]:
    listed = raw.get(key)
    return [((key, i), t) for i, t in enumerate(listed) if isinstance(t, dict)] if isinstance(listed, list) else []


def _names(tables: Iterable[tuple[Place, Mapping[str, Any]]]) -> list[str]:
    return [name for _, table in tables if isinstance(name := table.get("name"), str)]


def _twice(names: Sequence[Any]) -> list[str]:
    texts = [name for name in names if isinstance(name, str)]
    return sorted({name for name in texts if texts.count(name) > 1})
