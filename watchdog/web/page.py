"""The status page: one HTML document, no script, refreshed by the browser."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape

from baselines.verdict import Verdict
from watchdog.status import CanaryStatus, TargetStatus, WorkerStatus

REFRESH_S = 10

_STYLE = """
:root { color-scheme: light dark; --ok: #1a7f37; --worse: #cf222e; --unknown: #9a6700; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .3rem; }
table { border-collapse: collapse; width: 100%; margin: .4rem 0; }
th, td { text-align: left; padding: .25rem .6rem .25rem 0; border-bottom: 1px solid #8884; vertical-align: top; }
th { font-weight: 600; font-size: .85rem; opacity: .7; }
.OK { color: var(--ok); } .WORSE { color: var(--worse); font-weight: 600; } .UNKNOWN { color: var(--unknown); }
small { opacity: .7; } .num { font-variant-numeric: tabular-nums; }
"""


def render(targets: Sequence[TargetStatus], *, now: float) -> str:
    """The page. Every value from outside is escaped."""
    body = "".join(_target(t, now) for t in targets)
    at = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Inference watchdog</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="refresh" content="{REFRESH_S}"><style>{_STYLE}</style></head>'
        f"<body><h1>Inference watchdog</h1><small>{at} &middot; "
        f'<a href="/metrics">metrics</a> &middot; <a href="/api/v1/openapi.json">API</a></small>{body}</body></html>'
    )


def _target(target: TargetStatus, now: float) -> str:
    notes = [f"mode {target.mode}", f"device {target.device}"]
    if target.group:
        notes.append(f"group {target.group}")
    if target.breaker_open:
        notes.append("recycle breaker OPEN: two recycles did not help")
    if target.last_recycle:
        ago = duration(now - target.last_recycle.updated_at)
        last = target.last_recycle
        blocked = f" ({last.detail.replace('_', ' ')})" if last.outcome == "blocked" else ""
        notes.append(f"last recycle: {last.outcome or last.state}{blocked}, {ago} ago")
    return (
        f'<h2>{escape(target.name)} <span class="{target.status}">{target.status}</span></h2>'
        f"<small>{escape(' · '.join(notes))}</small>"
        + _table(("check", "about", "status", "reason", "since"), [_verdict(v, now) for v in target.verdicts])
        + _table(("canary", "last", "p50", "p95", "baseline p95"), [_canary(c, now) for c in target.canaries])
        + _table(("worker", "pid", "up", "host memory", "GPU memory"), [_worker(w) for w in target.workers])
    )


def _verdict(verdict: Verdict, now: float) -> tuple[str, ...]:
    since = verdict.since if verdict.since is not None else verdict.at
    blame = f" ({verdict.cause}, {verdict.level})" if verdict.status == "WORSE" else ""
    return (
        escape(verdict.check),
        escape(verdict.subject),
        f'<span class="{verdict.status}">{verdict.status}</span>',
        escape(verdict.reason.replace("_", " ") + blame),
        f"{duration(now - since)} ago",
    )


def _canary(canary: CanaryStatus, now: float) -> tuple[str, ...]:
    last = "never" if canary.last_at is None else f"{canary.last_outcome}, {duration(now - canary.last_at)} ago"
    baseline = "none yet"
    if canary.baseline_p95_s is not None:
        kind = "provisional" if canary.baseline_provisional else canary.baseline_label or f"#{canary.baseline_id}"
        baseline = f"{milliseconds(canary.baseline_p95_s)} ({kind})"
    return (
        escape(canary.name),
        escape(last),
        milliseconds(canary.p50_s),
        milliseconds(canary.p95_s),
        escape(baseline),
    )


def _worker(worker: WorkerStatus) -> tuple[str, ...]:
    return (
        str(worker.slot),
        escape(worker.life.partition("@")[0]),
        "unknown" if worker.uptime_s is None else duration(worker.uptime_s),
        share(worker.host_anon_bytes, worker.capacity_bytes),
        share(worker.gpu_used_bytes, worker.gpu_capacity_bytes),
    )


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    if not rows:
        return ""
    top = "".join(f"<th>{h}</th>" for h in head)
    lines = "".join("<tr>" + "".join(f'<td class="num">{cell}</td>' for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{lines}</table>"


def milliseconds(seconds: float | None) -> str:
    """Latency for people; "unknown" for None."""
    return "unknown" if seconds is None else f"{seconds * 1000:.1f} ms"


def share(used: int | None, capacity: int | None) -> str:
    """Memory for people; "unknown" for None."""
    if used is None:
        return "unknown"
    return f"{used / 1e6:.0f} MB" + (f" of {capacity / 1e9:.1f} GB" if capacity else "")


def duration(seconds: float) -> str:
    """A length of time with its two largest units: "3 h 20 min". Negative counts as zero."""
    left = max(0, round(seconds))
    parts: list[str] = []
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        count, left = divmod(left, size)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])
