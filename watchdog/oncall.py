"""What a person on call may change: take an incident on, keep quiet for a while, end that.

The command line and the web side do the same through these functions. What people write goes on record as one
printable line.
"""

from __future__ import annotations

from alerts import store as alert_store
from alerts.incident import Incident
from alerts.store import EVERYTHING, Silence
from baselines.database import Database
from baselines.verdict import Check
from probes.printable import one_line
from watchdog.config import Config

MAX_NAME_CHARS = 64
MAX_WHY_CHARS = 500
MAX_ID = 2**63 - 1  # of SQLite


class NotThere(Exception):  # noqa: N818  (the name says what happened)
    """There is no such incident or silence; the message names it."""


def acknowledge(database: Database, incident_id: str, *, by: str, now: float) -> Incident:
    """Note who is on it: no more reminders. Raises NotThere, and IllegalSignal when it is not open."""
    with database.write(durable=True) as connection:
        incident = alert_store.ack_incident(connection, incident_id, by=one_line(by, limit=MAX_NAME_CHARS), now=now)
    if incident is None:
        raise NotThere(f"there is no incident {incident_id!r}")
    return incident


def add_silence(
    database: Database,
    config: Config,
    *,
    target: str,
    check: Check | None,
    length_s: float,
    why: str,
    by: str,
    now: float,
) -> Silence:
    """Keep quiet about a target ("*": all) and a check (None: all) from now on. Returns the silence with its id.

    Raises ConfigError for a target that is not configured.
    """
    if target != EVERYTHING:
        config.find(target)
    silence = Silence(
        target=target,
        check=check or EVERYTHING,
        from_at=now,
        until_at=now + length_s,
        by=one_line(by, limit=MAX_NAME_CHARS),
        why=one_line(why, limit=MAX_WHY_CHARS),
    )
    with database.write(durable=True) as connection:
        return alert_store.add_silence(connection, silence)


def end_silence(database: Database, silence_id: int, *, now: float) -> None:
    """End it now. Raises NotThere when none of that id holds now."""
    ended = False
    if 0 < silence_id <= MAX_ID:
        with database.write(durable=True) as connection:
            ended = alert_store.end_silence(connection, silence_id, now=now)
    if not ended:
        raise NotThere(f"no silence {silence_id} holds now")


def list_silences(database: Database, *, now: float) -> list[Silence]:
    """Those that hold now, by their beginning."""
    with database.read() as connection:
        return alert_store.list_silences(connection, now=now)
