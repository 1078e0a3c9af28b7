"""One run of the crash benchmark: a fault comes, things are killed, the world gets well, and then it is looked at."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from benchmarks.crash_checks import Findings, check_database, check_left_overs, check_recycles, check_told
from benchmarks.crash_config import TARGET
from benchmarks.crash_moments import UNDER_WAY, Moment
from benchmarks.crash_plan import Phase, Plan
from benchmarks.crash_stage import Stage

MOMENT_S = 3.0  # how long an aimed moment is waited for; a recycle that was refused never comes to its act
EPISODE_S = 12.0
QUIET_S = 0.4
ENDED = "('cooldown', 'blocked', 'escalated', 'tripped')"
UNQUIET = (
    "select 1 from incidents where state in ('pending', 'firing') union all "
    "select 1 from deliveries where state = 'pending' union all "
    f"select 1 from recycles where state not in {ENDED}"
)
WIDE = (Phase.DELIVER, Phase.ACT)  # killed anywhere in it


@dataclass(frozen=True, slots=True, kw_only=True)
class Strike:
    """One kill. hit: it met the moment it was aimed at; None: the moment never came, and nothing was killed."""

    phase: Phase
    hit: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of one run. problems: what should not be, in words; empty when all held."""

    seed: int
    problems: tuple[str, ...]
    strikes: tuple[Strike, ...]
    findings: Findings
    seconds: float


class Run:
    """Carries out a plan on a stage."""

    def __init__(self, stage: Stage, plan: Plan) -> None:
        self._stage, self._plan = stage, plan
        self._rng = random.Random(plan.seed + 1)
        self.cut: Counter[str] = Counter()  # by idempotency key: kills while it was being delivered
        self.strikes: list[Strike] = []
        self._victim: subprocess.Popen[bytes]
        self._by_hand = plan.by_hand  # until the daemon takes over

    def carry_out(self) -> None:
        """Until all is quiet and the daemon has ended in order. Raises AssertionError when that does not come."""
        stage, plan = self._stage, self._plan
        for _ in range(plan.starts):
            self._strike_start()
        self._start()
        if plan.baseline:
            self._strike_command(Phase.BASELINE, ["baseline", "--quick", "--apart", "50ms"], (0.8, 2.0))
        stage.break_server(plan.fault, keeps=plan.keeps)
        if plan.by_hand:
            self._wait_until_noticed()
            self._kill()
            self._victim = stage.command("recycle", TARGET)
        for phase in plan.strikes:
            self._strike(phase)
        if self._by_hand:
            stage.wait(lambda: self._victim.poll() is not None, "the recycle by hand ends")
            self._start()
        self._wait_until_noticed()
        if plan.recycler:
            stage.wait_for(
                lambda: stage.rows(f"select 1 from recycles where state in {ENDED}"), EPISODE_S, every_s=0.05
            )
        if plan.ack:
            (incident,) = stage.rows("select id from incidents order by opened_at desc limit 1")[0]
            self._strike_command(Phase.ACK, ["incidents", "ack", incident], (0.7, 1.4))
        stage.heal_server()
        if plan.resolve:
            self._strike(Phase.RESOLVE)
        stage.receiver.get_well()
        self._wait_for_quiet()
        self._victim.terminate()
        assert self._victim.wait(15) == 0, f"SIGTERM ended it with {self._victim.returncode}"

    def give_up(self) -> None:
        """End the daemon, so that what it left can be looked at."""
        if self._victim.poll() is None:
            self._kill()

    # --- killing ------------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        self._victim = self._stage.command("run")
        self._stage.wait(lambda: self._stage.watches(self._victim), "the daemon answers")

    def _kill(self) -> None:
        os.kill(self._victim.pid, signal.SIGKILL)
        self._victim.wait(10)
        self.cut.update(key for (key,) in self._stage.rows(UNDER_WAY))

    def _strike_start(self) -> None:
        self._victim = self._stage.command("run")
        time.sleep(self._rng.uniform(0.3, 2.0))
        up = bool(self._stage.rows("select 1 from bursts limit 1"))
        self._kill()
        self.strikes.append(Strike(phase=Phase.START, hit=not up))

    def _strike_command(self, phase: Phase, args: list[str], between_s: tuple[float, float]) -> None:
        child = self._stage.command(*args)
        time.sleep(self._rng.uniform(*between_s))
        alive = child.poll() is None
        child.kill()
        child.wait(10)
        self.strikes.append(Strike(phase=phase, hit=alive))

    def _strike(self, phase: Phase) -> None:
        """Wait for the moment, kill, see whether it was the moment, start again."""
        moment = Moment(self._stage, phase)
        if phase is Phase.RANDOM:
            time.sleep(self._rng.uniform(0.0, 1.5))
        elif not self._stage.wait_for(lambda: moment.has_come() or self._victim.poll() is not None, MOMENT_S):
            self.strikes.append(Strike(phase=phase, hit=None))
            return
        if phase in WIDE:
            time.sleep(self._rng.uniform(0.0, 0.2))
        alive = self._victim.poll() is None  # a recycle by hand may have come to its end before
        if alive:
            self._kill()
        self.strikes.append(Strike(phase=phase, hit=moment.was_hit() if alive else None))
        time.sleep(self._rng.choice((0.0, 0.0, 0.3)))
        self._by_hand = False
        self._start()

    def _wait_until_noticed(self) -> None:
        fired = "select 1 from incidents where fired_at is not null"
        self._stage.wait(lambda: self._stage.rows(fired), "the fault is noticed")

    def _wait_for_quiet(self) -> None:
        """Nothing open, nothing pending, nothing under way, for QUIET_S; and good answers since."""
        stage, healed_at = self._stage, time.time()
        quiet_since: float | None = None

        def is_quiet() -> bool:
            nonlocal quiet_since
            stage.watches(self._victim)
            good = stage.rows(f"select 1 from bursts where any_good and at > {healed_at} limit 1")
            if not good or stage.rows(UNQUIET):
                quiet_since = None
                return False
            quiet_since = quiet_since or time.monotonic()
            return time.monotonic() - quiet_since >= QUIET_S

        stage.wait(is_quiet, "all is quiet")


def carry_out(plan: Plan, folder: Path) -> Result:
    """One run in a folder of its own, with everything that must hold afterwards."""
    began = time.monotonic()
    stage = Stage(folder, plan)
    problems: list[str] = []
    run = Run(stage, plan)
    findings = Findings()
    try:
        try:
            run.carry_out()
        except AssertionError as error:
            problems.append(str(error))
            run.give_up()
        problems += check_database(folder, findings)
        problems += check_told(stage, findings, cut=run.cut)
        problems += check_recycles(stage, findings, one_by_one=plan.recycler == "process")
        problems += check_left_overs(stage)
    finally:
        stage.close()
    seconds = time.monotonic() - began
    return Result(
        seed=plan.seed, problems=tuple(problems), strikes=tuple(run.strikes), findings=findings, seconds=seconds
    )
