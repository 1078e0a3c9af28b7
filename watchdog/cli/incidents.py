"""`watchdog incidents`: what is wrong, what was told, who is on it."""

from __future__ import annotations

import getpass
import time
from dataclasses import asdict
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from alerts import recycle_store
from alerts import store as alert_store
from alerts.delivery_store import list_deliveries
from alerts.incident import IllegalSignal, Incident
from watchdog import oncall
from watchdog.cli.session import DEFAULT_CONFIG, ConfigPath, Json, Refused, clock, opened, out, print_json
from watchdog.web.page import duration

IncidentId = Annotated[str, typer.Argument(metavar="ID")]


class ListByDefault(TyperGroup):
    """`watchdog incidents` lists; `show` and `ack` are commands of their own."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] != "--help"):
            args = ["list", *args]
        return super().parse_args(ctx, args)


def register(app: typer.Typer) -> None:
    group = typer.Typer(cls=ListByDefault, help="List incidents, open ones first; show or acknowledge one.")
    group.command("list")(list_incidents)
    group.command()(show)
    group.command()(ack)
    app.add_typer(group, name="incidents")


def list_incidents(
    config: ConfigPath = DEFAULT_CONFIG,
    target: Annotated[str | None, typer.Option(help="Only this target.")] = None,
    only_open: Annotated[bool, typer.Option("--open", help="Only what is pending or firing.")] = False,
    json: Json = False,
) -> None:
    """List incidents (the default command)."""
    with opened(config) as (parsed, database), database.read() as connection:
        found = alert_store.list_incidents(connection, target=target, only_open=only_open)
        if target is not None and not found:
            parsed.find(target)  # an incident may outlive its target's place in the configuration
    if json:
        print_json(found, list[Incident])
        return
    if not found:
        out.print("no incidents")
    for i in found:
        lasted = duration((i.resolved_at or time.time()) - i.since)
        acked = f"  on it: {i.acked_by}" if i.acked_by else ""
        out.print(
            f"{i.id}  {i.state:<8} {i.level:<6} {i.target} {i.check} ({i.subject}): {i.reason.replace('_', ' ')},"
            f" cause {i.cause}, since {clock(i.since)} ({lasted}){acked}",
            markup=False,
        )


def show(incident_id: IncidentId, config: ConfigPath = DEFAULT_CONFIG, json: Json = False) -> None:
    """Show one incident with its evidence, its messages and its recycles."""
    with opened(config) as (_, database), database.read() as connection:
        incident = alert_store.find_incident(connection, incident_id)
        if incident is None:
            raise Refused(f"there is no incident {incident_id!r}; see: watchdog incidents")
        deliveries = list_deliveries(connection, incident_id=incident_id)
        episodes = [e for e in recycle_store.list_episodes(connection, incident.target) if e.incident_id == incident_id]
    if json:
        print_json(
            {
                "incident": asdict(incident),
                "deliveries": [asdict(d) for d in deliveries],
                "recycles": [asdict(e) for e in episodes],
            },
            Any,
        )
        return
    out.print(f"{incident.id}: {incident.target} {incident.check} ({incident.subject})", markup=False)
    rows = {
        "state": incident.state,
        "level": incident.level,
        "reason": incident.reason.replace("_", " "),
        "cause": incident.cause,
        "since": clock(incident.since),
        "fired": clock(incident.fired_at),
        "resolved": clock(incident.resolved_at),
        "on it": incident.acked_by or "-",
        "worker": incident.life or "-",
        **{k: v for k, v in incident.evidence.items() if v is not None},
    }
    for name, value in rows.items():
        out.print(f"  {name:<22} {value:.6g}" if isinstance(value, float) else f"  {name:<22} {value}", markup=False)
    for d in reversed(deliveries):
        ended = f"sent {clock(d.sent_at)}" if d.sent_at else d.state
        problem = f" ({d.last_error})" if d.last_error else ""
        out.print(f"  told {d.notifier}: {d.event}, {ended}, attempts {d.attempts}{problem}", markup=False)
    for e in reversed(episodes):
        out.print(f"  recycle {e.id}: {e.outcome or e.state}", markup=False)
        for s in e.steps:
            out.print(f"    {clock(s.at)} {s.state}{': ' + s.detail if s.detail else ''}", markup=False)


def ack(incident_id: IncidentId, config: ConfigPath = DEFAULT_CONFIG, json: Json = False) -> None:
    """Say that you are on it: no more reminders until it gets worse or comes back."""
    with opened(config) as (_, database):
        try:
            incident = oncall.acknowledge(database, incident_id, by=getpass.getuser(), now=time.time())
        except oncall.NotThere as error:
            raise Refused(f"{error}; see: watchdog incidents") from error
        except IllegalSignal as error:
            raise Refused(str(error)) from error
    if json:
        print_json(incident, Incident)
    else:
        out.print(f"{incident.id} is {incident.acked_by}'s now", markup=False)
