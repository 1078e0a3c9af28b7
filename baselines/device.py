"""One device over time: its last minutes, and what must outlive them: what is normal for it, and its last reading."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from baselines.gpu_signals import SIGNALS
from baselines.gpu_view import LOADED_PERCENT, WINDOW_S, Around, Finding, View
from baselines.hardware import by_severity, disproves, find, grounds_of, judge_gpu
from baselines.verdict import Check, Evidence, Level, Reason, Status, Verdict
from probes.gpu.reading import Figure
from probes.gpu.reading import Xid as XidEvent
from probes.gpu.sample import DeviceSample, GpuSample

DRIVER = "gpu driver"  # subject of the verdict on the driver; no canary can have such a name
DAY_S = 86400.0
PATIENCE_S = 60.0
REMEMBER_S = 60.0
SAME_S = 1.0  # two readings are further apart
SEED_S = DAY_S  # an older reading says nothing of the rate since
MIN_LOADED = 5  # samples; one busy moment shows no clock
_HELD_DOWN = 0x04 | 0x08 | 0x20 | 0x40 | 0x80  # clock event reasons: power cap, slowdown, thermal, power brake; nvml.h


@dataclass(frozen=True, slots=True, kw_only=True)
class Norm:
    """How a figure may move. lower_is_worse; tolerance: as a share; adopt_s: after so long the new value is normal."""

    lower_is_worse: bool
    tolerance: float
    adopt_s: float


NORMS: Mapping[str, Norm] = {
    "power_limit_w": Norm(lower_is_worse=True, tolerance=0.02, adopt_s=DAY_S),
    "sm_clock_mhz": Norm(lower_is_worse=True, tolerance=0.1, adopt_s=DAY_S),
    "nvlinks_up": Norm(lower_is_worse=True, tolerance=0.0, adopt_s=7 * DAY_S),
    "others": Norm(lower_is_worse=False, tolerance=0.0, adopt_s=DAY_S),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """What survives a restart, of one device. Values that JSON carries.

    last: the newest sample's figures; of those that it did not tell and a fault rests on, the last that were told.
    normal: by figure; moved_at: since when it is another one. began: since when each rule has been broken without a
    break.
    """

    uuid: str
    at: float
    last: Mapping[str, Any]
    normal: Mapping[str, float] = field(default_factory=dict)
    moved_at: Mapping[str, float] = field(default_factory=dict)
    began: Mapping[str, float] = field(default_factory=dict)


class DeviceWatch:
    """Follows one device for one target; one thread's alone.

    remembered: of an earlier run; None for a device that was never seen. findings: of the last `judge`.
    """

    def __init__(self, target: str, remembered: Remembered | None = None) -> None:
        self._target = target
        self._samples: deque[DeviceSample] = deque()
        self._normal = dict(remembered.normal) if remembered else {}
        self._moved_at = dict(remembered.moved_at) if remembered else {}
        self._began = dict(remembered.began) if remembered else {}
        self._seed = remembered
        self._stored: Remembered | None = None
        self._grounds: dict[Reason, dict[str, Figure]] = {}  # what each finding rests on, as it was last told
        self._unread: frozenset[Reason] = frozenset()
        self._usual: frozenset[str | None] | None = None  # what failed in every reading in which nothing was found
        self.findings: Sequence[Finding] = ()

    @property
    def newest(self) -> DeviceSample | None:
        return self._samples[-1] if self._samples else None

    def take(self, sample: DeviceSample) -> None:
        """Follow the device. The same reading again is nothing new. A clock set back begins anew: no rate over it."""
        before = self.newest
        if before is not None and abs(sample.at - before.at) < SAME_S and sample.figures == before.figures:
            return
        if before is not None and sample.at <= before.at:
            self._samples.clear()
        if self._seed is not None:
            self._take_up(self._seed, sample)
            self._seed = None
        self._samples.append(sample)
        while len(self._samples) > 2 and self._samples[1].at <= sample.at - WINDOW_S:
            self._samples.popleft()
        for name, norm in NORMS.items():
            self._follow(name, norm, self._figure(name, sample), sample.at)

    def judge(self, xids: Sequence[XidEvent], around: Around, *, now: float) -> Verdict | None:
        """The verdict on the device, see `hardware.judge_gpu`; ValueError before the first sample.

        What was found stands, whatever is missing and why, until what told it is read again and is good: no evidence is
        no recovery.
        """
        if not self._samples:
            raise ValueError("no sample of this device was taken")
        newest = self._samples[-1]
        view = View(samples=tuple(self._samples), now=now, xids=xids, around=around, moved=self._moved(newest))
        found = find(view)
        known, usual = {f.reason for f in found}, self._usual or frozenset()
        earlier = [f for f in self.findings if f.reason not in known]
        unread = [f for f in earlier if not disproves(newest, self._grounds[f.reason], usual)]
        self._hold(found, unread, newest)
        if not self.findings and newest.told:
            self._usual = frozenset({newest.failed}) if self._usual is None else usual & {newest.failed}
        return judge_gpu(view, self.findings, target=self._target, unread=self._unread)

    def cannot_tell(self, reason: Reason, *, now: float) -> Verdict | None:
        """The verdict while the driver as a whole does not answer; None of a device that was never seen. What was found
        stands meanwhile, and is the reason unless the driver's silence is worse."""
        if self.newest is None:
            return None
        if self.findings and reason is Reason.GPU_NOT_READ:
            reason = self.findings[0].reason
        return Verdict(
            target=self._target,
            check=Check.GPU,
            subject=f"gpu {self.newest.index}",
            at=now,
            status=Status.UNKNOWN,
            reason=reason,
            evidence={"device": self.newest.name, "uuid": self.newest.uuid},
        )

    def remember(self) -> Remembered | None:
        """What a later run needs, when it is time to store it: every REMEMBER_S, or when more than the last figures
        changed. None of a device that does not say which it is, or tells nothing."""
        newest, stored = self.newest, self._stored
        if newest is None or newest.uuid is None or not newest.figures:
            return None
        now = Remembered(
            uuid=newest.uuid,
            at=newest.at,
            last={key: value for key, value in newest.figures.items() if value is not None} | self._unread_figures(),
            normal=dict(self._normal),
            moved_at=dict(self._moved_at),
            began=dict(self._began),
        )
        if (
            stored is not None
            and 0 <= now.at - stored.at < REMEMBER_S
            and replace(stored, at=now.at, last=now.last) == now
        ):
            return None
        self._stored = now
        return now

    def _take_up(self, seed: Remembered, sample: DeviceSample) -> None:
        """Go on from an earlier run: from its last reading, unless that is too old, and from what was found then."""
        before = replace(sample, at=seed.at, figures=seed.last, fault=None, others=None)
        view = View(samples=(before,), now=seed.at, moved=self._moved(before))
        self._hold([f for f in find(view) if f.reason in seed.began], [], before)
        if not self._samples and 0 < sample.at - seed.at <= SEED_S:
            self._samples.append(before)

    def _hold(self, found: Sequence[Finding], unread: Sequence[Finding], sample: DeviceSample) -> None:
        """These are the findings now. found: in this sample. unread: earlier, and not refuted by it."""
        stand = [*found, *unread]
        rests_on = {f.reason: grounds_of(f.reason, sample) for f in found}
        self._grounds = {f.reason: self._grounds.get(f.reason, {}) | rests_on.get(f.reason, {}) for f in stand}
        self._began = {f.reason: min(f.since, self._began.get(f.reason, f.since)) for f in stand}
        self._unread = frozenset(f.reason for f in unread)
        self.findings = by_severity((replace(f, since=self._began[f.reason]) for f in stand), self._unread)

    def _unread_figures(self) -> dict[str, Figure]:
        """What the faults rest on that cannot be read now; lesser things rest on counters, which must not be mixed."""
        faults = [self._grounds[reason] for reason in self._unread if SIGNALS[reason].level is Level.PAGE]
        return {name: value for grounds in faults for name, value in grounds.items()}

    def _moved(self, sample: DeviceSample) -> dict[str, tuple[float, float, float]]:
        return {
            name: (self._normal[name], value, since)
            for name, since in self._moved_at.items()
            if (value := self._figure(name, sample)) is not None
        }

    def _figure(self, name: str, sample: DeviceSample) -> float | None:
        if name == "others":
            return None if sample.others is None else sample.others - sample.canaries
        return self._clock_under_load() if name == "sm_clock_mhz" else sample.number(name)

    def _clock_under_load(self) -> float | None:
        """The highest of the last samples under load, but those in which power or heat holds it down."""
        free = [
            s
            for s in self._samples
            if (s.number("utilisation_percent") or 0.0) >= LOADED_PERCENT
            and not int(s.number("clock_event_reasons") or 0) & _HELD_DOWN
        ]
        clocks = [clock for s in free[-MIN_LOADED:] if (clock := s.number("sm_clock_mhz")) is not None]
        return max(clocks) if len(clocks) >= MIN_LOADED else None

    def _follow(self, name: str, norm: Norm, value: float | None, at: float) -> None:
        """Learn what is normal, at once where it is better, after `adopt_s` where it is worse."""
        if value is None:
            return
        normal = self._normal.setdefault(name, value)
        worse = value < normal * (1 - norm.tolerance) if norm.lower_is_worse else value > normal * (1 + norm.tolerance)
        if not worse:
            self._moved_at.pop(name, None)
            better = value > normal if norm.lower_is_worse else value < normal
            self._normal[name] = value if better else normal
        elif at - self._moved_at.setdefault(name, at) > norm.adopt_s:
            self._normal[name] = value
            del self._moved_at[name]


