"""`watchdog notify test`: does it really reach you?"""

from __future__ import annotations

import time
from typing import Annotated

import typer

from alerts.message import trial_message
from alerts.notifiers.delivery import DeliveryError
from alerts.notifiers.transport import SharedTransport
from watchdog.bootstrap import build_notifier, new_id
from watchdog.cli.session import DEFAULT_CONFIG, ConfigPath, ExitCode, Json, Refused, out, print_json
from watchdog.config import load_config


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="Notifiers.", no_args_is_help=True)
    group.callback()(lambda: None)
    group.command("test")(send_test)
    app.add_typer(group, name="notify")


def send_test(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One notifier; all without it.")] = None,
    config: ConfigPath = DEFAULT_CONFIG,
    json: Json = False,
) -> None:
    """Send a test message, once, and say what the receiver answered. Exit codes: 0 taken, 2 not taken."""
    parsed = load_config(config)
    chosen = [n for n in parsed.notifier if name in (None, n.name)]
    if not chosen:
        names = ", ".join(n.name for n in parsed.notifier) or "none"
        raise Refused(f"no notifier is named {name!r}; there are: {names}" if name else "no [[notifier]] is configured")
    transport = SharedTransport()
    results = []
    for section in chosen:
        notifier = build_notifier(section, transport)
        try:
            payload = notifier.render(trial_message(section.name, now=time.time()))
            notifier.send(payload, key=new_id("test"))
        except DeliveryError as error:
            results.append({"notifier": section.name, "taken": False, "detail": error.reason})
        else:
            results.append({"notifier": section.name, "taken": True, "detail": "taken"})
    transport.close()
    if json:
        print_json(results)
    else:
        for result in results:
            out.print(f"{'ok  ' if result['taken'] else 'FAIL'} {result['notifier']}: {result['detail']}", markup=False)
    raise typer.Exit(ExitCode.FINE if all(r["taken"] for r in results) else ExitCode.WORSE)
