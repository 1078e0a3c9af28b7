"""Slack, through an incoming webhook. The URL is the secret: whoever has it can post."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import httpx

from alerts.message import Message, slack_payload
from alerts.notifiers.post import post

_NEW_WEBHOOK = "create a new incoming webhook in Slack and configure its URL"
_ADVICE: Mapping[str, str] = {  # docs.slack.dev, "Sending messages using incoming webhooks": handling errors
    "no_service": f"the webhook was removed or disabled; {_NEW_WEBHOOK}",
    "no_service_id": f"the URL is incomplete; {_NEW_WEBHOOK}",
    "no_team": f"the workspace does not exist (any more); {_NEW_WEBHOOK}",
    "team_disabled": "the workspace is disabled; ask its administrators",
    "invalid_token": f"the URL is not (or no longer) valid; {_NEW_WEBHOOK}",
    "action_prohibited": "an administrator forbids posting by this webhook; ask them to allow it",
    "posting_to_general_channel_denied": "only some people may post in #general; choose another channel",
    "channel_not_found": f"its channel was deleted; {_NEW_WEBHOOK}",
    "channel_is_archived": f"its channel is archived; unarchive it, or {_NEW_WEBHOOK}",
    "user_not_found": f"the person it posts to is gone; {_NEW_WEBHOOK}",
    "invalid_payload": "Slack did not understand the message; this is a fault of the watchdog, please report it",
    "invalid_blocks": "Slack did not accept the message's blocks; this is a fault of the watchdog, please report it",
}
_ADVICE_BY_STATUS: Mapping[int, str] = {
    400: "Slack did not understand the message",
    403: f"posting is forbidden; ask the workspace's administrators, or {_NEW_WEBHOOK}",
    404: f"no such webhook; {_NEW_WEBHOOK}",
    410: f"the webhook is gone; {_NEW_WEBHOOK}",
}


class SlackNotifier:
    """Slack has no idempotency key: after a crash between sending and noting it down, a message may come twice."""

    def __init__(
        self,
        *,
        name: str,
        url: str,
        transport: httpx.BaseTransport,
        now: Callable[[], float],
        secret: str | None = None,
        timeout_s: float = 10.0,
    ) -> None:
        """secret is not used: the URL is one. Raises nothing; a bad URL shows at the first delivery."""
        del secret
        self.name = name
        self.timeout_s = timeout_s
        self._url = url
        self._transport = transport
        self._now = now

    def __repr__(self) -> str:
        return f"SlackNotifier(name={self.name!r})"

    def render(self, message: Message) -> dict[str, Any]:
        return slack_payload(message)

    def send(self, payload: Mapping[str, Any], *, key: str) -> None:  # noqa: ARG002  (nowhere to put it)
        body = json.dumps(payload, ensure_ascii=False, allow_nan=False).encode()
        post(self._transport, self._url, body, headers={}, timeout_s=self.timeout_s, now=self._now, hint=advise)


def advise(status: int, code: str) -> str:
    """What a person can do about Slack's answer; empty when nothing (Slack's own trouble)."""
    return _ADVICE.get(code) or _ADVICE_BY_STATUS.get(status, "")
