"""What is watched, and who is told: all that one configuration makes, and the views by which the rest sees it change.

A `Watch` is built whole before the one in use is touched. The judge thread exchanges the two between two results, so
that no result meets half of each.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView, Mapping, Sequence, ValuesView
from dataclasses import dataclass
from typing import overload

from alerts.notifiers.delivery import Route
from watchdog.config import Config
from watchdog.replicas import replicas_of
from watchdog.target import Target

Inputs = Mapping[str, bytes]
"""The bytes of the files that a target's canaries send, by canary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """The objects of one configuration, in its order. peers: the others of each target's group.

    inputs: what was read from files besides, by target: a file that changed is a change of the configuration.
    """

    config: Config
    targets: Mapping[str, Target]
    routes: Sequence[Route]
    inputs: Mapping[str, Inputs]
    peers: Mapping[str, frozenset[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What two watches do not have in common: names, in the order of the configuration."""

    targets_new: tuple[str, ...] = ()
    targets_changed: tuple[str, ...] = ()
    targets_gone: tuple[str, ...] = ()
    notifiers_new: tuple[str, ...] = ()
    notifiers_changed: tuple[str, ...] = ()
    notifiers_gone: tuple[str, ...] = ()


def compare(before: Watch, after: Watch) -> Change:
    """By identity: what was kept is the same object."""
    old, new = before.targets, after.targets
    said = {r.notifier.name: r for r in before.routes}
    says = {r.notifier.name: r for r in after.routes}
    return Change(
        targets_new=tuple(n for n in new if n not in old),
        targets_changed=tuple(n for n in new if n in old and new[n] is not old[n]),
        targets_gone=tuple(n for n in old if n not in new),
        notifiers_new=tuple(n for n in says if n not in said),
        notifiers_changed=tuple(n for n in says if n in said and says[n] is not said[n]),
        notifiers_gone=tuple(n for n in said if n not in says),
    )


class TargetsNow(Mapping[str, Target]):
    """The targets of this moment. Exchanged whole: whoever walks over them sees those of the moment it began."""

    def __init__(self, targets: Mapping[str, Target]) -> None:
        self._now = targets

    def exchange(self, targets: Mapping[str, Target]) -> None:
        self._now = targets

    def __getitem__(self, name: str) -> Target:
        return self._now[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._now)

    def __len__(self) -> int:
        return len(self._now)

    def keys(self) -> KeysView[str]:
        return self._now.keys()

    def values(self) -> ValuesView[Target]:
        return self._now.values()

    def items(self) -> ItemsView[str, Target]:
        return self._now.items()


class RoutesNow(Sequence[Route]):
    """The routes of this moment, exchanged in the same way."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._now = tuple(routes)

    def exchange(self, routes: Sequence[Route]) -> None:
        self._now = tuple(routes)

    @overload
    def __getitem__(self, index: int) -> Route: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Route]: ...
    def __getitem__(self, index: int | slice) -> Route | Sequence[Route]:
        return self._now[index]

    def __iter__(self) -> Iterator[Route]:
        return iter(self._now)

    def __len__(self) -> int:
        return len(self._now)


class Current:
    """The watch in use, and the views of it that everybody else holds."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.targets = TargetsNow(watch.targets)
        self.routes = RoutesNow(watch.routes)
        _introduce(watch)

    def exchange(self, watch: Watch) -> None:
        """Use another one. What was kept learns who its peers are now."""
        self.watch = watch
        self.targets.exchange(watch.targets)
        self.routes.exchange(watch.routes)
        _introduce(watch)

    def notifiers(self) -> list[str]:
        """The names of those who are told."""
        return [route.notifier.name for route in self.routes]


def _introduce(watch: Watch) -> None:
    """Have each target know who the others of its group are, and who is compared with it."""
    for section in watch.config.target:
        target = watch.targets[section.name]
        found = {name: names for name in target.canaries if (names := replicas_of(watch.config, section, name))}
        target.peers = watch.peers[section.name]
        if found != target.replicas:
            target.tracks.clear()  # what came while they were not compared is in the store alone
        target.replicas = found
