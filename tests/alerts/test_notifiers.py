"""Notifiers against a real HTTP receiver: what is sent, what each answer means, and that no secret gets out."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import traceback
from dataclasses import replace
from email.utils import formatdate

import httpx
import pytest
from ports import free_port

from alerts.incident import Event
from alerts.message import slack_payload, trial_message, webhook_payload
from alerts.notifiers import NOTIFIERS
from alerts.notifiers.delivery import DeliveryError, Route, recipients
from alerts.notifiers.post import parse_retry_after
from alerts.notifiers.slack import SlackNotifier
from alerts.notifiers.webhook import WebhookNotifier
from baselines.verdict import Level

NOW = 1_800_000_000.0
MESSAGE = trial_message("ops", now=NOW)


def a_notifier(kind: str, url: str, transport: httpx.BaseTransport, **more) -> SlackNotifier | WebhookNotifier:
    return NOTIFIERS[kind](name="ops", url=url, transport=transport, now=lambda: NOW, **more)


def failure(notifier: SlackNotifier | WebhookNotifier) -> DeliveryError:
    with pytest.raises(DeliveryError) as caught:
        notifier.send(notifier.render(MESSAGE), key="k1")
    return caught.value


class TestWhatIsSent:
    def test_slack_gets_block_kit_as_json(self, receiver, transport) -> None:
        """The body is the Slack payload, nothing else."""
        notifier = a_notifier("slack", receiver.url, transport)
        notifier.send(notifier.render(MESSAGE), key="k1")
        (received,) = receiver.wait_for(1)
        assert json.loads(received.body) == slack_payload(MESSAGE)
        assert received.headers["Content-Type"] == "application/json"

    def test_the_webhook_carries_key_and_signature_of_the_exact_bytes(self, receiver, transport) -> None:
        """A receiver can drop repeats and check who sent it."""
        notifier = a_notifier("webhook", receiver.url, transport, secret="s3cret")
        notifier.send(notifier.render(MESSAGE), key="k1")
        (received,) = receiver.wait_for(1)
        digest = hmac.new(b"s3cret", received.body, hashlib.sha256).hexdigest()
        assert json.loads(received.body) == webhook_payload(MESSAGE)
        assert received.headers["Idempotency-Key"] == "k1"
        assert received.headers["X-Watchdog-Signature"] == f"sha256={digest}"

    def test_without_a_secret_there_is_no_signature(self, receiver, transport) -> None:
        """An empty key would be a signature that anybody can make."""
        notifier = a_notifier("webhook", receiver.url, transport)
        notifier.send(notifier.render(MESSAGE), key="k1")
        assert "X-Watchdog-Signature" not in receiver.wait_for(1)[0].headers


@pytest.mark.parametrize("kind", list(NOTIFIERS))
class TestAnswers:
    @pytest.mark.parametrize("status", [200, 201, 202, 204])
    def test_2xx_is_taken(self, kind, status, reply, receiver, transport) -> None:
        """The receiver has it."""
        receiver.replies.append(reply(status, body=b""))
        notifier = a_notifier(kind, receiver.url, transport)
        notifier.send(notifier.render(MESSAGE), key="k1")

    @pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
    def test_temporary_answers_are_tried_again(self, kind, status, reply, receiver, transport) -> None:
        """The receiver may take it later."""
        receiver.replies.append(reply(status))
        error = failure(a_notifier(kind, receiver.url, transport))
        assert (error.permanent, error.retry_after_s) == (False, None)
        assert str(status) in error.reason

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 410, 413, 422])
    def test_other_4xx_are_final(self, kind, status, reply, receiver, transport) -> None:
        """The same request would be refused again."""
        receiver.replies.append(reply(status))
        assert failure(a_notifier(kind, receiver.url, transport)).permanent

    @pytest.mark.parametrize("status", [301, 302, 307, 308])
    def test_a_redirect_is_not_followed(self, *, kind, status, reply, receiver, other_receiver, transport) -> None:
        """An alert goes where it was configured to go, and nowhere else."""
        receiver.replies.append(reply(status, headers={"Location": other_receiver.url}))
        error = failure(a_notifier(kind, receiver.url, transport))
        assert error.permanent
        assert "redirect" in error.reason
        assert other_receiver.received == []

    def test_retry_after_in_seconds_and_as_a_date(self, kind, reply, receiver, transport) -> None:
        """Both forms of RFC 9110."""
        receiver.replies.append(reply(429, headers={"Retry-After": "17"}))
        receiver.replies.append(reply(503, headers={"Retry-After": formatdate(NOW + 90, usegmt=True)}))
        notifier = a_notifier(kind, receiver.url, transport)
        assert [failure(notifier).retry_after_s, failure(notifier).retry_after_s] == [17.0, 90.0]

    def test_a_receiver_that_hangs_is_given_up_in_time(self, kind, reply, receiver, transport) -> None:
        """A time-out is temporary and says how long was waited."""
        receiver.replies.append(reply(hang=True))
        error = failure(a_notifier(kind, receiver.url, transport, timeout_s=0.2))
        assert (error.permanent, error.reason) == (False, "no complete answer within 0.2 s")

    def test_nobody_listening_is_temporary(self, kind, transport) -> None:
        """Receivers are restarted, too."""
        url = f"http://127.0.0.1:{free_port()}/hook"
        assert not failure(a_notifier(kind, url, transport)).permanent

    @pytest.mark.parametrize("url", ["ftp://127.0.0.1/x", "127.0.0.1/x", "http://[::1/x", f"http://{'a' * 70}/x"])
    def test_an_impossible_url_is_final(self, kind, url, transport) -> None:
        """Only a person can mend it."""
        assert failure(a_notifier(kind, url, transport)).permanent


@pytest.mark.parametrize(
    ("status", "code", "advice"),
    [
        (404, b"no_service", "answered 404 no_service: the webhook was removed or disabled; create a new incoming"),
        (403, b"action_prohibited", "an administrator forbids posting"),
        (403, b"", "answered 403: posting is forbidden"),
        (400, b"invalid_payload", "please report it"),
        (410, b"channel_is_archived", "unarchive it"),
    ],
)
def test_slack_says_what_a_person_can_do(*, status, code, advice, reply, receiver, transport) -> None:
    """A dead letter is read by somebody who must fix it."""
    receiver.replies.append(reply(status, body=code))
    error = failure(a_notifier("slack", receiver.url, transport))
    assert error.permanent
    assert advice in error.reason


@pytest.mark.parametrize("kind", list(NOTIFIERS))
@pytest.mark.parametrize("case", ["refused", "hang", "404", "echo", "redirect", "bad_url"])
def test_no_secret_in_errors_logs_tracebacks_or_reprs(*, kind, case, reply, receiver, transport, caplog) -> None:
    """A webhook's URL and the signing secret are passwords."""
    caplog.set_level(logging.INFO)  # below it httpcore writes down whole answers, and a receiver may echo its URL
    url = {"refused": "http://127.0.0.1:9/the-secret-part", "bad_url": "http://[::1/the-secret-part"}.get(
        case, receiver.url
    )
    receiver.replies.append(
        {
            "hang": reply(hang=True),
            "404": reply(404),
            "echo": reply(400, body=f"cannot POST {receiver.url}".encode()),
            "redirect": reply(302, headers={"Location": receiver.url}),
        }.get(case, reply(500))
    )
    notifier = a_notifier(kind, url, transport, secret="s3cret", timeout_s=0.2)
    error = failure(notifier)
    told = [error.reason, str(error), repr(error), repr(notifier), "".join(traceback.format_exception(error))]
    for text in [*told, caplog.text]:
        assert "the-secret-part" not in text
        assert "s3cret" not in text


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("0", 0.0),
        (" 120 ", 120.0),
        (formatdate(NOW + 60, usegmt=True), 60.0),
        (formatdate(NOW - 60, usegmt=True), 0.0),
        ("Fri, 99 Jan 2027 08:00:00 GMT", None),
    ],
)
def test_retry_after_reads_what_rfc_9110_allows(value, expected) -> None:
    """Anything else is as if it had not been said."""
    assert parse_retry_after(value, now=NOW) == expected


