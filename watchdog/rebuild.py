"""From one configuration to the next: what it refuses, what is kept, what is built anew."""

from __future__ import annotations

from collections.abc import Mapping

import httpx

from alerts.notifiers.delivery import Route
from baselines.database import path_of
from watchdog.bootstrap import Shared, build_route, build_target, peers_of, read_inputs
from watchdog.config import Config, ConfigError, NotifierSection
from watchdog.spelling import secret_variables
from watchdog.target import Target
from watchdog.watch import Inputs, Watch

ROUTING = {"min_level", "targets"}  # a notifier's keys that say what it is told, and not how


def needs_restart(before: Config, after: Config) -> list[str]:
    """One line for each change that a running daemon cannot take up; empty when it can take up all."""
    problems = []
    if path_of(before.store.url) != path_of(after.store.url):
        problems.append(f"store.url: needs a restart (in use: {before.store.url}, given: {after.store.url})")
    if before.web.listen != after.web.listen:
        problems.append(f"web.listen: needs a restart (in use: {before.web.listen}, given: {after.web.listen})")
    for key, used in before.nvml:
        if (given := getattr(after.nvml, key)) != used:
            problems.append(f"nvml.{key}: needs a restart (in use: {used:g} s, given: {given:g} s)")
    return problems


def build_watch(
    config: Config, shared: Shared, transport: httpx.BaseTransport, *, before: Watch | None = None
) -> Watch:
    """Everything that the configuration makes, and nothing of `before` touched.

    A target or notifier whose section says what it said in `before` keeps its object, with all that it has learned.
    Raises ConfigError for what only shows when it is built: files that cannot be read, and what needs a restart.
    """
    inputs: dict[str, Inputs] = {}
    problems = needs_restart(before.config, config) if before is not None else []
    for section in config.target:
        try:
            inputs[section.name] = read_inputs(section)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    peers = peers_of(config)
    return Watch(
        config=config,
        targets=_build_targets(config, shared, inputs, peers, before),
        routes=_build_routes(config, transport, before),
        inputs=inputs,
        peers=peers,
    )


def _build_targets(
    config: Config,
    shared: Shared,
    inputs: Mapping[str, Inputs],
    peers: Mapping[str, frozenset[str]],
    before: Watch | None,
) -> dict[str, Target]:
    sections = {t.name: t for t in before.config.target} if before is not None else {}
    withheld = secret_variables(config)
    targets = {}
    for section in config.target:
        name = section.name
        old = before.targets[name] if before is not None and name in sections else None
        if old is not None and before is not None and sections[name] == section and before.inputs[name] == inputs[name]:
            targets[name] = old
        else:
            targets[name] = build_target(
                section, shared, peers=peers[name], inputs=inputs[name], withheld=withheld, replaces=old
            )
    return targets


def _build_routes(config: Config, transport: httpx.BaseTransport, before: Watch | None) -> list[Route]:
    sections = {n.name: n for n in before.config.notifier} if before is not None else {}
    routes = {r.notifier.name: r for r in before.routes} if before is not None else {}

    def build(section: NotifierSection) -> Route:
        known, old = sections.get(section.name), routes.get(section.name)
        if known is None or old is None:
            return build_route(section, transport)
        if known == section:
            return old
        same = known.model_dump(exclude=ROUTING) == section.model_dump(exclude=ROUTING)
        return build_route(section, transport, notifier=old.notifier if same else None)

    return [build(section) for section in config.notifier]
