"""The demo's story: baseline, then four faults in turn; each is caught, told, cured and proved cured."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from watchdog.cli.session import print_json
from watchdog.demo.slack_view import draw
from watchdog.demo.stage import Stage, StageError
from watchdog.web.page import milliseconds

BASELINE_TRIES = 3
CATCH_TIMEOUT_S = 40.0
CURE_TIMEOUT_S = 45.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One fault and what must come of it. kind: of a leak; None of anything else."""

    title: str
    fault: Mapping[str, Any]
    check: str
    reason: str
    kind: str | None = None


SCENES = (
    Scene(
        title="The model gets 50 % slower",
        fault={"kind": "slow", "share": 0.67},
        check="latency",
        reason="regressed",
    ),
    Scene(
        title="The worker leaks 200 kB with every request",
        fault={"kind": "leak", "bytes_per_request": 200_000},
        check="memory",
        reason="leaking",
        kind="host",
    ),
    Scene(
        title="The model gives wrong answers, fast and with status 200",
        fault={"kind": "wrong"},
        check="output",
        reason="drifted",
    ),
    Scene(
        title="Inference hangs, and /health goes on saying 200",
        fault={"kind": "hang"},
        check="availability",
        reason="timeout",
    ),
)


@dataclass(slots=True)
class Outcome:
    """What was seen. problems: one line each; the demo succeeded when there are none."""

    scenes: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def tell(*, keep: bool, json: bool) -> bool:
    """Run the demo; True when each fault was caught with the right check and cause, cured, and nothing else fired."""
    screen = Console(stderr=json, highlight=False)
    began = time.monotonic()
    outcome = Outcome()
    folder = Path(tempfile.mkdtemp(prefix="watchdog-demo-"))
    with Stage(folder) as stage:
        try:
            _set_up(stage, screen)
            for number, scene in enumerate(SCENES, 1):
                screen.print(f"\n[bold]{number}. {scene.title}[/]")
                outcome.scenes.append(_play(stage, scene, screen, outcome.problems))
            _look_back(stage, outcome)
        except StageError as error:
            outcome.problems.append(str(error))
        _conclude(screen, outcome, time.monotonic() - began)
        if json:
            print_json({"scenes": outcome.scenes, "problems": outcome.problems})
        if keep and not outcome.problems:
            _keep(stage, screen)
    if outcome.problems:
        screen.print(f"Logs and database were kept in {folder}", markup=False)
    else:
        shutil.rmtree(folder)
    return not outcome.problems


def _set_up(stage: Stage, screen: Console) -> None:
    screen.print("[bold]The inference watchdog, beside a real PyTorch server[/] (a small transformer, CPU)\n")
    screen.print(f"  model server up after {stage.start_server():.1f} s, under a supervisor that restarts it")
    _take_baseline(stage, screen)
    screen.print("  $ watchdog run", style="cyan")
    stage.start_daemon()
    screen.print(f"  watching; status page at http://127.0.0.1:{stage.web_port}/")
    screen.print(
        "  Windows and intervals are short here (a burst every 0.5 s, a leak window of 12 s); no rule differs.",
        style="dim",
    )


def _take_baseline(stage: Stage, screen: Console) -> None:
    """A baseline taken while the machine was busy with something else hides what the demo is to show: take another."""
    for _ in range(BASELINE_TRIES):
        screen.print("  $ watchdog baseline --apart 200ms --accept", style="cyan")
        taken = stage.ask("baseline", "--apart", "200ms", "--accept")[0]
        if taken["result"] not in ("promoted", "accepted"):
            raise StageError(f"no baseline: {taken['detail']}")
        figures = f"p50 {milliseconds(taken['p50_s'])}, p95 {milliseconds(taken['p95_s'])}"
        screen.print(f"  baseline {taken['baseline']}: {figures} from {taken['samples']} samples")
        if not taken["noisy"]:
            return
        screen.print(f"  noisy: bursts differ by {taken['between_burst_sd']:.0%}, the machine is busy", style="yellow")
    screen.print("  going on, but what follows may be lost in the noise of this machine", style="yellow")


