"""What must hold after a run of the crash benchmark, seen from outside: receiver, acts and processes are the truth.

Each check returns what should not be, one line each, and counts what it saw into the findings.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.crash_stage import Stage
from watchdog.turns import is_held

ORPHANS_S = 12.0  # a recycle command whose daemon died ends by itself, or some seconds after its time-out


@dataclass(slots=True, kw_only=True)
class Findings:
    """Counts of one run. most: how often one and the same message was taken at the most.

    unexplained: duplicates that no kill during the delivery explains.
    """

    incidents: int = 0
    messages: int = 0
    lost: int = 0
    duplicates: int = 0
    most: int = 0
    unexplained: int = 0
    episodes: int = 0
    acts: int = 0
    double_acts: int = 0
    corrupt: int = 0


def check_database(folder: Path, findings: Findings) -> list[str]:
    """SQLite's own checks, on a file nobody holds any more."""
    with closing(sqlite3.connect(folder / "watchdog.db")) as connection:
        said = [row[0] for row in connection.execute("PRAGMA integrity_check")]
        broken = connection.execute("PRAGMA foreign_key_check").fetchall()
    findings.corrupt = int(said != ["ok"] or bool(broken))
    return [f"the database is damaged: {said[:3]} {broken[:3]}"] if findings.corrupt else []


def check_told(stage: Stage, findings: Findings, *, cut: Mapping[str, int]) -> list[str]:
    """Each incident that fired was told, and its end; each message was taken once, always with the same key and text.

    cut: how often the daemon was killed while a key was being delivered; each of these may cost one duplicate.
    """
    taken = stage.receiver.accepted()
    times = Counter(attempt.key for attempt in taken)
    problems = []
    for key, event, state, payload in stage.rows("select key, event, state, payload from deliveries"):
        findings.messages += 1
        if state != "sent" or not times[key]:
            findings.lost += 1
            problems.append(f"{event} {key} is {state} and was taken {times[key]} times")
        if any(attempt.payload != json.loads(payload) for attempt in taken if attempt.key == key):
            problems.append(f"{key} was sent with another payload than the stored one")
    findings.duplicates = sum(count - 1 for count in times.values())
    findings.most = max(times.values(), default=0)
    findings.unexplained = sum(max(0, count - 1 - cut.get(key, 0)) for key, count in times.items())
    problems += [
        f"{key} was taken {count} times, but only {cut.get(key, 0)} kills met its delivery"
        for key, count in times.items()
        if count > 1 + cut.get(key, 0)
    ]
    keys_of: dict[str, set[str]] = {}
    for attempt in stage.receiver.attempts:
        keys_of.setdefault(attempt.payload["id"], set()).add(attempt.key)
    problems += [f"message {name} came with keys {keys}" for name, keys in keys_of.items() if len(keys) > 1]
    for incident, state, flaps in stage.rows("select id, state, flaps from incidents where fired_at is not null"):
        findings.incidents += 1
        told = _first_told(taken, incident)
        ends = told.count("resolved")
        if "firing" not in told:
            findings.lost += 1
            problems.append(f"incident {incident} fired and nobody was told")
        elif told[0] != "firing" or state != "resolved" or ends != flaps + 1 or told[-1] != "resolved":
            problems.append(f"incident {incident}: {state}, came back {flaps} times, told {told}")
    return problems


def _first_told(taken: list[Any], incident: str) -> list[str]:
    """Events of an incident in the order in which they were first taken; how a recycle ended is another story."""
    seen: dict[str, str] = {}
    for attempt in taken:
        if attempt.payload["incident"]["id"] == incident and attempt.payload["event"] != "recycle":
            seen.setdefault(attempt.key, attempt.payload["event"])
    return list(seen.values())


def check_recycles(stage: Stage, findings: Findings, *, one_by_one: bool) -> list[str]:
    """Each episode has ended and, unless it was refused, was told; each acted at most once, on each worker at most."""
    problems = []
    query = "select id, state, acted_at, lives_before from recycles where state != 'blocked' order by acted_at"
    acted: list[tuple[float, str, set[int]]] = []
    told = {
        a.payload["incident"]["recycle"]["id"] for a in stage.receiver.accepted() if a.payload["event"] == "recycle"
    }
    for episode, state, acted_at, lives in stage.rows(query):
        findings.episodes += 1
        if state not in ("cooldown", "escalated", "tripped"):
            problems.append(f"{episode} was left in state {state}")
        elif episode not in told:
            findings.lost += 1
            problems.append(f"nobody was told how {episode} ended")
        if acted_at is not None:
            acted.append((acted_at, episode, {life["pid"] for life in json.loads(lives)}))
    orders: Counter[tuple[str, tuple[int, ...]]] = Counter()
    for at, pids in stage.acts():
        findings.acts += 1
        meant = [episode for acted_at, episode, lives in acted if acted_at <= at and lives >= set(pids)]
        if not meant:
            problems.append(f"an act on {pids} belongs to no episode")
            continue
        orders[meant[-1], pids if one_by_one else ()] += 1
    findings.double_acts = sum(count - 1 for count in orders.values())
    problems += [f"{episode} acted {count} times" for (episode, _), count in orders.items() if count > 1]
    return problems


def check_left_overs(stage: Stage) -> list[str]:
    """No process of ours but the server, no lock that is held."""
    stage.wait_for(lambda: not stage.marked(), ORPHANS_S, every_s=0.1)
    problems = [f"process {pid} was left behind: {_command_line(pid)}" for pid in stage.marked()]
    return problems + [f"{path.name} is still held" for path in stage.folder.glob("*.lock") if is_held(path)]


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return "(gone)"
