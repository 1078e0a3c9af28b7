"""A year of a fleet, hour by hour, through the store's own functions: what a daemon would have written and deleted.

Each target has one canary (a burst of 10 every minute), one worker (its memory every 15 s, a recycle a week), a fault
every three days or so that is told to two receivers, a few changes of verdict a day, one request in five hundred that
fails by itself, and a baseline a week. The results of an hour share a transaction; a daemon gives each its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import count

import numpy as np
from sqlalchemy import Connection

from alerts import delivery_store, recycle_store
from alerts import store as alert_store
from alerts.episode import Outcome as RecycleOutcome
from alerts.episode import State, Trigger
from alerts.incident import POLICIES, Event, Incident, Step, Tell, step
from alerts.message import incident_message
from alerts.notifiers.delivery import Route, recipients
from alerts.recycle_store import Episode
from baselines import baseline_store, burst_store, memory_store, rollup_store, verdict_store
from baselines.baseline import Baseline
from baselines.database import Database
from baselines.histogram import histogram_of
from baselines.retention import RetentionPolicy
from baselines.rollup import Rollup
from baselines.verdict import Cause, Check, Level, Reason, Status, Verdict
from benchmarks.store_plant import (
    BURST,
    DAY_S,
    HOUR_S,
    IDENTITY,
    INTERVAL_S,
    MEMORY_INTERVAL_S,
    OUTPUT,
    Drawn,
    Plant,
    make_burst,
    make_memory_sample,
)
from probes.messages import Burst, Life, MemorySample, Outcome
from watchdog.housekeeping import keep_house

WEEK_H = 168
FAULT_EVERY_S, FAULT_S = 3 * DAY_S, 1200.0
FLIPS_A_DAY = 4.0
STRAY_SHARE = 0.002
EVIDENCE = {"samples": 10, "ratio": 1.0173, "ratio_low": 0.9912, "ratio_high": 1.0441, "p95_s": 0.05312, "bursts": 5}


class Year:
    """The fleet. Call `pass_hour` for each hour from `begin` on."""

    def __init__(self, database: Database, names: Sequence[str], routes: Sequence[Route], *, begin: float, days: int):
        self._database, self._routes = database, routes
        self._rng = np.random.default_rng(1)
        self._ids = count(1)
        self._plants = [
            Plant(name=name, base_s=0.02 * (i + 1), faults=self._draw_faults(begin, days))
            for i, name in enumerate(names)
        ]
        self._begin = begin

    def _draw_faults(self, begin: float, days: int) -> list[tuple[float, float]]:
        faults, at = [], begin + float(self._rng.exponential(FAULT_EVERY_S))
        while at < begin + days * DAY_S:
            faults.append((at, at + FAULT_S * float(self._rng.lognormal(0, 0.8))))
            at = faults[-1][1] + float(self._rng.exponential(FAULT_EVERY_S))
        return faults

    def pass_hour(self, hour: int, *, thin: bool = False) -> int:
        """Everything of one hour, then the hourly housekeeping; returns the steps that this took.

        thin: of good bursts and of memory only what outlives them, for hours far from any that is looked at.
        """
        begin = self._begin + hour * HOUR_S
        with self._database.write() as connection:
            for i, plant in enumerate(self._plants):
                bursts, memory = self._measure(connection, plant, begin, thin=thin)
                burst_store.add_bursts(connection, bursts)
                memory_store.add_memory(connection, memory)
                self._change_verdicts(connection, plant, begin)
                for fault in plant.faults_in(begin):
                    if fault[0] >= begin:
                        self._break(connection, plant, *fault)
                if (hour + i) % WEEK_H == 0:
                    self._take_baseline(connection, plant, begin)
                if (hour + i) % WEEK_H == WEEK_H // 2:
                    self._recycle(connection, plant, begin)
            self._deliver(connection, begin + HOUR_S)
        steps = 1
        while keep_house(self._database, RetentionPolicy(), now=begin + HOUR_S):
            steps += 1
        return steps

    def bursts(self, hour: int) -> list[Burst]:
        """The bursts of one hour of the first target, for who only wants to look at some."""
        plant, begin = self._plants[0], self._begin + hour * HOUR_S
        drawn = self._draw(plant, begin)
        return [make_burst(plant, begin, drawn, i) for i in range(len(drawn.silent))]

    def _measure(
        self, connection: Connection, plant: Plant, begin: float, *, thin: bool
    ) -> tuple[list[Burst], list[MemorySample]]:
        """What is to be stored of one target's hour; thin: after its good bursts were added to the roll-ups alone."""
        drawn = self._draw(plant, begin)
        steps = self._rng.normal(0, 200_000, HOUR_S // MEMORY_INTERVAL_S)
        used = plant.used_bytes + np.cumsum(steps).astype(int)
        chosen, looked_at = list(range(len(drawn.silent))), list(range(len(used)))
        if thin:
            good = ~drawn.silent & ~drawn.strays.any(axis=1)
            rollup = Rollup(
                target=plant.name,
                canary="default",
                begin=int(begin),
                requests={Outcome.GOOD: int(good.sum()) * BURST},
                latencies=histogram_of(drawn.latencies[good].ravel().tolist()),
            )
            rollup_store.add_rollups(connection, [rollup])
            chosen, looked_at = np.flatnonzero(~good).tolist(), [int(used.argmin()), int(used.argmax()), len(used) - 1]
        bursts = [make_burst(plant, begin, drawn, i) for i in chosen]
        return bursts, [make_memory_sample(plant, begin, i, int(used[i])) for i in looked_at]

    def _draw(self, plant: Plant, begin: float) -> Drawn:
        shape = (HOUR_S // INTERVAL_S, BURST)
        swing = 1 + 0.1 * np.sin(2 * np.pi * begin / DAY_S)
        faults = plant.faults_in(begin)
        moments = [begin + i * INTERVAL_S for i in range(shape[0])]
        return Drawn(
            latencies=plant.base_s * swing * self._rng.lognormal(0, 0.08, shape),
            controls=0.001 * self._rng.lognormal(0, 0.2, shape),
            strays=self._rng.random(shape) < STRAY_SHARE,
            silent=np.array([any(first <= at < last for first, last in faults) for at in moments]),
        )

    def _change_verdicts(self, connection: Connection, plant: Plant, begin: float) -> None:
        for _ in range(self._rng.poisson(FLIPS_A_DAY / 24)):
            at = begin + float(self._rng.uniform(0, HOUR_S))
            unknown = _verdict(plant, Check.LATENCY, at, Status.UNKNOWN, Reason.TAINTED)
            verdict_store.save_verdict(connection, unknown)
            within = replace(unknown, at=at + 60, status=Status.OK, reason=Reason.WITHIN_BASELINE)
            verdict_store.save_verdict(connection, within)

    def _break(self, connection: Connection, plant: Plant, begin: float, end: float) -> None:
        """One incident from its first bad verdict to its resolution."""
        bad = _verdict(plant, Check.AVAILABILITY, begin, Status.WORSE, Reason.TIMEOUT)
        bad = replace(bad, cause=Cause.MODEL, level=Level.PAGE, since=begin, strikes=1)
        good = replace(_verdict(plant, Check.AVAILABILITY, end, Status.OK, Reason.GOOD), strikes=0)
        verdict_store.save_verdict(connection, bad)
        incident: Incident | None = None
        for i in range(6):
            verdict, since = (bad, begin) if i < 3 else (good, end)
            now = since + INTERVAL_S * (i % 3)
            taken = step(
                incident,
                replace(verdict, at=now),
                now=now,
                policy=POLICIES[Check.AVAILABILITY],
                new_id=lambda: f"20270115-{next(self._ids):06x}",
            )
            incident = taken.incident
            self._tell(connection, taken, now)
        verdict_store.save_verdict(connection, good)

    def _tell(self, connection: Connection, taken: Step, now: float) -> None:
        assert taken.incident is not None
        alert_store.save_incident(connection, taken.incident)
        for effect in taken.effects:
            if isinstance(effect, Tell):
                message = incident_message(taken.incident, effect.event, why=effect.why, now=now)
                told = (
                    frozenset(r.notifier.name for r in self._routes) if effect.event is Event.RESOLVED else frozenset()
                )
                chosen = recipients(message, self._routes, told=told)
                delivery_store.enqueue_deliveries(connection, message, chosen, now=now)

    def _deliver(self, connection: Connection, now: float) -> None:
        for route in self._routes:
            while delivery := delivery_store.claim_due(connection, route.notifier.name, now=now, lease_s=60):
                delivery_store.mark_sent(connection, delivery, now=now)

    def _take_baseline(self, connection: Connection, plant: Plant, at: float) -> None:
        latencies = plant.base_s * self._rng.lognormal(0, 0.08, (30, BURST))
        baseline = Baseline(
            target=plant.name,
            canary="default",
            taken_at=at,
            label=f"week {int(at // (7 * DAY_S))}",
            identity=IDENTITY,
            provenance={"server": "gunicorn", "model_version": f"v{int(at // (7 * DAY_S))}"},
            golden=replace(OUTPUT, values=tuple(self._rng.normal(0, 1, 1024).tolist())),
            bursts=tuple(map(tuple, latencies.tolist())),
        )
        saved = baseline_store.save_baseline(connection, baseline)
        baseline_store.promote(connection, saved, at=at, by="deploy", why="a deploy")

    def _recycle(self, connection: Connection, plant: Plant, at: float) -> None:
        episode = Episode(
            id=f"recycle-{next(self._ids):08x}",
            target=plant.name,
            trigger=Trigger.AGE,
            reason="max_age",
            requested_at=at,
            updated_at=at + 60,
            state=State.COOLDOWN,
            outcome=RecycleOutcome.VERIFIED,
            acted_at=at + 1,
            ended_at=at + 60,
            lives_before=(Life(pid=7000 + plant.life, start_ticks=88_000_000 + plant.life),),
            steps=tuple(recycle_store.Step(at=at + i, state=state, detail="") for i, state in enumerate(State)),
            evidence={"before_memory_bytes": 1_400_000_000, "after_memory_bytes": 1_200_000_000},
        )
        recycle_store.save_episode(connection, episode)
        plant.life += 1


def _verdict(plant: Plant, check: Check, at: float, status: Status, reason: Reason) -> Verdict:
    return Verdict(
        target=plant.name,
        check=check,
        subject="default",
        at=at,
        status=status,
        reason=reason,
        life=plant.key,
        evidence=EVIDENCE,
    )
