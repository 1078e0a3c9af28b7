"""Ways to tell people. A new one is a file here and a line in NOTIFIERS."""

from __future__ import annotations

from collections.abc import Mapping

from alerts.notifiers.slack import SlackNotifier
from alerts.notifiers.webhook import WebhookNotifier

NOTIFIERS: Mapping[str, type[SlackNotifier | WebhookNotifier]] = {
    "slack": SlackNotifier,
    "webhook": WebhookNotifier,
}
"""By the configuration's `kind`; all take name, url, transport, now, secret, timeout_s."""
