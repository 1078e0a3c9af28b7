"""When each probe runs: APScheduler with its misfire, coalesce and overlap handling chosen on purpose.

- Targets are spread over their interval, so that a hundred canaries do not start in the same second.
- max_instances = 1: a canary never overlaps itself. coalesce: after a pause (a suspended machine) one run, not fifty.
- misfire_grace_time = one interval: a run that could not even start within its interval is skipped; the next is due.
- A target that timed out, or took as long, costs no other target its thread: until it answers in time it gets one
  request an interval, from a pool of its own.
- Memory has a pool of its own too: it looks at every process of the machine. So has what the clock asks for, which only
  enqueues: the tick shows that the schedule lives, however many probes hang.
- APScheduler goes by the wall clock: when that is set, every job is due anew within its interval, else a clock set back
  by an hour would stop all probes for an hour. Lateness is measured on the monotonic clock.
- A target that is being recycled is left alone: its canaries are the recycler's then.
- When the targets change, whoever stays keeps its place in the rhythm.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog
from apscheduler.events import EVENT_JOB_MAX_INSTANCES, EVENT_JOB_MISSED, JobEvent
from apscheduler.jobstores.base import JobLookupError
from apscheduler.schedulers.background import BackgroundScheduler

from probes.gpu.sample import GpuSample
from probes.messages import Burst, MemorySample, Outcome
from watchdog.clock import ClockWatch
from watchdog.pool import Due, Pool
from watchdog.punctuality import Punctuality
from watchdog.target import Target
from watchdog.turns import Occupied

PROBE_THREADS = 128  # started when they are needed: as many as hang at once for the first time, of 768 a minute
SUSPECT_THREADS = 128  # one request an interval for 768 targets that hang for 10 s each minute
MEMORY_THREADS = 2
TICK_S = 5.0
RETENTION_S = 3600.0
CLOCK_LOOK_S = 1.0
MAX_SILENCE_S = 30.0  # without a tick; six of them
SLOW = 2.0  # time-outs a request: a burst that took longer hung without saying so, for example in loading a model

log = structlog.get_logger("schedule")


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """Something to do every interval_s, as long as the target is there. A probe is told when it was due."""

    job: str
    run: Callable[..., None]
    args: tuple[str, ...]
    interval_s: float
    pool: str
    is_probe: bool = False


class Schedule:
    """Runs the probes and hands their results on.

    targets: those of this moment; call `follow` when they changed.
    on_burst, on_memory, on_gpu: take a result and return at once (they only enqueue); no worker, no memory samples.
    on_tick: every TICK_S.
    busy: targets in a recycle. on_late: lateness of each run in seconds, the wait for a thread included. on_error:
    counts an error by its place; runs that were skipped count too. wait: waits so many seconds, True when the daemon is
    stopping.
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
        on_gpu: Callable[[GpuSample], None],
        on_tick: Callable[[], None],
        on_retention: Callable[[], None],
        on_late: Callable[[float], None],
        on_error: Callable[[str], None],
        threads: int = PROBE_THREADS,
        suspect_threads: int = SUSPECT_THREADS,
    ) -> None:
        self._targets = targets
        self._now = now
        self._monotonic = monotonic
        self._wait = wait
        self._busy = busy
        self._on_burst = on_burst
        self._on_memory = on_memory
        self._on_gpu = on_gpu
        self._on_tick = on_tick
        self._on_retention = on_retention
        self._on_late = on_late
        self._on_error = on_error
        self._suspects: set[str] = set()  # jobs
        self._ticked_at: float | None = None  # on the monotonic clock; None before the start
        self._clock = ClockWatch(now=now, monotonic=monotonic)
        self._punctuality = Punctuality(monotonic=monotonic)
        sizes = {"default": threads, "suspects": suspect_threads, "memory": MEMORY_THREADS, "clock": 1}
        self._scheduler = BackgroundScheduler(
            timezone=UTC,
            executors={
                name: Pool(size, monotonic=monotonic, to_monotonic=self._clock.to_monotonic)
                for name, size in sizes.items()
            },
            job_defaults={"coalesce": True, "max_instances": 1},
        )
        self._scheduler.add_listener(self._count_skipped, EVENT_JOB_MISSED | EVENT_JOB_MAX_INSTANCES)

    def start(self) -> None:
        self._ticked_at = self._monotonic()
        begin = self._now()
        for job, run, interval_s, first in (
            ("tick", self._tick, TICK_S, begin + TICK_S),
            ("retention", self._on_retention, RETENTION_S, begin + 60.0),
        ):
            self._add(Beat(job=job, run=run, args=(), interval_s=interval_s, pool="clock"), first)
        self.follow()
        self._scheduler.start()
        threading.Thread(target=self._watch_clock, name="clock", daemon=True).start()

    def follow(self) -> None:
        """Probe the targets that there are now. One whose interval is as it was keeps its place in the rhythm, so that
        no probe of it is left out or doubled; those of what is gone end; what is new begins, spread, at once.
        """
        new = {beat.job: beat for beat in self._beats()}
        for job in self._scheduler.get_jobs():
            if job.executor == "clock":
                continue
            if job.id in new and timedelta(seconds=new[job.id].interval_s) == job.trigger.interval:
                del new[job.id]
            else:
                self._remove(job.id)
        now = self._now()
        for pool in ("default", "memory"):
            begun = [beat for beat in new.values() if beat.pool == pool]
            for offset_s, beat in zip(spread(beat.interval_s for beat in begun), begun, strict=True):
                self._add(beat, now + offset_s)

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

    def note(self) -> str | None:
        """Whether probes are late, in words for /healthz; None when they are not."""
        return self._punctuality.note()

    def _beats(self) -> Iterator[Beat]:
        for target in self._targets.values():
            for canary in target.canaries.values():
                yield Beat(
                    job=_job(target.name, canary.name),
                    run=self._probe,
                    args=(target.name, canary.name),
                    interval_s=canary.plan.interval_s,
                    pool="default",
                    is_probe=True,
                )
            if target.workers is not None or target.gpu is not None:
                yield Beat(
                    job=f"memory:{target.name}",
                    run=self._sample,
                    args=(target.name,),
                    interval_s=target.memory_interval_s,
                    pool="memory",
                )

    def _add(self, beat: Beat, first: float) -> None:
        start = datetime.fromtimestamp(first, UTC)
        self._scheduler.add_job(
            beat.run,
            "interval",
            seconds=beat.interval_s,
            start_date=start,
            next_run_time=start,  # said, for else a start that is past already would wait for the next interval
            args=beat.args,
            kwargs={"due": first} if beat.is_probe else None,  # the pool says when each run was
            id=beat.job,
            executor=beat.pool,
            misfire_grace_time=max(1, math.ceil(beat.interval_s)),
        )

    def _remove(self, job: str) -> None:
        self._suspects.discard(job)
        self._scheduler.remove_job(job)

    def _probe(self, name: str, canary: str, *, due: Due) -> None:
        target = self._targets.get(name)
        if target is None or canary not in target.canaries or name in self._busy():
            return
        late_s = max(0.0, self._monotonic() - due)
        self._on_late(late_s)
        self._punctuality.started(late_s)
        job = _job(name, canary)
        began = self._monotonic()
        try:
            burst = target.probe(canary, size=1 if job in self._suspects else None, times=target.times(canary))
        except Occupied:
            return  # the command line is taking a baseline; the next interval is soon enough
        except Exception:  # the thread's boundary: a probe that breaks must not end the schedule
            log.exception("probe failed", target=name, canary=canary)
            self._on_error("probe")
            return
        if self._targets.get(name) is not target:
            return  # the configuration changed meanwhile: nobody asks this any more
        slow = self._monotonic() - began > SLOW * target.canaries[canary].plan.timeout_s * len(burst.samples)
        self._sort(job, hangs=slow or any(s.outcome is Outcome.TIMEOUT for s in burst.samples))
        if name not in self._busy():  # a recycle that began meanwhile: this answer is from neither world
            self._on_burst(burst)

    def _sort(self, job: str, *, hangs: bool) -> None:
        """Move a canary to the pool it deserves after this burst."""
        if hangs == (job in self._suspects):
            return
        (self._suspects.add if hangs else self._suspects.discard)(job)
        try:
            self._scheduler.modify_job(job, executor="suspects" if hangs else "default")
        except JobLookupError:
            return  # the schedule is stopping

    def _sample(self, name: str) -> None:
        target = self._targets.get(name)
        if target is None:
            return
        try:
            samples, devices = target.sample_memory(), target.sample_gpu()
        except Exception:  # the thread's boundary, as above
            log.exception("memory could not be sampled", target=name)
            self._on_error("memory")
            return
        if self._targets.get(name) is not target:
            return
        if target.workers is not None:
            self._on_memory(name, samples)
        if devices is not None:
            self._on_gpu(devices)

    def _tick(self) -> None:
        self._ticked_at = self._monotonic()
        self._on_tick()

    def _count_skipped(self, event: JobEvent) -> None:
        if event.job_id.startswith("memory:"):
            self._on_error("memory")
        elif event.code == EVENT_JOB_MISSED:
            self._punctuality.skipped()
            self._on_error("probe_missed")
        else:
            self._on_error("probe_overlapped")

    def _watch_clock(self) -> None:
        while not self._wait(CLOCK_LOOK_S) and self._scheduler.running:
            # The library's own lock: a run that is handed over between the two would be due by one clock and be
            # measured by the other.
            with self._scheduler._jobstores_lock:  # noqa: SLF001
                jump_s = self._clock.jump_s()
                if jump_s is not None:
                    self._reschedule()
            if jump_s is not None:
                log.warning("the clock was set; every probe is due anew", by_s=round(jump_s, 1))

    def _reschedule(self) -> None:
        """Each job at its next place in its own rhythm, so that the spread stays what it was."""
        now = self._now()
        for job in self._scheduler.get_jobs():
            due = next_due(job.trigger.start_date.timestamp(), job.trigger.interval_length, now=now)
            try:
                self._scheduler.modify_job(job.id, next_run_time=datetime.fromtimestamp(due, UTC))
            except JobLookupError:
                continue  # removed meanwhile


def _job(target: str, canary: str) -> str:
    return f"canary:{target}:{canary}"


def next_due(first: float, interval_s: float, *, now: float) -> float:
    """The first moment from now on that is a whole number of intervals after, or before, the first run."""
    return now + (first - now) % interval_s


def spread(intervals_s: Iterable[float]) -> list[float]:
    """Offsets in seconds of the first runs: the i-th of n starts at i/n of its interval, so the first starts now."""
    intervals = list(intervals_s)
    return [interval_s * i / len(intervals) for i, interval_s in enumerate(intervals)]
