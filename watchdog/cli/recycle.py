"""`watchdog recycle`: recycle by hand, with the same gate, steps and proof as the daemon."""

from __future__ import annotations

import getpass
import time
from typing import Annotated, Any

import typer

from alerts import recycle_store
from alerts.episode import ENDED, STALE_REQUEST_S, GateReason, Outcome, State, Trigger, may_recycle
from alerts.gate import gather_facts
from alerts.notifiers.transport import SharedTransport
from alerts.recycle_requests import request
from alerts.recycle_store import Episode
from alerts.recycling import Recycling
from alerts.wording import REFUSALS
from baselines.database import Database
from watchdog.bootstrap import build_metrics, build_routes, build_targets, lock_path, new_episode_id
from watchdog.cli.session import (
    DEFAULT_CONFIG,
    ConfigPath,
    ExitCode,
    Json,
    Refused,
    TargetName,
    clock,
    opened,
    out,
    print_json,
)
from watchdog.config import Config
from watchdog.effects import Effects
from watchdog.target import Target
from watchdog.turns import Occupied, hold

POLL_S = 0.2
TAKEN_WITHIN_S = 30.0


def register(app: typer.Typer) -> None:
    app.command()(recycle)


def recycle(
    target: TargetName,
    config: ConfigPath = DEFAULT_CONFIG,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the gate's answer and the steps; do nothing.")
    ] = False,
    reset: Annotated[bool, typer.Option("--reset", help="Close the breaker: you vouch for the target.")] = False,
    why: Annotated[str, typer.Option(help="Goes on record.")] = "by hand",
    json: Json = False,
) -> None:
    """Recycle TARGET now. Exit codes: 0 verified, 2 acted but not verified, 3 refused by the gate."""
    with opened(config, create=True) as (parsed, database):
        parsed.find(target)
        if reset:
            with database.write(durable=True) as connection:
                recycle_store.reset_breaker(connection, target, at=time.time(), by=getpass.getuser())
            if json:
                print_json({"target": target, "breaker": "closed"})
            else:
                out.print(f"the breaker of {target} is closed", markup=False)
            return
        targets = build_targets(parsed, database)
        asked = request(target, Trigger.HAND, why, None, now=time.time(), new_id=new_episode_id)
        if dry_run:
            code = _dry_run(targets[target], asked, database, json=json)
            raise typer.Exit(code)
        episode = _carry_out(parsed, database, targets, asked, quiet=json)
    if json:
        print_json(episode, Any)
    else:
        out.print(f"{episode.outcome}: {_explain(episode)}", markup=False)
    codes = {Outcome.VERIFIED: ExitCode.FINE, Outcome.TRIMMED: ExitCode.FINE, Outcome.BLOCKED: ExitCode.UNDECIDED}
    raise typer.Exit(codes.get(episode.outcome or Outcome.BLOCKED, ExitCode.WORSE))


def _dry_run(target: Target, asked: Episode, database: Database, *, json: bool) -> ExitCode:
    with database.read() as connection:
        facts = gather_facts(connection, asked, target, now=time.time())
    reason = may_recycle(facts, target.policy, now=time.time())
    lives = target.lives() or []
    steps = target.recycler.plan(lives) if target.recycler else []
    drain = [f"drain for {target.drain_s:g} s"] if target.drain_s else []
    trim = ["for a leak, and not by hand: trim memory; if what has grown comes back, that is all"]
    steps = [
        *(trim if target.can_trim else []),
        *drain,
        *steps,
        f"wait up to {target.ready_timeout_s:g} s for a good answer, warm up",
        f"verify with {target.verify_bursts} burst(s) of each canary",
    ]
    if json:
        print_json({"gate": reason, "steps": steps})
    else:
        out.print(f"gate: {reason}" + ("" if reason is GateReason.ALLOWED else f" ({REFUSALS[reason]})"), markup=False)
        for number, step in enumerate(steps, 1):
            out.print(f"  {number}. {step}", markup=False)
    return ExitCode.FINE if reason is GateReason.ALLOWED else ExitCode.UNDECIDED


def _carry_out(
    config: Config, database: Database, targets: dict[str, Target], asked: Episode, *, quiet: bool
) -> Episode:
    """By the daemon when one serves this database (it pauses the canaries meanwhile), else by ourselves."""
    try:
        with hold(lock_path(database), wait_s=0.0, monotonic=time.monotonic, sleep=time.sleep):
            return _by_ourselves(config, database, targets, asked, quiet=quiet)
    except Occupied:
        with database.write(durable=True) as connection:
            recycle_store.save_episode(connection, asked)
        return _watch(database, asked, quiet=quiet)


def _by_ourselves(
    config: Config, database: Database, targets: dict[str, Target], asked: Episode, *, quiet: bool
) -> Episode:
    transport = SharedTransport()
    effects = Effects(
        targets,
        build_routes(config, transport),
        build_metrics(config),
        now=time.time,
        new_id=new_episode_id,
        changed=lambda: None,
    )
    recycling = Recycling(
        database,
        tell=effects.tell_recycle,  # delivered by the daemon's next start
        now=time.time,
        monotonic=time.monotonic,
        wait=_sleep,
    )
    target = targets[asked.target]
    for canary in target.canaries:
        target.baseline(canary)  # loads the golden outputs
    with database.read() as connection:
        left = [e for e in recycle_store.under_way(connection) if e.target == asked.target]
    for each in left:  # of a daemon or a command that was killed: end it first, it may have acted
        recycling.resume(each, target)
    with database.write(durable=True) as connection:
        recycle_store.save_episode(connection, asked)
    episode = recycling.run(asked, target)
    if not quiet:
        _print_steps(episode, 0)
    transport.close()
    return episode


def _sleep(seconds: float) -> bool:
    """Nothing tells the command line to stop but an interrupt, which ends it where it is."""
    time.sleep(seconds)
    return False


def _watch(database: Database, asked: Episode, *, quiet: bool) -> Episode:
    """Follow the daemon's work on our request."""
    shown = 0
    while True:
        with database.read() as connection:
            episode = recycle_store.get_episode(connection, asked.id)
        if episode is None:
            raise Refused(f"the request {asked.id} is gone from the database")
        if not quiet:
            shown = _print_steps(episode, shown)
        if episode.state in ENDED:
            return episode
        if episode.state is State.SUSPECT and time.time() - asked.requested_at > TAKEN_WITHIN_S:
            raise Refused(
                f"nobody took the request within {TAKEN_WITHIN_S:g} s: does the daemon run, is {asked.target} in its"
                f" configuration, is it recycling it already? After {STALE_REQUEST_S / 60:g} minutes it is dropped"
            )
        time.sleep(POLL_S)


def _print_steps(episode: Episode, shown: int) -> int:
    for step in episode.steps[shown:]:
        detail = "" if step.state is State.BLOCKED else step.detail
        out.print(f"  {clock(step.at)} {step.state}{': ' + detail if detail else ''}", markup=False)
    return len(episode.steps)


def _explain(episode: Episode) -> str:
    if episode.outcome is Outcome.BLOCKED and episode.detail in set(GateReason):
        return REFUSALS[GateReason(episode.detail)]
    return episode.detail
