"""Does one worker's memory grow without end, which kind of leak is it, and when will it be full?

A life is followed sample by sample (`LeakWatch`), each of its figures (`figures`) by itself (`channel`): the floors of
stretches of time (`floors`), and a test of how they rise (`growth`). A window never spans two lives. What has once been
called a leak is one until it has stopped for half a window.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from baselines.beside import Beside
from baselines.channel import DAY_S, SCALES, Channel, Growth
from baselines.figures import FIGURES, Figure, Room
from baselines.forecast import Forecast, growth_of_others
from baselines.growth import WINDOW
from baselines.leak_kind import follows_shapes, kind_of
from baselines.slopes import SlopeHistory, Slopes
from baselines.verdict import Cause, Check, Evidence, Level, Reason, Status, Verdict
from probes.messages import MemorySample

MIN_SAMPLES = WINDOW // 2  # in the policy's window; with fewer, hardly any window is ever full
LARGE_SHARE = 0.1  # of the room there was before the rise; caches and heaps that are swept are sized well below it
NO_DATA_SHARE = SCALES[0]  # of the window: a figure that has not come for so long is missing


@dataclass(frozen=True, slots=True, kw_only=True)
class LeakPolicy:
    """horizon_s: page when memory is full within it, else watch. urgent_s: urgent when full within it.

    warmup_s: the first part of a life, never judged. window_s: the middle one of the windows that a slope is taken
    over; they go from an eighth of it to eight times as long, and half of it is the age from which a leak that is not
    urgent is called one. min_gain_bytes: the least rise over a window that counts. capacity_bytes: what the host memory
    may grow to, instead of the limit found; None takes what the sample says.
    """

    horizon_s: float = 7 * 86400.0
    urgent_s: float = 4 * 3600.0
    warmup_s: float = 1800.0
    window_s: float = 4 * 3600.0
    min_gain_bytes: float = 16e6
    capacity_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.window_s <= 0:
            raise ValueError(f"window_s must be above 0 (given: {self.window_s})")

    @property
    def tenure_s(self) -> float:
        """The age of a life from which a leak is called one that leaves time to wait."""
        return self.warmup_s + self.window_s / 2

    @property
    def judge_every_s(self) -> float:
        """A floor of the shortest window moves this often; judging every sample would only cost time."""
        return self.window_s * SCALES[0] / WINDOW

    @property
    def lookback_s(self) -> float:
        """How much of a life is read again after a restart: twice the longest window."""
        return 2 * SCALES[-1] * self.window_s


class LeakWatch:
    """One life from its first sample on. Up to 200 kB for each figure, whatever its age."""

    def __init__(self, policy: LeakPolicy) -> None:
        self.policy = policy
        self._first: MemorySample | None = None
        self._newest: MemorySample | None = None
        self._channels: dict[str, Channel] = {}
        self._known_age_s: dict[str, float] = {}
        self._beside = Beside(policy.judge_every_s)
        self._history = SlopeHistory()

    @property
    def age_s(self) -> float:
        """Of the newest sample; 0 before there is one."""
        return 0.0 if self._newest is None else self._age_s(self._newest)

    @property
    def version(self) -> str | None:
        """What it serves, as far as `inherit` was told."""
        return self._history.version

    def inherit(self, history: SlopeHistory) -> None:
        """Take over what earlier lives of this service showed. Again whenever its version has become known."""
        self._history = history
        for name, channel in self._channels.items():
            self._hand_down(name, channel)

    def drain(self) -> Slopes:
        """Slopes that later lives may take over; each is given once."""
        return {
            (name, number): fresh
            for name, channel in self._channels.items()
            for number, fresh in channel.drain().items()
        }

    def take(self, samples: Iterable[MemorySample]) -> None:
        """Samples of this life, oldest first by its age; any that is younger than the newest so far is left out."""
        for sample in samples:
            self._first = self._first or sample
            age_s = self._age_s(sample)
            if self._newest is not None and age_s < self._age_s(self._newest):
                continue
            self._newest = sample
            self._beside.take(age_s, shapes=sample.shapes)
            if sample.trimmed_bytes is not None:
                self._beside.trim(age_s, self._share_of_gain(sample.trimmed_bytes))
            for figure in FIGURES:
                value = figure.of(sample)
                if value is not None:
                    if figure.name not in self._channels:
                        self._channels[figure.name] = self._open(figure)
                    self._channels[figure.name].take(age_s, float(value), sample.load)
                    self._known_age_s[figure.name] = age_s
                    if figure.is_memory and (room := self._room(figure)) is not None:
                        self._beside.take_others(figure.name, age_s, room.others)

    def judge(self, *, now: float) -> Verdict:
        """Each figure that the worker has had is judged, and the worst reported.

        Raises ValueError before the first sample. UNKNOWN while warming up, with too few samples, or when a figure
        stopped coming. The level follows the slow end of the slope's interval: page means that even then memory is full
        within the horizon. Without a known capacity it is watch. A WORSE verdict persists by itself: one strike, since
        = the start of the first window that showed it.
        """
        newest = self._newest
        if newest is None:
            raise ValueError("no sample of this life was taken yet")
        steady = Verdict(
            target=newest.target,
            check=Check.MEMORY,
            subject=f"slot {newest.slot}",
            at=now,
            status=Status.OK,
            reason=Reason.STEADY,
            life=newest.life,
        )
        age_s = self._age_s(newest)
        if age_s < self.policy.warmup_s:
            evidence: Evidence = {"seconds_needed": self.policy.warmup_s - age_s}
            return replace(steady, status=Status.UNKNOWN, reason=Reason.WARMING_UP, evidence=evidence)
        grown = {name: channel.growth() for name, channel in self._channels.items()}
        worst: dict[str, Verdict] = {}  # of each place
        for figure in FIGURES:
            if figure.name in self._channels:
                verdict = self._judge_figure(steady, newest, figure, grown)
                if figure.place not in worst or _severity(verdict) > _severity(worst[figure.place]):
                    worst[figure.place] = verdict
        if not worst:
            return replace(steady, status=Status.UNKNOWN, reason=Reason.NO_DATA)
        return max(worst.values(), key=_urgency)

    def _share_of_gain(self, trimmed: float) -> float:
        """Of what host memory has gained, before the floors show that some of it was given back."""
        channel = self._channels.get("host_anon_bytes")
        growth = None if channel is None else channel.growth()
        return trimmed / growth.gain if growth is not None and growth.gain > 0 else 0.0

    def _open(self, figure: Figure) -> Channel:
        channel = Channel(
            window_s=self.policy.window_s,
            min_gain=self.policy.min_gain_bytes if figure.min_gain is None else figure.min_gain,
            youth_s=self.policy.warmup_s,
            tenure_s=self.policy.tenure_s,
            is_urgent=lambda used, slope: (
                self._level(Forecast(used=used, room=self._room(figure)), slope) is Level.URGENT
            ),
            is_large=lambda used, risen: self._is_large(used, self._room(figure), risen),
        )
        self._hand_down(figure.name, channel)
        return channel

    def _hand_down(self, name: str, channel: Channel) -> None:
        channel.inherit({scale: past for (figure, scale), past in self._history.own.items() if figure == name})

    def _age_s(self, sample: MemorySample) -> float:
        """By the process's own age, which no clock change moves; else since the first sample."""
        assert self._first is not None
        return sample.uptime_s if sample.uptime_s is not None else sample.at - self._first.at

    def _room(self, figure: Figure) -> Room | None:
        if figure.name == "host_anon_bytes" and self.policy.capacity_bytes is not None:
            return Room(capacity=float(self.policy.capacity_bytes))
        assert self._newest is not None
        return figure.room(self._newest)

    def _judge_figure(
        self, steady: Verdict, newest: MemorySample, figure: Figure, grown: Mapping[str, Growth | None]
    ) -> Verdict:
        room, growth = self._room(figure), grown[figure.name]
        evidence: Evidence = {"channel": figure.name, "samples": self._channels[figure.name].taken}
        if room is not None:
            unit = "_bytes" if figure.is_memory else ""
            evidence = {**evidence, f"capacity{unit}": room.capacity}
            if room.others > 0:
                evidence = {**evidence, f"others{unit}": room.others}
        steady = replace(steady, evidence=evidence)
        if self._age_s(newest) - self._known_age_s[figure.name] > self.policy.window_s * NO_DATA_SHARE:
            return replace(steady, status=Status.UNKNOWN, reason=Reason.NO_DATA)
        if growth is None:
            return replace(steady, status=Status.UNKNOWN, reason=Reason.TOO_FEW_SAMPLES)
        forecast = self._forecast(figure, growth, room)
        evidence = {**evidence, **_evidence(figure, growth), **forecast.dates(growth)}
        if not growth.leaking:
            return self._judge_after_leak(replace(steady, evidence=evidence), figure, growth)
        if forecast.others_slope:
            evidence = {**evidence, "others_slope_bytes_per_hour": forecast.others_slope * 3600}
        if growth.quiet_s:
            evidence = {**evidence, "seconds_quiet": growth.quiet_s}
        if growth.sweeps:
            evidence = {**evidence, "sweeps": growth.sweeps}
        slopes = {name: other.slope.estimate for name, other in grown.items() if other is not None}
        kind = kind_of(
            figure.name,
            slopes,
            trimmed=self._beside.trimmed_since(growth.begun_s),
            by_shapes=follows_shapes(growth.floors, self._beside.shapes_at(growth.begins_s)),
        )
        return replace(
            steady,
            status=Status.WORSE,
            reason=Reason.LEAKING,
            cause=Cause.MODEL,
            level=self._level(forecast, growth.slope.low),
            since=newest.at - (self._age_s(newest) - growth.seen_since_s),
            strikes=1,
            evidence={
                **evidence,
                "kind": kind.value,
                "version": self._history.version,
                **self._history.appearance(figure.name, growth.scale, growth.slope),
            },
        )

    def _judge_after_leak(self, steady: Verdict, figure: Figure, growth: Growth) -> Verdict:
        """Steady; but while the life before leaked this figure, that is not enough to say that it is over.

        It is gone when the statistics say so, under a load that is steady: at night a leak per request is slow. A life
        that is a day old and was never called leaking is steady.
        """
        former = self._history.former
        if former is None or former.figure != figure.name or self._channels[figure.name].has_leaked:
            return steady
        if growth.firm and (gone := self._history.gone(figure.name, growth.slope)):
            return replace(steady, reason=Reason.LEAK_GONE, evidence={**steady.evidence, **gone})
        if self.age_s >= DAY_S:
            return steady
        return replace(steady, status=Status.UNKNOWN, reason=Reason.LEAK_NOT_RULED_OUT)

    @staticmethod
    def _is_large(used: float, room: Room | None, risen: float) -> bool:
        return room is not None and risen >= LARGE_SHARE * (room.left_for - used + risen)

    def _forecast(self, figure: Figure, growth: Growth, room: Room | None) -> Forecast:
        """Only for a leak: a steady worker has no date."""
        if not growth.leaking:
            return Forecast(used=growth.used, room=None)
        others = growth_of_others(
            growth.begins_s,
            self._beside.others_at(figure.name, growth.begins_s),
            min_gain=self.policy.min_gain_bytes,
        )
        return Forecast(used=growth.used, room=room, others_slope=others, firm=growth.firm)

    def _level(self, forecast: Forecast, slope: float) -> Level:
        left_s = forecast.seconds_left(slope)
        if left_s is None or left_s > self.policy.horizon_s:
            return Level.WATCH
        return Level.URGENT if left_s <= self.policy.urgent_s else Level.PAGE


