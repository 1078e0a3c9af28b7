"""A target that can be recycled and keeps count: processes, answers and memory as a test wants them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from builders import NOW, make_baseline, make_burst

from alerts.episode import RecyclePolicy
from alerts.recovery import Recovery, judge_recovery
from alerts.recyclers import Acted
from alerts.trim import Trimmed
from baselines.slowdown import RegressionPolicy
from probes.messages import Burst, Life, Outcome

OLD = Life(pid=7, start_ticks=100)
NEW = Life(pid=8, start_ticks=200)


@dataclass
class Server:
    """Implements `alerts.recycling.Subject` and is its own recycler: an act replaces the old workers by new ones.

    replacements: what an act starts; None for as many new lives as it ended, NEW first.
    outcomes, latency_s: of every burst from now on. trimmed: what comes of every trim; trims: those asked for.
    hook: called with the name of each method before it does its work, and with `acted` after the act; what it raises
    is a crash of the daemon there.
    """

    name: str = "chat"
    mode: str = "act"
    peers: frozenset[str] = frozenset()
    one_by_one: bool = False
    evidence_age_s: float = float("inf")
    drain_s: float = 0.0
    ready_timeout_s: float = 60.0
    verify_bursts: int = 2
    policy: RecyclePolicy = field(default_factory=RecyclePolicy)
    workers: list[Life] | None = field(default_factory=lambda: [OLD])
    replacements: list[Life] | None = None
    uptimes: float | None = 7200.0
    missing_signal: str | None = None
    outcomes: tuple[Outcome, ...] = (Outcome.GOOD,) * 5
    latency_s: float = 0.05
    memory: list[int | None] = field(default_factory=lambda: [900_000_000, 500_000_000])
    can_act: bool = True
    can_trim: bool = False
    figures: set[str] = field(default_factory=set)  # that somebody asked for
    trimmed: Trimmed = field(default_factory=lambda: Trimmed(before=900_000_000, after=890_000_000))
    trims: list[tuple[Life, str]] = field(default_factory=list)
    has_recycler: bool = True
    acts: list[tuple[Life, ...]] = field(default_factory=list)
    sizes: list[int | None] = field(default_factory=list)
    hook: Callable[[str], None] = lambda _: None

    @property
    def recycler(self) -> Server | None:
        return self if self.has_recycler else None

    def plan(self, lives: Sequence[Life]) -> list[str]:
        return [f"replace {life.key}" for life in lives]

    def act(self, lives: Sequence[Life]) -> Acted:
        self.hook("act")
        self.acts.append(tuple(lives))
        if not self.can_act:
            return Acted(done=False, detail="it would not go")
        if self.workers is not None:
            started = self._replace(lives) if self.replacements is None else self.replacements
            self.workers = [life for life in self.workers if life not in lives] + started
        self.hook("acted")
        return Acted(done=True, detail="replaced")

    def _replace(self, lives: Sequence[Life]) -> list[Life]:
        generation = len(self.acts) - 1
        return [Life(pid=NEW.pid + i, start_ticks=NEW.start_ticks + 100 * generation) for i in range(len(lives))]

    def lives(self) -> list[Life] | None:
        self.hook("lives")
        return None if self.workers is None else list(self.workers)

    def known_lives(self) -> list[Life] | None:
        return self.lives()

    def uptime_s(self, life: Life) -> float | None:
        started_since = self.acts and not any(life in act for act in self.acts)
        return 0.0 if started_since else self.uptimes

    def missing(self) -> str | None:
        return self.missing_signal

    def burst(self, *, size: int | None = None) -> list[Burst]:
        self.hook("burst")
        self.sizes.append(size)
        return [make_burst(*self.outcomes[:size], at=NOW, latency_s=self.latency_s, target=self.name)]

    def held(self, figure: str) -> int | None:
        self.hook("memory")
        self.figures.add(figure)
        return self.memory[min(len(self.acts), len(self.memory) - 1)]

    def trim(self, life: Life, channel: str) -> Trimmed:
        self.hook("trim")
        self.trims.append((life, channel))
        return self.trimmed

    def judge(
        self, bursts: Sequence[Burst], *, reason: str, figure: str, before: int | None, after: int | None
    ) -> Recovery:
        self.hook("judge")
        return judge_recovery(
            bursts,
            baselines={"default": make_baseline(0.05)},
            policy=RegressionPolicy(),
            reason=reason,
            figure=figure,
            before=before,
            after=after,
        )
