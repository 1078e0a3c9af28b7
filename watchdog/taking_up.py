"""Going on where the last run, or the last configuration, ended: what nobody watches any more is closed and said."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import structlog
from sqlalchemy import Connection

from alerts import delivery_store, recycle_store
from alerts import store as alert_store
from alerts.delivery_store import DeliveryState
from alerts.episode import BEFORE_ACTING, Outcome, State
from alerts.incident import retire
from alerts.recycle_store import Episode, Step
from watchdog.effects import Effects
from watchdog.status import is_watched
from watchdog.target import Target
from watchdog.watch import Watch

ALL = 1_000_000
NOT_CONFIGURED = "the target is no longer configured"

log = structlog.get_logger("watchdog")


def take_up(
    connection: Connection,
    watch: Watch,
    effects: Effects,
    *,
    fresh: Iterable[Target],
    running: frozenset[str],
    now: float,
) -> Mapping[str, int]:
    """Close what is about what is not watched, in the caller's transaction.

    fresh: targets that were just built, whose baselines are loaded. running: targets whose recycle is under way on a
    thread of its own, which goes on. Returns how many messages were given up, by the notifier that is gone.
    """
    _retire_incidents(connection, watch, effects, now)
    _end_episodes(connection, watch, effects, running, now)
    for target in fresh:
        for canary in target.canaries:
            target.load_baseline(connection, canary)
    return _bury(connection, watch)


def _retire_incidents(connection: Connection, watch: Watch, effects: Effects, now: float) -> None:
    """Who was told that they began is told that they are over: no verdict about them can come any more."""
    sections = {section.name: section for section in watch.config.target}
    for incident in alert_store.list_incidents(connection, only_open=True, limit=ALL):
        section = sections.get(incident.target)
        if section is None or not is_watched(watch.config, section, incident.subject):
            effects.apply(connection, incident, retire(incident, now=now))


def _end_episodes(connection: Connection, watch: Watch, effects: Effects, running: frozenset[str], now: float) -> None:
    """Recycles of targets that are gone: not begun, or interrupted, and nobody is left to go on with them."""
    for episode in recycle_store.under_way(connection):
        if episode.target in watch.targets or episode.target in running:
            continue
        ended = _ended(episode, now)
        recycle_store.save_episode(connection, ended)
        if ended.state is not State.BLOCKED:
            effects.tell_recycle(connection, ended)
        log.warning("recycle ended", target=episode.target, episode=episode.id, detail=NOT_CONFIGURED)


def _ended(episode: Episode, now: float) -> Episode:
    """Blocked when nothing was done yet, else interrupted, which is told."""
    begun = episode.state not in BEFORE_ACTING
    state = State.ESCALATED if begun else State.BLOCKED
    return replace(
        episode,
        state=state,
        outcome=Outcome.INTERRUPTED if begun else Outcome.BLOCKED,
        detail=NOT_CONFIGURED,
        updated_at=now,
        ended_at=now,
        steps=(*episode.steps, Step(at=now, state=state, detail=NOT_CONFIGURED)),
    )


def _bury(connection: Connection, watch: Watch) -> dict[str, int]:
    """Give up what waits for notifiers that are gone; returns how many, by notifier."""
    names = [route.notifier.name for route in watch.routes]
    waiting = {
        notifier: count
        for (notifier, state), count in delivery_store.count_deliveries(connection).items()
        if state is DeliveryState.PENDING and notifier not in names
    }
    delivery_store.bury_orphans(connection, names)
    return waiting