class TestRecipients:
    def routes(self, transport: httpx.BaseTransport) -> list[Route]:
        def one(name: str) -> WebhookNotifier:
            return WebhookNotifier(name=name, url="http://127.0.0.1:9/", transport=transport, now=lambda: NOW)

        return [
            Route(notifier=one("all"), min_level=Level.INFO),
            Route(notifier=one("pager"), min_level=Level.PAGE),
            Route(notifier=one("chat"), targets=frozenset({"chat"})),
        ]

    @pytest.mark.parametrize(
        ("event", "level", "target", "muted", "told", "expected"),
        [
            ("firing", "info", "chat", False, (), {"all"}),
            ("firing", "watch", "chat", False, (), {"all", "chat"}),
            ("firing", "urgent", "chat", False, (), {"all", "chat", "pager"}),
            ("reminder", "page", "other", False, (), {"all", "pager"}),
            ("firing", "urgent", "chat", True, (), set()),
            ("resolved", "info", "chat", True, ("pager",), {"pager"}),
            ("resolved", "urgent", "chat", False, (), set()),
            ("resolved", "urgent", "chat", False, ("all", "gone"), {"all"}),
        ],
    )
    def test_who_is_told(self, *, event, level, target, muted, told, expected, transport) -> None:
        """Level and target are each notifier's choice; the end goes to those who heard the beginning."""
        message = replace(MESSAGE, event=Event(event), level=Level(level), target=target)
        chosen = recipients(message, self.routes(transport), told=frozenset(told), muted=muted)
        assert {route.notifier.name for route in chosen} == expected