def _play(stage: Stage, scene: Scene, screen: Console, problems: list[str]) -> dict[str, Any]:
    """Break, wait for the alert, for the proof of the cure, and for the all-clear."""
    start = len(stage.receiver.received)
    broken_at = time.monotonic()
    stage.break_server(dict(scene.fault))
    if scene.fault["kind"] == "hang":  # asked now: once it is caught the server is about to be recycled
        screen.print(f"   (/health says {stage.health_status()})", style="dim")
    seen: dict[str, Any] = {"title": scene.title, "check": scene.check}
    fired = stage.wait_for_event("firing", check=scene.check, start=start, timeout_s=CATCH_TIMEOUT_S)
    if fired is None:
        problems.append(f"{scene.title}: not caught within {CATCH_TIMEOUT_S:g} s")
        return seen
    incident = fired.payload["incident"]
    seen |= {
        "caught_s": round(time.monotonic() - broken_at, 1),
        "reason": incident["reason"],
        "cause": incident["cause"],
    }
    _show_slack(stage, fired.payload["text"], start, screen)
    what = f"{incident['check']}, {incident['reason']}, cause {incident['cause']}"
    screen.print(f"   [green]caught[/] after {seen['caught_s']} s: {what}")
    if (incident["reason"], incident["cause"]) != (scene.reason, "model"):
        problems.append(f"{scene.title}: caught as {incident['reason']} with cause {incident['cause']}")
    if (kind := incident["evidence"].get("kind")) != scene.kind:
        problems.append(f"{scene.title}: the kind is {kind}")
    recycled = stage.wait_for_event("recycle", check=None, start=start, timeout_s=CURE_TIMEOUT_S)
    episode = recycled.payload["incident"]["recycle"] if recycled else None
    seen["recycle"] = episode["outcome"] if episode else None
    if episode is None or episode["outcome"] != "verified":
        problems.append(
            f"{scene.title}: recycle {episode['outcome'] + ': ' + episode['detail'] if episode else 'missing'}"
        )
        return seen
    screen.print(f"   [green]recycled[/] and verified: {episode['detail']}")
    resolved = stage.wait_for_event("resolved", check=scene.check, start=start, timeout_s=CURE_TIMEOUT_S)
    if resolved is None:
        problems.append(f"{scene.title}: the incident did not resolve within {CURE_TIMEOUT_S:g} s")
        return seen
    seen["resolved_s"] = round(time.monotonic() - broken_at, 1)
    screen.print(f"   [green]resolved[/] {seen['resolved_s']} s after it broke")
    return seen


def _show_slack(stage: Stage, text: str, start: int, screen: Console) -> None:
    """The same message as Slack got it."""
    title = text.splitlines()[0]
    slack = stage.receiver.wait_for(
        lambda r: r.path != "/events" and title in r.payload["text"], timeout_s=10.0, start=start
    )
    if slack is None:
        raise StageError("the webhook was told and Slack was not")
    screen.print(draw(slack.payload))


def _look_back(stage: Stage, outcome: Outcome) -> None:
    """Nothing else may have fired: compare the incidents on record with the scenes."""
    told = [i for i in stage.ask("incidents") if i["level"] != "info" and i["fired_at"] is not None]
    expected = {scene.check for scene in SCENES}
    for incident in told:
        if incident["check"] in expected:
            expected.discard(incident["check"])
        else:
            what = f"{incident['check']} {incident['reason']}, cause {incident['cause']}"
            outcome.problems.append(f"something else fired: {what}")


def _conclude(screen: Console, outcome: Outcome, seconds: float) -> None:
    screen.print()
    for problem in outcome.problems:
        screen.print(f"[bold red]PROBLEM[/] {problem}")
    if not outcome.problems:
        screen.print(f"[bold green]Four faults, four alerts, four cures, nothing else.[/] It took {seconds:.0f} s.")
        screen.print('Next: README.md, "Watch your own server".', style="dim")


def _keep(stage: Stage, screen: Console) -> None:
    screen.print(f"\nStill running: http://127.0.0.1:{stage.web_port}/ (Ctrl-C ends it). Try, in another terminal:")
    screen.print(f"  watchdog status -c {stage.config}", style="cyan")
    screen.print(
        f'  curl -X POST http://127.0.0.1:{stage.server_port}/fault -d \'{{"kind": "slow"}}\'',
        style="cyan",
        markup=False,
    )
    sys.stdout.flush()
    try:
        while not stage.daemon_ended():
            time.sleep(0.5)
    except KeyboardInterrupt:
        screen.print("\nending")
