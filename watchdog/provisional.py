"""The first baseline of a canary for its input: taken by the daemon, marked provisional, said in `status`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import structlog
from sqlalchemy import Connection

from baselines import baseline_store, burst_store
from baselines.baseline import NotReady, gather
from baselines.database import Database
from probes.messages import Burst, Identity
from watchdog.target import Target

BURSTS = 30  # as many as `watchdog baseline` takes

log = structlog.get_logger("baseline")


class Provisional:
    """Watches for canaries without a baseline. Only `watchdog baseline` replaces what it takes."""

    def __init__(self, database: Database, targets: Mapping[str, Target], *, now: Callable[[], float]) -> None:
        self._database = database
        self._targets = targets
        self._now = now
        self._done: set[tuple[str, str, Identity]] = set()

    def consider(self, burst: Burst) -> None:
        """Take the baseline once the last BURSTS bursts are all good and alike. The burst itself is stored already."""
        key = (burst.target, burst.canary)
        done = (*key, burst.identity)
        if done in self._done or not self._targets[burst.target].auto_baseline:
            return
        with self._database.read() as connection:
            if _has_baseline(connection, burst):
                self._done.add(done)
                return
            bursts = burst_store.bursts_since(connection, *key, limit=BURSTS)
        if len(bursts) < BURSTS:
            return
        bursts[-1] = replace(bursts[-1], output=burst.output)  # the store keeps no values; the golden output needs them
        try:
            baseline = gather(bursts, label=None, provisional=True, taken_at=self._now())
        except NotReady as why:
            log.debug("no provisional baseline yet", target=burst.target, canary=burst.canary, why=str(why))
            return
        with self._database.write(durable=True) as connection:
            if _has_baseline(connection, burst):  # a person was quicker, and theirs stands
                return
            saved = baseline_store.save_baseline(connection, baseline)
            why_now = "the first baseline, taken by the daemon"
            baseline_store.promote(connection, saved, at=self._now(), by="watchdog", why=why_now)
        self._done.add(done)
        log.info("provisional baseline", target=burst.target, canary=burst.canary, p95_s=baseline.p95_s)


def _has_baseline(connection: Connection, burst: Burst) -> bool:
    """Whether the active baseline is of what this burst asked; another input's is no baseline for it."""
    active = baseline_store.active_baseline(connection, burst.target, burst.canary)
    return active is not None and active.identity == burst.identity
