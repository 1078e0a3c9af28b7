"""The generic webhook: the JSON of design section 3, signed when a secret is configured."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from typing import Any

import httpx

from alerts.message import Message, webhook_payload
from alerts.notifiers.post import post


class WebhookNotifier:
    """POSTs to any URL. A receiver that keeps the Idempotency-Key of what it took sees each message once."""

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
        self.name = name
        self.timeout_s = timeout_s
        self._url = url
        self._transport = transport
        self._now = now
        self._secret = secret

    def __repr__(self) -> str:
        return f"WebhookNotifier(name={self.name!r})"

    def render(self, message: Message) -> dict[str, Any]:
        return webhook_payload(message)

    def send(self, payload: Mapping[str, Any], *, key: str) -> None:
        body = json.dumps(payload, ensure_ascii=False, allow_nan=False).encode()
        headers = {"Idempotency-Key": key}
        if self._secret is not None:
            headers["X-Watchdog-Signature"] = sign(body, self._secret)
        post(self._transport, self._url, body, headers=headers, timeout_s=self.timeout_s, now=self._now)


def sign(body: bytes, secret: str) -> str:
    """The X-Watchdog-Signature of these exact bytes. Compare with `hmac.compare_digest` on the receiver's side."""
    return f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}"
