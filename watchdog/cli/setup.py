"""`watchdog init` and `watchdog check`: getting to a configuration that works."""

from __future__ import annotations

import time
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from baselines.database import open_database
from probes.gpu.usage import describe
from probes.load import APART_S, LoadMeter
from probes.messages import Family
from probes.reading import Reading
from watchdog.bootstrap import build_targets
from watchdog.cli.session import DEFAULT_CONFIG, ConfigPath, ExitCode, Json, Refused, out, print_json
from watchdog.config import Config, HttpCanarySection, load_config
from watchdog.migrations.migrate import bring_up_to_date
from watchdog.target import Target
from watchdog_agent.agent_wire import Report


def register(app: typer.Typer) -> None:
    app.command()(init)
    app.command()(check)


def init(
    path: Annotated[Path, typer.Argument(help="The file to write.")] = DEFAULT_CONFIG,
    json: Json = False,
) -> None:
    """Write a small configuration to start from."""
    text = resources.files("watchdog.cli").joinpath("starter.toml").read_text()
    try:
        with path.open("x") as file:
            file.write(text)
    except FileExistsError:
        raise Refused(f"{path} exists and was left as it is; name another file") from None
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}") from error
    if json:
        print_json({"wrote": str(path)})
    else:
        out.print(f"wrote {path}; edit it, then: watchdog check --live -c {path}", markup=False)


def check(
    config: ConfigPath = DEFAULT_CONFIG,
    live: Annotated[bool, typer.Option("--live", help="Also ask every target, process, GPU and notifier.")] = False,
    json: Json = False,
) -> None:
    """Validate the configuration; with --live, see that everything in it can be reached."""
    parsed = load_config(config)
    rows = _look(parsed) if live else []
    bad = [row for row in rows if row["ok"] is False]
    if json:
        print_json({"config": str(config), "targets": [t.name for t in parsed.target], "live": rows})
    else:
        counts = f"{len(parsed.target)} target(s), {sum(len(t.canary) for t in parsed.target)} canary(ies)"
        out.print(f"{config}: good. {counts}, {len(parsed.notifier)} notifier(s)", markup=False)
        for row in rows:
            mark = {True: "ok  ", False: "FAIL", None: "-   "}[row["ok"]]
            out.print(f"  {mark} {row['what']}: {row['detail']}", markup=False)
    raise typer.Exit(ExitCode.WORSE if bad else ExitCode.FINE)


Row = dict[str, Any]
"""what, ok (None: not there and not needed) and detail, for people and `--json` alike."""


def _look(config: Config) -> list[Row]:
    rows: list[Row] = []
    database = open_database(config.store.url)
    bring_up_to_date(database)
    targets = build_targets(config, database)
    for section, target in zip(config.target, targets.values(), strict=True):
        for canary in section.canary:
            name = canary.name
            answer = target.probe(name, size=1, wait_s=30.0).samples[-1]
            said = "good" if answer.latency_s is None else f"good, {answer.latency_s * 1000:.1f} ms"
            detail = said if answer.outcome.family is Family.GOOD else f"{answer.outcome}: {answer.detail}"
            rows.append({"what": f"{target.name}/{name}", "ok": answer.outcome.family is Family.GOOD, "detail": detail})
            if isinstance(canary, HttpCanarySection) and canary.control_url is not None:
                took = answer.control_s
                said = (
                    f"no good answer from {httpx.URL(canary.control_url).copy_with(query=None)}"
                    if took is None
                    else f"good, {took * 1000:.1f} ms"
                )
                rows.append({"what": f"{target.name}/{name} control", "ok": took is not None, "detail": said})
            if isinstance(canary, HttpCanarySection) and canary.control == "agent" and target.agents is not None:
                for life in target.lives() or []:
                    row = _kernel_of(target.agents.run_kernel(life))
                    rows.append({"what": f"{target.name}/{name} control in {life.pid}", **row})
        lives = target.lives()
        if lives is not None:
            pids = ", ".join(str(life.pid) for life in lives) or "no process found"
            rows.append({"what": f"{target.name} workers", "ok": bool(lives), "detail": pids})
        if target.agents is not None:
            for life, reading in target.agents.ask(lives or []).items():
                detail = reading.detail if reading.report is None else _agent_says(reading.report)
                what = f"{target.name} agent of {life.pid}"
                rows.append({"what": what, "ok": reading.report is not None, "detail": detail})
        if target.load is not None:
            rows.append({"what": f"{target.name} load", **_look_at_load(target.load)})
        if target.gpu is not None:
            rows.append({"what": f"{target.name} GPU", **_look_at_gpu(target, wanted=section.device == "cuda")})
        target.close()
    rows += [_reach(n.name, n.url.get_secret_value()) for n in config.notifier]
    database.close()
    return rows


def _kernel_of(reading: Reading) -> Row:
    """What one worker's reference kernel took, or why there is none."""
    if reading.ran is None:
        return {"ok": False, "detail": reading.detail}
    return {"ok": True, "detail": f"good, {reading.ran.took_s * 1000:.1f} ms ({reading.ran.kernel})"}


def _look_at_gpu(target: Target, *, wanted: bool) -> Row:
    """Whether its devices are read and its workers are seen there; a GPU that is not there may not be needed."""
    gpu = target.gpu
    assert gpu is not None
    if not gpu.reader.available:
        return {"ok": False if wanted else None, "detail": f"no GPU: {gpu.reader.why}"}
    target.sample_memory()
    if missing := gpu.missing():
        return {"ok": False, "detail": f"NVML knows no device {', '.join(map(str, missing))}"}
    workers = f"; the workers: {gpu.view}" if gpu.view is not None else ""
    return {"ok": not gpu.lost, "detail": f"NVML answers: {describe(gpu.reading().devices)}{workers}"}


def _look_at_load(meter: LoadMeter) -> Row:
    """Whether it can be read, and what it is; the rate of a counter takes a second reading."""
    reading = meter.read()
    if reading.value is None and not reading.failed:
        time.sleep(APART_S)
        reading = meter.read()
    return {"ok": reading.value is not None, "detail": reading.why or f"good, {reading.value:g}"}


def _agent_says(report: Report) -> str:
    known = {"serves": report.version, **report.versions, "requests": report.requests, "shapes": report.shapes}
    return "good, " + ", ".join(f"{name} {value}" for name, value in known.items() if value is not None)


def _reach(name: str, address: str) -> Row:
    """Whether a notifier's host accepts a connection; nothing is posted (that is `watchdog notify test`)."""
    url = httpx.URL(address)
    began = time.monotonic()
    try:
        with httpx.Client(trust_env=False, timeout=5.0) as client:
            client.head(url.copy_with(path="/", query=None))
    except httpx.HTTPError as error:
        return {"what": f"notifier {name}", "ok": False, "detail": f"{url.host}: {type(error).__name__}"}
    return {"what": f"notifier {name}", "ok": True, "detail": f"{url.host} in {time.monotonic() - began:.2f} s"}
