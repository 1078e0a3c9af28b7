"""The local receiver of the demo's messages, over real HTTP."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import httpx
import pytest

from watchdog.demo.receiver import MAX_BODY_BYTES, Receiver


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running


def _post(receiver: Receiver, payload: object, **headers: str) -> httpx.Response:
    return httpx.post(receiver.url, json=payload, headers=headers, trust_env=False)


def test_message_is_answered_ok_and_kept(receiver: Receiver) -> None:
    """Payload, path and headers are there afterwards."""
    answer = _post(receiver, {"text": "hello"}, **{"Idempotency-Key": "k1"})

    assert (answer.status_code, answer.text) == (200, "ok")
    (received,) = receiver.received
    assert received.payload == {"text": "hello"}
    assert received.headers["idempotency-key"] == "k1"
    assert receiver.url.endswith(received.path)


@pytest.mark.parametrize(
    ("body", "word"),
    [
        pytest.param(b"", "invalid_payload", id="empty"),
        pytest.param(b"{", "invalid_payload", id="not JSON"),
        pytest.param(b"[1]", "invalid_payload", id="not an object"),
        pytest.param(b'{"channel": "x"}', "no_text", id="nothing to show"),
        pytest.param(b" " * (MAX_BODY_BYTES + 1), "invalid_payload", id="too large"),
    ],
)
def test_what_slack_would_refuse_is_refused_and_not_kept(receiver: Receiver, body: bytes, word: str) -> None:
    """A malformed message must not pass here and fail in earnest."""
    answer = httpx.post(receiver.url, content=body, trust_env=False)

    assert (answer.status_code, answer.text) == (400, word)
    assert receiver.received == ()


def test_wait_finds_a_message_that_is_there_already(receiver: Receiver) -> None:
    """Waiting after the fact works too."""
    _post(receiver, {"text": "one"})

    found = receiver.wait_for(lambda r: r.payload["text"] == "one", timeout_s=0.0)

    assert found is receiver.received[0]


def test_wait_ends_when_the_message_comes(receiver: Receiver) -> None:
    """A waiter is woken by the message it waits for, not by another."""
    sender = threading.Thread(target=lambda: [_post(receiver, {"text": text}) for text in ("other", "wanted")])
    sender.start()

    found = receiver.wait_for(lambda r: r.payload["text"] == "wanted", timeout_s=30.0)
    sender.join()

    assert found is not None
    assert found.payload == {"text": "wanted"}


def test_wait_gives_up_at_its_deadline_and_ignores_what_came_before_start(receiver: Receiver) -> None:
    """None says that nothing came in time; `start` leaves out earlier messages."""
    _post(receiver, {"text": "one"})

    assert receiver.wait_for(lambda r: True, timeout_s=0.05, start=1) is None


def test_closed_receiver_no_longer_listens() -> None:
    """Nothing stays behind."""
    with Receiver() as receiver:
        url = receiver.url

    with pytest.raises(httpx.ConnectError):
        httpx.post(url, json={"text": "late"}, trust_env=False)
