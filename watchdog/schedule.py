"""When each probe runs: APScheduler with its misfire, coalesce and overlap handling chosen on purpose.

- Targets are spread over their interval, so that a hundred canaries do not start in the same second.
- max_instances = 1: a canary never overlaps itself. coalesce: after a pause (a suspended machine) one run, not fifty.
- misfire_grace_time = one interval: a run that could not even start within its interval is skipped; the next is due.
- A target that timed out costs no other target its thread: until it answers it gets one request an interval, from a
  small pool of its own.
- Memory has a pool of its own too: a call into a wedged GPU driver may never return.
- A target that is being recycled is left alone: its canaries are the recycler's then.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime

import structlog
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.base import JobLookupError
from apscheduler.schedulers.background import BackgroundScheduler

from probes.messages import Burst, MemorySample, Outcome
from watchdog.target import Target
from watchdog.turns import Occupied

PROBE_THREADS = 16
SUSPECT_THREADS = 4
MEMORY_THREADS = 2
TICK_S = 5.0
RETENTION_S = 3600.0

log = structlog.get_logger("schedule")


class Schedule:
    """Runs the probes and hands their results on.

    on_burst, on_memory: take a result and return at once (they only enqueue); samples are empty while no worker runs.
    on_tick: every TICK_S.
    busy: targets in a recycle. on_late: lateness of each run in seconds. on_error: counts an error by its place.
    """

    def __init__(
        self,
        targets: Mapping[str, Target],
        *,
        now: Callable[[], float],
        busy: Callable[[], frozenset[str]],
        on_burst: Callable[[Burst], None],
        on_memory: Callable[[str, Sequence[MemorySample]], None],
        on_tick: Callable[[], None],
        on_retention: Callable[[], None],
        on_late: Callable[[float], None],
        on_error: Callable[[str], None],
    ) -> None:
        self._targets = targets
        self._now = now
        self._busy = busy
        self._on_burst = on_burst
        self._on_memory = on_memory
        self._on_late = on_late
        self._on_error = on_error
        self._suspects: set[tuple[str, str]] = set()
        self._scheduler = BackgroundScheduler(
            timezone=UTC,
            executors={
                "default": ThreadPoolExecutor(PROBE_THREADS),
                "suspects": ThreadPoolExecutor(SUSPECT_THREADS),
                "memory": ThreadPoolExecutor(MEMORY_THREADS),
            },
            job_defaults={"coalesce": True, "max_instances": 1},
        )
        begin = now()
        canaries = [(t, c) for t in targets.values() for c in t.canaries.values()]
        for offset_s, (target, canary) in zip(spread(c.plan.interval_s for _, c in canaries), canaries, strict=True):
            interval_s = canary.plan.interval_s
            first = begin + offset_s
            self._add(_job(target.name, canary.name), self._probe, interval_s, first, target, canary.name, first)
        watched = [t for t in targets.values() if t.workers is not None]
        for offset_s, target in zip(spread(t.memory_interval_s for t in watched), watched, strict=True):
            self._add(
                f"memory:{target.name}", self._sample, target.memory_interval_s, begin + offset_s, target, pool="memory"
            )
        self._add("tick", on_tick, TICK_S, begin + TICK_S)
        self._add("retention", on_retention, RETENTION_S, begin + 60.0)

    def start(self) -> None:
        self._scheduler.start()

    def stop(self) -> None:
        """Start nothing more; runs under way finish on their own threads within their time-outs."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    def _add(
        self, job: str, run: Callable[..., None], interval_s: float, first: float, *args: object, pool: str = "default"
    ) -> None:
        start = datetime.fromtimestamp(first, UTC)
        self._scheduler.add_job(
            run,
            "interval",
            seconds=interval_s,
            start_date=start,
            next_run_time=start,  # said, for else a start that is past already would wait for the next interval
            args=args,
            id=job,
            executor=pool,
            misfire_grace_time=max(1, math.ceil(interval_s)),
        )

    def _probe(self, target: Target, canary: str, first: float) -> None:
        if target.name in self._busy():
            return
        interval_s = target.canaries[canary].plan.interval_s
        self._on_late(max(0.0, (self._now() - first) % interval_s))
        key = (target.name, canary)
        try:
            burst = target.probe(canary, size=1 if key in self._suspects else None)
        except Occupied:
            return  # the command line is taking a baseline; the next interval is soon enough
        except Exception:  # the thread's boundary: a probe that breaks must not end the schedule
            log.exception("probe failed", target=target.name, canary=canary)
            self._on_error("probe")
            return
        self._sort(key, timed_out=any(s.outcome is Outcome.TIMEOUT for s in burst.samples))
        if target.name not in self._busy():  # a recycle that began meanwhile: this answer is from neither world
            self._on_burst(burst)

    def _sort(self, key: tuple[str, str], *, timed_out: bool) -> None:
        """Move a canary to the pool it deserves after this burst."""
        if timed_out == (key in self._suspects):
            return
        (self._suspects.add if timed_out else self._suspects.discard)(key)
        try:
            self._scheduler.modify_job(_job(*key), executor="suspects" if timed_out else "default")
        except JobLookupError:
            return  # the schedule is stopping

    def _sample(self, target: Target) -> None:
        try:
            samples = target.sample_memory()
        except Exception:  # the thread's boundary, as above
            log.exception("memory could not be sampled", target=target.name)
            self._on_error("memory")
            return
        self._on_memory(target.name, samples)


def _job(target: str, canary: str) -> str:
    return f"canary:{target}:{canary}"


def spread(intervals_s: Iterable[float]) -> list[float]:
    """Offsets in seconds of the first runs: the i-th of n starts at i/n of its interval, so the first starts now."""
    intervals = list(intervals_s)
    return [interval_s * i / len(intervals) for i, interval_s in enumerate(intervals)]
