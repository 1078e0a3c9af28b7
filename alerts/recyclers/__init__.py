"""Ways to recycle a serving worker: one file each. A new one is a file here and a line in `bootstrap`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from probes.messages import Life


@dataclass(frozen=True, slots=True, kw_only=True)
class Acted:
    """What came of the act. done is False when it is not known to have happened; a time-out is never "done"."""

    done: bool
    detail: str


class Recycler(Protocol):
    """Kills first, lets the supervisor start again: two copies of a model seldom fit on one GPU.

    one_by_one: it can take one worker and leave the others alone; then each is replaced before the next is taken.
    """

    one_by_one: bool

    def plan(self, lives: Sequence[Life]) -> list[str]:
        """The steps `act` would take, one line each, for `--dry-run`."""

    def act(self, lives: Sequence[Life]) -> Acted:
        """Recycle these workers, each told by pid and start time. Returns within the recycler's own time-outs."""