def judge_driver(sample: GpuSample, *, now: float) -> Verdict:
    """Whether the driver answers at all. Until PATIENCE_S it may only be slow: the child is replaced and asks again."""
    verdict = Verdict(
        target=sample.target, check=Check.GPU, subject=DRIVER, at=now, status=Status.OK, reason=Reason.GOOD
    )
    if sample.fault is None:
        return verdict
    evidence: Evidence = {"fault": sample.fault, "call": sample.call}
    unknown = replace(verdict, status=Status.UNKNOWN, reason=Reason.GPU_NOT_READ, evidence=evidence)
    if sample.stuck_s is None:
        return unknown
    silent = replace(
        unknown,
        reason=Reason.DRIVER_UNRESPONSIVE,
        evidence={"detail": f"{sample.call or 'a call into the driver'} does not return"},
    )
    if sample.stuck_s < PATIENCE_S:
        return silent
    row = SIGNALS[Reason.DRIVER_UNRESPONSIVE]
    since = now - sample.stuck_s
    return replace(silent, status=Status.WORSE, cause=row.cause, level=row.level, since=since, strikes=1)


def finding_of(driver: Verdict) -> Finding | None:
    """What a verdict of `judge_driver` explains: that it does not answer, also while that is new."""
    if driver.reason is not Reason.DRIVER_UNRESPONSIVE:
        return None
    since = driver.at if driver.since is None else driver.since
    return Finding(reason=driver.reason, since=since, detail=str(driver.evidence["detail"]))
