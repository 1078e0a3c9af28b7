"""One trip of the data: result -> judged -> incident and effects -> one transaction. Read this to know the product."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from sqlalchemy import Connection

from alerts import store as alert_store
from alerts.incident import POLICIES, step
from baselines import burst_store
from baselines.database import Database
from baselines.verdict import Status, Verdict
from probes.gpu.sample import GpuSample
from probes.messages import Burst, MemorySample
from watchdog.effects import Effects
from watchdog.judging import (
    follow_memory,
    judge_beside,
    judge_burst,
    judge_devices,
    judge_memory_samples,
    record_devices,
    store_memory,
)
from watchdog.target import Target

Record = Callable[[Connection], None]


class Pipeline:
    """Runs on one thread, so that the results of a target are judged in the order in which they were measured."""

    def __init__(
        self, database: Database, targets: Mapping[str, Target], effects: Effects, *, now: Callable[[], float]
    ) -> None:
        self._database, self._targets, self._effects, self._now = database, targets, effects, now
        self._memory_due: dict[str, float] = {}

    def take_burst(self, burst: Burst) -> None:
        """Judge one burst on the history before it; store it with everything that follows."""
        with self._database.read() as connection:
            verdicts = judge_burst(connection, burst, self._targets[burst.target], now=self._now())
            verdicts += judge_beside(connection, burst, verdicts, self._targets, now=self._now())
        self._conclude(verdicts, lambda connection: burst_store.add_burst(connection, burst))

    def take_memory(self, target: str, samples: Sequence[MemorySample]) -> None:
        """The same for the memory of a target's workers, judged as often as its floors can move."""
        verdicts: list[Verdict] = []
        watched, now = self._targets[target], self._now()
        every_s = watched.policies.leak.judge_every_s
        if not 0 < self._memory_due.get(target, 0.0) - now <= every_s:  # further off only when the clock was set back
            self._memory_due[target] = now + every_s
            with self._database.read() as connection:
                verdicts = judge_memory_samples(connection, samples, watched, now=now)
        else:
            follow_memory(samples, watched)
        self._conclude(verdicts, lambda connection: store_memory(connection, samples, watched, now=now))

    def take_gpu(self, sample: GpuSample) -> None:
        """The same for the health of the devices that a target runs on."""
        target = self._targets[sample.target]
        with self._database.read() as connection:
            verdicts = judge_devices(connection, sample, target, now=self._now())
        self._conclude(verdicts, lambda connection: record_devices(connection, sample, target))

    def tick(self) -> None:
        """What is due by the clock and not by a result."""
        self._conclude([], self._effects.remind_all)

    def _conclude(self, verdicts: Sequence[Verdict], record: Record) -> None:
        """What a result means is committed together with it, or not at all; durably when there is anything to tell."""
        with self._database.read() as connection:
            trouble = bool(alert_store.list_incidents(connection, only_open=True, limit=1))
        with self._database.write(durable=trouble or any(v.status is Status.WORSE for v in verdicts)) as connection:
            record(connection)
            for verdict in verdicts:
                self._effects.record_verdict(connection, verdict)
                self._take_step(connection, verdict)
            firing = alert_store.count_firing(connection)
        self._effects.committed(verdicts, firing)

    def _take_step(self, connection: Connection, verdict: Verdict) -> None:
        before = alert_store.load_incident(connection, verdict.target, verdict.check, verdict.subject)
        about_a_worker = before is not None and before.life is not None
        lives = self._targets[verdict.target].known_lives() if about_a_worker else None
        after = step(
            before,
            verdict,
            now=self._now(),
            policy=POLICIES[verdict.check],
            new_id=partial(alert_store.new_incident_id, self._now()),
            alive=None if lives is None else frozenset(life.key for life in lives),
            muted=self._effects.muted(connection, verdict),
        )
        self._effects.apply(connection, before, after)
