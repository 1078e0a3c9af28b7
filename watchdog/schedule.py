"""When each probe runs: APScheduler with its misfire, coalesce and overlap handling chosen on purpose.

- Targets are spread over their interval, so that a hundred canaries do not start in the same second.
- max_instances = 1: a canary never overlaps itself. coalesce: after a pause (a suspended machine) one run, not fifty.
- misfire_grace_time = one interval: a run that could not even start within its interval is skipped; the next is due.
- A target that timed out, or took as long, costs no other target its thread: until it answers in time it gets one
  request an interval, from a small pool of its own.
- Memory has a pool of its own too: a call into a wedged GPU driver may never return. So has what the clock asks for,
  which only enqueues: the tick shows that the schedule lives, however many probes hang.
- APScheduler goes by the wall clock: when that is set, every job is due anew within its interval, else a clock set back
  by an hour would stop all probes for an hour.
- A target that is being recycled is left alone: its canaries are the recycler's then.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime

import structlog
from apscheduler.events import EVENT_JOB_MAX_INSTANCES, EVENT_JOB_MISSED, JobEvent
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.base import JobLookupError
from apscheduler.schedulers.background import BackgroundScheduler

from probes.messages import Burst, MemorySample, Outcome
from watchdog.clock import ClockWatch
from watchdog.target import Target
from watchdog.turns import Occupied

PROBE_THREADS = 16
SUSPECT_THREADS = 4
MEMORY_THREADS = 2
TICK_S = 5.0
RETENTION_S = 3600.0
CLOCK_LOOK_S = 1.0
MAX_SILENCE_S = 30.0  # without a tick; six of them
SLOW = 2.0  # time-outs a request: a burst that took longer hung without saying so, for example in loading a model

log = structlog.get_logger("schedule")


class Schedule:
    """Runs the probes and hands their results on.

    on_burst, on_memory: take a result and return at once (they only enqueue); samples are empty while no worker runs.
    on_tick: every TICK_S.
    busy: targets in a recycle. on_late: lateness of each run in seconds. on_error: counts an error by its place; runs
    that were skipped count too. wait: waits so many seconds, True when the daemon is stopping.
    """

    def __init__(
        self,
        targets: Mapping[str, Target],
        *,
        now: Callable[[], float],
        monotonic: Callable[[], float],
        wait: Callable[[float], bool],
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
        self._monotonic = monotonic
        self._wait = wait
        self._busy = busy
        self._on_burst = on_burst
        self._on_memory = on_memory
        self._on_tick = on_tick
        self._on_late = on_late
        self._on_error = on_error
        self._suspects: set[tuple[str, str]] = set()
        self._ticked_at: float | None = None  # on the monotonic clock; None before the start
        self._clock = ClockWatch(now=now, monotonic=monotonic)
        self._scheduler = BackgroundScheduler(
            timezone=UTC,
            executors={
                "default": ThreadPoolExecutor(PROBE_THREADS),
                "suspects": ThreadPoolExecutor(SUSPECT_THREADS),
                "memory": ThreadPoolExecutor(MEMORY_THREADS),
                "clock": ThreadPoolExecutor(1),
            },
            job_defaults={"coalesce": True, "max_instances": 1},
        )
        self._scheduler.add_listener(self._count_skipped, EVENT_JOB_MISSED | EVENT_JOB_MAX_INSTANCES)
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
        self._add("tick", self._tick, TICK_S, begin + TICK_S, pool="clock")
        self._add("retention", on_retention, RETENTION_S, begin + 60.0, pool="clock")

    def start(self) -> None:
        self._ticked_at = self._monotonic()
        self._scheduler.start()
        threading.Thread(target=self._watch_clock, name="clock", daemon=True).start()

    def stop(self) -> None:
        """Start nothing more; runs under way finish on their own threads within their time-outs."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    def problem(self) -> str | None:
        """Why nothing is probed any more, in words for /healthz; None when all is well or nothing was started yet."""
        if self._ticked_at is None or self._monotonic() - self._ticked_at <= MAX_SILENCE_S:
            return None
        silent_s = round(self._monotonic() - self._ticked_at)
        return f"the schedule has done nothing for {silent_s} s; restart the daemon"

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
        plan = target.canaries[canary].plan
        self._on_late(max(0.0, (self._now() - first) % plan.interval_s))
        key = (target.name, canary)
        began = self._monotonic()
        try:
            burst = target.probe(canary, size=1 if key in self._suspects else None)
        except Occupied:
            return  # the command line is taking a baseline; the next interval is soon enough
        except Exception:  # the thread's boundary: a probe that breaks must not end the schedule
            log.exception("probe failed", target=target.name, canary=canary)
            self._on_error("probe")
            return
        slow = self._monotonic() - began > SLOW * plan.timeout_s * len(burst.samples)
        self._sort(key, hangs=slow or any(s.outcome is Outcome.TIMEOUT for s in burst.samples))
        if target.name not in self._busy():  # a recycle that began meanwhile: this answer is from neither world
            self._on_burst(burst)

    def _sort(self, key: tuple[str, str], *, hangs: bool) -> None:
        """Move a canary to the pool it deserves after this burst."""
        if hangs == (key in self._suspects):
            return
        (self._suspects.add if hangs else self._suspects.discard)(key)
        try:
            self._scheduler.modify_job(_job(*key), executor="suspects" if hangs else "default")
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

    def _tick(self) -> None:
        self._ticked_at = self._monotonic()
        self._on_tick()

    def _count_skipped(self, event: JobEvent) -> None:
        self._on_error("probe_missed" if event.code == EVENT_JOB_MISSED else "probe_overlapped")

    def _watch_clock(self) -> None:
        while not self._wait(CLOCK_LOOK_S) and self._scheduler.running:
            jump_s = self._clock.jump_s()
            if jump_s is not None:
                log.warning("the clock was set; every probe is due anew", by_s=round(jump_s, 1))
                self._reschedule()

    def _reschedule(self) -> None:
        """Each job at its next place in its own rhythm, so that the spread stays what it was."""
        now = self._now()
        for job in self._scheduler.get_jobs():
            due = next_due(job.trigger.start_date.timestamp(), job.trigger.interval_length, now=now)
            try:
                self._scheduler.modify_job(job.id, next_run_time=datetime.fromtimestamp(due, UTC))
            except JobLookupError:
                return  # the schedule is stopping


def _job(target: str, canary: str) -> str:
    return f"canary:{target}:{canary}"


def next_due(first: float, interval_s: float, *, now: float) -> float:
    """The first moment from now on that is a whole number of intervals after, or before, the first run."""
    return now + (first - now) % interval_s


def spread(intervals_s: Iterable[float]) -> list[float]:
    """Offsets in seconds of the first runs: the i-th of n starts at i/n of its interval, so the first starts now."""
    intervals = list(intervals_s)
    return [interval_s * i / len(intervals) for i, interval_s in enumerate(intervals)]
