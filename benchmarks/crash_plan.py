"""What one run of the crash benchmark does, drawn from its seed. Same seed, same plan; the timing is the machine's."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum


class Phase(StrEnum):
    """The moment at which something is killed. All but the last two are of the daemon (or of a recycle by hand)."""

    START = "start"  # while it comes up, on a database that may not exist yet
    RANDOM = "random"
    COMMIT = "commit"  # the incident is on disk, nobody was told
    DELIVER = "deliver"  # the receiver has the request and has not answered
    ANSWERED = "answered"  # the receiver took it, and that is not noted yet
    RETRY = "retry"  # an attempt failed, the next is waited for
    RESOLVE = "resolve"  # it is over on disk, nobody was told
    ASKED = "asked"  # the episode's row is there, the act is not
    BEFORE_ACT = "before act"  # the row says RECYCLE, the command has not begun
    ACT = "act"  # the command has begun
    WAIT_READY = "wait_ready"
    WARM_UP = "warm_up"
    VERIFY = "verify"
    ENDED = "ended"  # the episode has ended, nobody was told
    BASELINE = "baseline"  # `watchdog baseline` is killed, not the daemon
    ACK = "ack"  # `watchdog incidents ack` is


TELLING = (Phase.COMMIT, Phase.DELIVER, Phase.ANSWERED, Phase.RETRY)
RECYCLING = (
    Phase.ASKED,
    Phase.BEFORE_ACT,
    Phase.ACT,
    Phase.WAIT_READY,
    Phase.WARM_UP,
    Phase.VERIFY,
    Phase.ENDED,
)
RECYCLE_SHARE = 0.5
BY_HAND_SHARE = 0.2
TORCH_SHARE = 0.05  # an isolated model takes seconds to load


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One run. Durations in seconds.

    strikes: what is killed while the server is broken, in this order; before and after stand on their own.
    recycler: "command", "process", or "" for a run that only tells. by_hand: `watchdog recycle` acts, without a daemon.
    fault: see `crash_server`; keeps: a recycle does not cure it. receiver: what its first requests meet.
    before_s, after_s: how long the recycle command takes until and after it ends the workers; act_fails: its exit code.
    act_hangs: it never gets that far.
    """

    seed: int
    recycler: str
    by_hand: bool
    workers: int
    torch: bool
    fault: str
    keeps: bool
    receiver: tuple[str, ...]
    starts: int
    baseline: bool
    strikes: tuple[Phase, ...]
    ack: bool
    resolve: bool
    drain_s: float
    before_s: float
    after_s: float
    act_fails: bool
    act_hangs: bool


def draw_plan(seed: int, *, only: str | None = None) -> Plan:
    """The plan of a seed. only: "recycle" or "alert" takes the choice between the two away."""
    rng = random.Random(seed)
    recycles = rng.random() < RECYCLE_SHARE
    recycles = recycles if only is None else only == "recycle"
    recycler = rng.choice(("command", "command", "process")) if recycles else ""
    by_hand = recycles and rng.random() < BY_HAND_SHARE
    telling = [] if by_hand else rng.sample(TELLING, rng.choice((0, 1)) if recycles else rng.choice((1, 1, 2)))
    if Phase.DELIVER in telling and Phase.ANSWERED in telling:  # each costs the same message a duplicate
        telling.remove(Phase.DELIVER)
    acting = _draw_acting(rng) if recycles else []
    strikes = sorted(telling, key=TELLING.index) + acting
    for _ in range(rng.choice((0, 1, 1))):
        strikes.insert(rng.randrange(len(strikes) + 1), Phase.RANDOM)
    return Plan(
        seed=seed,
        recycler=recycler,
        by_hand=by_hand,
        workers=rng.choice((1, 1, 2)),
        torch=rng.random() < TORCH_SHARE,
        # What hangs or is slow blames nobody often enough to be recycled.
        fault=rng.choice(("wrong", "wrong", "error") if recycles else ("wrong", "error", "hang", "slow")),
        keeps=rng.random() < 0.1 if recycles else True,
        receiver=_draw_receiver(rng, telling),
        starts=rng.choice((0, 0, 0, 1)),
        baseline=rng.random() < 0.1,
        strikes=tuple(strikes),
        ack=rng.random() < 0.1,
        resolve=rng.random() < 0.2,
        drain_s=rng.choice((0.0, 0.2)),
        before_s=round(rng.uniform(0.0, 0.4), 2),
        after_s=round(rng.uniform(0.0, 0.3), 2),
        act_fails=rng.random() < 0.05,
        act_hangs=rng.random() < 0.05,
    )


def _draw_acting(rng: random.Random) -> list[Phase]:
    """One phase, or two; a recycle that was cut in its act goes no further, so then it is the last."""
    acting = sorted(rng.sample(RECYCLING, rng.choice((1, 1, 2))), key=RECYCLING.index)
    cut = [number for number, phase in enumerate(acting, 1) if phase in (Phase.BEFORE_ACT, Phase.ACT)]
    return acting[: min(cut, default=len(acting))]


def _draw_receiver(rng: random.Random, telling: list[Phase]) -> tuple[str, ...]:
    """A receiver that makes the aimed windows wide enough to hit, and then has moods of its own."""
    first = {Phase.RETRY: ("fail",), Phase.DELIVER: ("slow",)}
    modes = [mode for phase in TELLING if phase in telling for mode in first.get(phase, ())]
    if rng.random() < 0.3:
        modes += rng.choices(("ok", "slow", "fail", "hang"), k=2)
    return tuple(modes)