def judge_memory(
    points: Sequence[MemorySample], policy: LeakPolicy, *, now: float, history: SlopeHistory | None = None
) -> Verdict:
    """The verdict on the newest point's life after all of its points, oldest first, at least one.

    history: what is known of lives before it; None: nothing.
    """
    watch = LeakWatch(policy)
    watch.inherit(history or SlopeHistory())
    watch.take(point for point in points if point.life == points[-1].life)
    return watch.judge(now=now)


def _severity(verdict: Verdict) -> tuple[int, int, bool]:
    """WORSE before UNKNOWN before OK, then the higher level; and a leak that is gone is news."""
    rank = {Status.OK: 0, Status.UNKNOWN: 1, Status.WORSE: 2}[verdict.status]
    return rank, verdict.level.rank, verdict.reason is Reason.LEAK_GONE


def _urgency(verdict: Verdict) -> tuple[float, ...]:
    """By severity, then the sooner end."""
    left = verdict.evidence.get("seconds_to_capacity")
    return *_severity(verdict), -float(left) if left is not None else -math.inf


def _evidence(figure: Figure, growth: Growth) -> Evidence:
    slope = growth.slope
    low, high = (bound * 3600 if math.isfinite(bound) else None for bound in (slope.low, slope.high))
    if not figure.is_memory:
        said = {"slope_per_hour": slope.estimate * 3600, "slope_per_hour_low": low, "slope_per_hour_high": high}
        return {**said, "gain": growth.gain, "used": growth.used}
    said = {"slope_bytes_per_hour": slope.estimate * 3600, "slope_low": low, "slope_high": high}
    return {**said, "gain_bytes": growth.gain, "used_bytes": growth.used}
