"""What people read, word for word, for each check; and what the two renderings promise."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerts import wording
from alerts.episode import INEFFECTIVE, GateReason, Outcome
from alerts.incident import Event, Incident, State, StepReason
from alerts.leak_words import say_appearance
from alerts.magnitude import say_left, say_magnitude
from alerts.message import (
    Message,
    incident_message,
    recycle_message,
    slack_payload,
    trial_message,
    webhook_payload,
)
from baselines.verdict import Cause, Check, Level, Reason, Status

NOW = 1_800_000_000.0  # 15 January 2027, 08:00:00 UTC


def an_incident(
    check: Check, reason: Reason, evidence: Mapping[str, float | int | str | None], **more: object
) -> Incident:
    values: dict[str, object] = {
        "id": "20270115-3f9a2c",
        "target": "chat",
        "check": check,
        "subject": "default",
        "state": State.FIRING,
        "status": Status.WORSE,
        "reason": reason,
        "cause": Cause.MODEL,
        "level": Level.PAGE,
        "since": NOW - 720,
        "opened_at": NOW - 700,
        "updated_at": NOW,
        "fired_at": NOW,
        "told_at": NOW,
        "strikes": (1,),
        "evidence": evidence,
    }
    return Incident(**values | more)  # type: ignore[arg-type]


SLOW = an_incident(
    Check.LATENCY,
    Reason.REGRESSED,
    {
        "ratio": 1.31,
        "ratio_low": 1.23,
        "ratio_high": 1.39,
        "floor_ratio": 1.3,
        "control_ratio": 1.01,
        "p95_s": 0.1312,
        "baseline_p95_s": 0.1,
        "samples": 50,
        "channel": "whole",
    },
)
LEAKING = an_incident(
    Check.MEMORY,
    Reason.LEAKING,
    {
        "channel": "host_anon_bytes",
        "samples": 240,
        "capacity_bytes": 8_000_000_000,
        "slope_bytes_per_hour": 1.2e8,
        "slope_low": 1.1e8,
        "slope_high": 1.3e8,
        "gain_bytes": 4.1e8,
        "used_bytes": 6.1e9,
        "seconds_to_capacity": 12_000.0,
        "seconds_to_capacity_low": 10_200.0,
        "seconds_to_capacity_high": 14_400.0,
    },
    subject="slot 0",
    level=Level.URGENT,
)
HUNG = an_incident(
    Check.AVAILABILITY,
    Reason.TIMEOUT,
    {
        "samples": 1,
        "answered": 0,
        "failed": 1,
        "busy": 0,
        "seconds_since_good": 312.0,
        "workers_alive": 1,
        "worker_cpu": 0.003,
        "outcome": "timeout",
        "detail": "no answer within 10 s",
    },
    strikes=(1, 0, 1, 1),
)
WRONG = an_incident(
    Check.OUTPUT,
    Reason.DRIFTED,
    {
        "samples": 10,
        "wrong": 10,
        "outcome": "drifted",
        "detail": "cosine 0.71 to the golden output, at least 0.999 is allowed",
        "changed": "model_version: 1.4 -> 1.5",
    },
    cause=Cause.VERSION_CHANGED,
    strikes=(2,),
)
BEHIND = an_incident(
    Check.LATENCY,
    Reason.SLOWER_THAN_PEERS,
    {
        "replica": 3,
        "replicas": 4,
        "gpu_type": "NVIDIA L4",
        "peers": 3,
        "ratio": 1.24,
        "ratio_low": 1.17,
        "ratio_high": 1.31,
        "bursts": 60,
        "floor_ratio": 1.22,
        "p95_s": 0.062,
        "peers_p95_s": 0.0503,
        "differs": "model_version 2 (peers: 1)",
    },
    cause=Cause.UNKNOWN,
    subject="peers default",
)
REMAP = an_incident(
    Check.GPU,
    Reason.MEMORY_REPAIR_PENDING,
    {
        "detail": "row remap pending: needs a GPU reset; a recycle cannot help",
        "also": "pcie degraded",
        "device": "NVIDIA H100",
        "uuid": "GPU-5c1f",
    },
    cause=Cause.HARDWARE,
    subject="gpu 3",
)

VERIFIED = {
    "id": "r1",
    "target": "chat",
    "trigger": "incident",
    "reason": "regressed",
    "state": "cooldown",
    "outcome": "verified",
    "detail": "default at 1.01 x its baseline",
    "requested_at": NOW,
    "acted_at": NOW + 100,
    "ended_at": NOW + 160,
    "evidence": {"before_memory_bytes": 6_100_000_000, "after_memory_bytes": 2e9, "after_median_s.default": 0.1007},
}
NEXT = "Next: watchdog incidents show 20270115-3f9a2c | watchdog history chat"


def firing(incident: Incident, **more: object) -> Message:
    values: dict[str, object] = {"why": StepReason.FIRED, "now": NOW, "mode": "alert", "has_recycler": True}
    return incident_message(incident, Event.FIRING, **values | more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (10_200.0, 14_400.0, "full in 3 h 20 min (2 h 50 min to 4 h)"),
        (10_200.0, None, "full in 3 h 20 min (2 h 50 min or later)"),
        (None, None, "full in 3 h 20 min at this rate"),
    ],
)
def test_a_date_says_how_sure_it_is(low: float | None, high: float | None, said: str) -> None:
    """Where no late end is known, at least so long; where nothing is, only the rate."""
    left = {"seconds_to_capacity": 12_000.0, "seconds_to_capacity_low": low, "seconds_to_capacity_high": high}
    assert say_left(left) == said
    assert say_left({}) == ""


@pytest.mark.parametrize(
    ("incident", "text"),
    [
        pytest.param(
            SLOW,
            "PAGE: chat is slower than its baseline\n"
            "Latency of chat (canary default): p95 is 1.31 x its baseline (interval 1.23 to 1.39),"
            " 131 ms against 100 ms, every request is slower.\n"
            "Since: 07:48 UTC, 12 min ago\n"
            "Likely cause: the model or its server\n"
            "Figures: floor ratio 1.30, control ratio 1.01, samples 50\n"
            'Done: Nothing: it would be recycled, but mode = "alert".\n' + NEXT,
            id="latency",
        ),
        pytest.param(
            BEHIND,
            "PAGE: chat is slower than its peers\n"
            "Latency of chat (canary default): replica 3 of 4 is 24% slower than its 3 peers on the same GPU type,"
            " NVIDIA L4 (interval 17% to 31%), p95 62 ms against 50.3 ms.\n"
            "Since: 07:48 UTC, 12 min ago\n"
            "Likely cause: not known\n"
            "Figures: bursts 60, floor ratio 1.22, differs: model_version 2 (peers: 1)\n"
            "Done: Nothing: only a fault of the model or its server is recycled.\n" + NEXT,
            id="peers",
        ),
        pytest.param(
            LEAKING,
            "URGENT: chat leaks memory\n"
            "Memory of chat (slot 0): grows by 120 MB/h (interval 110 MB to 130 MB), host memory, 6.1 GB of 8 GB used,"
            " full in 3 h 20 min (2 h 50 min to 4 h).\n"
            "Since: 07:48 UTC, 12 min ago\n"
            "Likely cause: the model or its server\n"
            "Figures: samples 240, gain 410 MB\n"
            'Done: Nothing: it would be recycled, but mode = "alert".\n' + NEXT,
            id="memory",
        ),
        pytest.param(
            HUNG,
            "PAGE: chat does not answer in time\n"
            "Availability of chat (canary default): 3 of the last 4 bursts were bad. No answer within 10 s.\n"
            "Since: 07:48 UTC, 12 min ago\n"
            "Likely cause: the model or its server\n"
            "Figures: samples 1, answered 0, failed 1, busy 0, time since good 5 min, workers alive 1,"
            " worker CPU 0% of a core, outcome: timeout\n"
            'Done: Nothing: it would be recycled, but mode = "alert".\n' + NEXT + " | watchdog canary chat",
            id="availability",
        ),
        pytest.param(
            WRONG,
            "PAGE: chat answers differently from its golden output\n"
            "Output of chat (canary default): answers differently from its golden output."
            " Cosine 0.71 to the golden output, at least 0.999 is allowed.\n"
            "Since: 07:48 UTC, 12 min ago\n"
            "Likely cause: a version that changed since the baseline (model_version: 1.4 -> 1.5)\n"
            "Figures: samples 10, wrong 10, outcome: drifted\n"
            "Done: Nothing: only a fault of the model or its server is recycled.\n" + NEXT + " | watchdog canary chat",
            id="output",
        ),
        pytest.param(
            REMAP,
            "PAGE: chat is on a GPU whose memory waits for a repair\n"
            "GPU of chat (gpu 3): is on a GPU whose memory waits for a repair."
            " Row remap pending: needs a GPU reset; a recycle cannot help.\n"
            "Since: 07:48 UTC, 12 min ago\n"
            "Likely cause: the GPU, its driver or other hardware\n"
            "What to do: Drain the GPU and reset it soon: nvidia-smi --gpu-reset -i 3.\n"
            "Figures: also: pcie degraded, device: NVIDIA H100, uuid: GPU-5c1f\n"
            "Done: Nothing: only a fault of the model or its server is recycled.\n" + NEXT,
            id="gpu",
        ),
    ],
)
def test_what_somebody_reads_at_three_in_the_morning(incident: Incident, text: str) -> None:
    """What, how much with its interval, since when, likely cause, what was done, what to look at next."""
    assert firing(incident).text == text


@pytest.mark.parametrize(("channel", "words"), [("fds", "leaks file descriptors"), ("threads", "leaks threads")])
def test_what_is_counted_is_not_called_memory(channel: str, words: str) -> None:
    """Whoever is woken looks for connections, not for tensors; neither is the end told of memory."""
    counted = {"channel": channel, "slope_per_hour": 60.0, "used": 900.0, "kind": "descriptors"}
    leaking = replace(LEAKING, evidence=counted)
    assert firing(leaking).title == f"URGENT: chat {words}"
    over = incident_message(leaking, Event.RESOLVED, why=StepReason.RECOVERED, now=NOW)
    assert over.sentence.endswith(f"The alert said: chat {words}.")


def test_a_leak_that_a_low_load_hides_says_so() -> None:
    """Its slope is of the day before, what is in use of now."""
    evidence = {"slope_bytes_per_hour": 60e6, "used_bytes": 4e9, "seconds_quiet": 7200.0}
    said = say_magnitude(Check.MEMORY, Reason.LEAKING, 1, evidence)
    assert said == "grows by 60 MB/h, as seen until 2 h ago: the load is too low since, 4 GB used"


def test_a_leak_below_teeth_says_what_it_was_told_from() -> None:
    """Whoever looks at the curve sees teeth; the slope is of what lies between them."""
    evidence = {"slope_bytes_per_hour": 60e6, "slope_low": 55e6, "slope_high": 65e6, "used_bytes": 4e9, "sweeps": 6}
    said = say_magnitude(Check.MEMORY, Reason.LEAKING, 1, evidence)
    assert said == "grows by 60 MB/h (interval 55 MB to 65 MB), by what its last 6 sweeps left, 4 GB used"


def test_a_version_that_shrank_did_not_grow() -> None:
    """A slope below nothing is no growth."""
    came = {"appeared_with": "0.24", "version_before": "0.23", "slope_before_bytes_per_hour": -3e6}
    assert say_appearance(came) == "It appeared with version 0.24: 0.23 grew by 0 B/h."


def test_a_limit_names_the_value_and_the_limit() -> None:
    """An absolute bound has no interval; it has two numbers."""
    slow = {"p95_s": 0.512, "limit_s": 0.4, "samples": 50}
    full = {"memory_ratio": 0.93, "limit_ratio": 0.9, "channel": "gpu_used_bytes"}
    assert say_magnitude(Check.LATENCY, Reason.LIMIT_EXCEEDED, (1,), slow) == "p95 is 512 ms, the limit is 400 ms"
    assert (
        say_magnitude(Check.MEMORY, Reason.LIMIT_EXCEEDED, (1,), full)
        == "93% of what it can have is used, the limit is 90%, GPU memory"
    )


@pytest.mark.parametrize(
    ("why", "event", "title"),
    [
        (StepReason.FIRED, Event.FIRING, "PAGE: chat is slower than its baseline"),
        (StepReason.ESCALATED, Event.FIRING, "NOW PAGE: chat is slower than its baseline"),
        (StepReason.REOPENED, Event.FIRING, "AGAIN PAGE: chat is slower than its baseline"),
        (StepReason.FLAPPING, Event.FIRING, "FLAPPING PAGE: chat is slower than its baseline"),
        (StepReason.UNTOLD, Event.FIRING, "PAGE: chat is slower than its baseline"),
        (StepReason.REPEAT_DUE, Event.REMINDER, "STILL PAGE: chat is slower than its baseline"),
        (StepReason.RECOVERED, Event.RESOLVED, "RESOLVED: chat is back within its baseline"),
        (StepReason.REMOVED, Event.RESOLVED, "CLOSED: chat (canary default) is no longer watched"),
    ],
)
def test_the_title_says_why_this_message_comes(why: StepReason, event: Event, title: str) -> None:
    """New, worse, again, flapping, still, over, gone."""
    assert incident_message(SLOW, event, why=why, now=NOW).title == title


@pytest.mark.parametrize(
    ("changes", "asked", "done"),
    [
        ({}, {"mode": "act"}, "A recycle was asked for."),
        (
            {},
            {"mode": "act", "gate": GateReason.CAUSE_NOT_MODEL},
            "Not recycled for now: the next verdicts must blame the model too.",
        ),
        ({}, {"has_recycler": False}, "Nothing: no [target.recycle] is configured."),
        ({"level": Level.WATCH}, {}, "Nothing: only page and urgent are acted on."),
        ({"cause": Cause.LOAD}, {"mode": "act"}, "Nothing: only a fault of the model or its server is recycled."),
        (
            {},
            {"episode": {"state": "blocked", "outcome": "blocked", "detail": "too_young"}},
            "Not recycled: the worker has only just started.",
        ),
        ({}, {"episode": {"state": "wait_ready", "outcome": None}}, "A recycle is under way (wait ready)."),
        ({}, {"episode": VERIFIED}, "It was recycled and is well again: default at 1.01 x its baseline."),
    ],
)
def test_what_was_done_or_why_not(changes: dict, asked: dict, done: str) -> None:
    """Recycled, would recycle, not allowed: always with the reason."""
    assert firing(replace(SLOW, **changes), **asked).done == done


def test_a_recycle_of_an_earlier_firing_is_not_said_to_have_helped() -> None:
    """It came back after that recycle: what counts is what is done about it now."""
    back = replace(SLOW, flaps=1, fired_at=NOW + 900)
    message = incident_message(
        back, Event.FIRING, why=StepReason.REOPENED, now=NOW + 900, mode="act", has_recycler=True, episode=VERIFIED
    )
    assert message.done == "A recycle was asked for."
    assert message.incident["recycle"] is None


def test_the_end_says_how_long_it_lasted_and_what_helped() -> None:
    """Somebody who was woken learns that it is over and why."""
    over = replace(SLOW, state=State.RESOLVED, status=Status.OK, good_in_a_row=3, resolved_at=NOW + 600)
    message = incident_message(over, Event.RESOLVED, why=StepReason.RECOVERED, now=NOW + 600, episode=VERIFIED)
    assert message.sentence == (
        "Latency of chat (canary default): good 3 times in a row. It lasted 22 min."
        " The alert said: chat is slower than its baseline."
    )
    assert message.done.startswith("It was recycled and is well again")


def test_the_end_of_a_comparison_speaks_of_the_peers() -> None:
    """There may be no baseline that it could be back in; and where the GPU's type is not known none is claimed."""
    over = replace(BEHIND, state=State.RESOLVED, status=Status.OK, good_in_a_row=3, resolved_at=NOW)
    message = incident_message(over, Event.RESOLVED, why=StepReason.RECOVERED, now=NOW)
    assert message.title == "RESOLVED: chat is no longer slower than its peers"
    evidence = {**BEHIND.evidence, "gpu_type": None, "p95_s": None}
    said = say_magnitude(Check.LATENCY, Reason.SLOWER_THAN_PEERS, (1,), evidence)
    assert said == "replica 3 of 4 is 24% slower than its 3 peers (interval 17% to 31%)"
    assert say_magnitude(Check.LATENCY, Reason.SLOWER_THAN_PEERS, (1,), {}) == ""


def test_a_recycle_reports_figures_before_and_after() -> None:
    """The proof that it helped travels with the message."""
    assert recycle_message(VERIFIED, incident=SLOW, now=NOW + 160).text == (
        "RECYCLE: chat was recycled and is well again\n"
        "Default at 1.01 x its baseline.\n"
        "Why: incident: regressed\n"
        "Acted: 08:01 UTC, 1 min ago, took 1 min\n"
        "Figures: before memory 6.1 GB, after memory 2 GB, after median 101 ms (default)\n" + NEXT
    )


@pytest.mark.parametrize("outcome", [*sorted(INEFFECTIVE), Outcome.INTERRUPTED])
def test_a_recycle_that_did_not_work_is_at_least_a_page(outcome: Outcome) -> None:
    """Also when age asked for it and no incident is open."""
    failed = VERIFIED | {"outcome": str(outcome), "trigger": "age", "reason": "max_age"}
    assert recycle_message(failed, incident=None, now=NOW).level is Level.PAGE
    assert recycle_message(VERIFIED, incident=None, now=NOW).level is Level.INFO


class TestWebhook:
    def test_has_exactly_the_keys_of_the_contract(self) -> None:
        """{"schema", "id", "event", "incident", "text"}, and an incident with every key."""
        payload = webhook_payload(firing(SLOW))
        assert list(payload) == ["schema", "id", "event", "incident", "text"]
        assert (payload["schema"], payload["event"]) == (1, "firing")
        assert {
            key: payload["incident"][key] for key in ("id", "target", "check", "status", "reason", "cause", "level")
        } == {
            "id": "20270115-3f9a2c",
            "target": "chat",
            "check": "latency",
            "status": "WORSE",
            "reason": "regressed",
            "cause": "model",
            "level": "page",
        }
        assert payload["incident"]["since"] == NOW - 720

    def test_every_event_carries_the_same_keys_of_an_incident(self) -> None:
        """A receiver reads incident.target without asking which event it is."""
        messages = [
            firing(SLOW),
            recycle_message(VERIFIED, incident=None, now=NOW),
            recycle_message(VERIFIED, incident=SLOW, now=NOW),
            trial_message("ops", now=NOW),
        ]
        keys = {frozenset(webhook_payload(message)["incident"]) for message in messages}
        assert len(keys) == 1
        assert webhook_payload(messages[1])["incident"]["target"] == "chat"

    def test_nan_and_infinity_become_null(self) -> None:
        """JSON has neither, and a strict receiver would refuse the whole message."""
        payload = webhook_payload(firing(replace(SLOW, evidence={"ratio": float("nan"), "p95_s": float("inf")})))
        assert json.loads(json.dumps(payload, allow_nan=False))["incident"]["evidence"] == {
            "ratio": None,
            "p95_s": None,
        }
        assert "nan" not in payload["text"]

    def test_the_same_telling_is_the_same_message(self) -> None:
        """The id is deterministic: telling twice at the same moment is one message."""
        assert firing(SLOW).id == firing(SLOW).id
        assert firing(SLOW).id != firing(SLOW, now=NOW + 1).id


class TestSlack:
    def test_block_kit_has_header_section_fields_and_context(self) -> None:
        """The message of design section 5, block by block."""
        payload = slack_payload(firing(SLOW))
        assert payload == {
            "text": firing(SLOW).text,
            "blocks": [
                {
                    "type": "header",
                    "text": {
                        "type": "plain_text",
                        "text": "🔴 PAGE: chat is slower than its baseline",
                        "emoji": True,
                    },
                },
                {
                    "type": "section",
                    "text": {
                        "type": "mrkdwn",
                        "text": "Latency of chat (canary default): p95 is 1.31 x its baseline (interval 1.23 to 1.39),"
                        " 131 ms against 100 ms, every request is slower.",
                    },
                    "fields": [
                        {"type": "mrkdwn", "text": "*Since*\n07:48 UTC, 12 min ago"},
                        {"type": "mrkdwn", "text": "*Likely cause*\nthe model or its server"},
                        {"type": "mrkdwn", "text": "*Figures*\nfloor ratio 1.30, control ratio 1.01, samples 50"},
                    ],
                },
                {
                    "type": "context",
                    "elements": [
                        {
                            "type": "mrkdwn",
                            "text": '*Done:* Nothing: it would be recycled, but mode = "alert".',
                        },
                        {
                            "type": "mrkdwn",
                            "text": "*Next:* `watchdog incidents show 20270115-3f9a2c`  `watchdog history chat`",
                        },
                    ],
                },
            ],
        }

    def test_no_text_can_mention_anybody(self) -> None:
        """What a server answers ends up in `detail`; it must not ping the channel."""
        hostile = replace(HUNG, evidence={"detail": "<!channel> & <http://evil|click>"})
        said = json.dumps(slack_payload(firing(hostile)))
        assert "<" not in said
        assert "&lt;!channel&gt; &amp; &lt;http://evil|click&gt;" in said

    @given(st.text(alphabet="a&<>é ", max_size=7), st.sampled_from([0, 1, 30, 150, 700, 3000]), st.integers(0, 30))
    def test_limits_hold_and_no_escape_is_cut_in_half(self, unit: str, times: int, facts: int) -> None:
        """Slack refuses the whole message when one text is a character too long."""
        text = unit * times
        message = replace(
            firing(SLOW), title=text, sentence=text, facts=((text, text),) * facts, done=text, next_commands=(text,)
        )
        payload = slack_payload(message)
        header, section, context = payload["blocks"]
        assert len(header["text"]["text"]) <= 150
        assert len(section["text"]["text"]) <= 3000
        assert len(section.get("fields", [])) <= 10
        short = [*section.get("fields", []), *context["elements"]]
        assert all(len(each["text"]) <= 2000 for each in short)
        for said in [header["text"]["text"], section["text"]["text"], *(each["text"] for each in short)]:
            rest = said.replace("&amp;", "").replace("&lt;", "").replace("&gt;", "")
            assert not set(rest) & set("&<>")


class TestWords:
    def test_every_word_of_the_decisions_has_words_for_people(self) -> None:
        """A new cause, reason or refusal cannot reach somebody as an identifier."""
        assert set(wording.CAUSES) == set(Cause)
        assert set(wording.RECOVERIES) == set(Check)
        assert set(wording.REFUSALS) == set(GateReason)
        assert set(wording.ENDINGS) == set(Outcome)
        not_troubles = {
            *(Reason.GOOD, Reason.WITHIN_BASELINE, Reason.STEADY, Reason.LEAK_GONE, Reason.LEAK_NOT_RULED_OUT),
            *(Reason.NO_DATA, Reason.NO_BASELINE, Reason.TOO_FEW_SAMPLES, Reason.TAINTED, Reason.BASELINE_TOO_NOISY),
            *(Reason.WITHIN_PEERS, Reason.TOO_FEW_PEERS, Reason.PEERS_DISAGREE),
            *(Reason.IDENTITY_CHANGED, Reason.WARMING_UP, Reason.BUSY, Reason.GPU_NOT_READ),
        }
        assert set(wording.TROUBLES) == set(Reason) - not_troubles

    @pytest.mark.parametrize(
        ("seconds", "said"),
        [
            (0.0, "0 ms"),
            (0.00012, "0.12 ms"),
            (0.1312, "131 ms"),
            (0.9996, "1 s"),
            (4.24, "4.2 s"),
            (59.4, "59 s"),
            (59.6, "1 min"),
            (720, "12 min"),
            (3599, "1 h"),
            (12_000, "3 h 20 min"),
            (7 * 86400, "7 d"),
            (5 * 86400 + 3 * 3600 + 100, "5 d 3 h"),
            (-90, "-2 min"),
        ],
    )
    def test_durations(self, seconds: float, said: str) -> None:
        """The two largest units that matter."""
        assert wording.say_duration(seconds) == said

    @pytest.mark.parametrize(
        ("size", "said"),
        [
            (0, "0 B"),
            (999, "999 B"),
            (1e6, "1 MB"),
            (123.4e6, "123 MB"),
            (1.25e9, "1.25 GB"),
            (999.8e6, "1 GB"),
            (1234e9, "1234 GB"),
            (-2.5e6, "-2.5 MB"),
        ],
    )
    def test_sizes(self, size: float, said: str) -> None:
        """Three digits, decimal units."""
        assert wording.say_size(size) == said

    def test_another_day_is_named(self) -> None:
        """07:00 of which day? said only when it is not today."""
        assert wording.say_clock(NOW - 7200, NOW) == "06:00 UTC, 2 h ago"
        assert wording.say_clock(NOW - 86400, NOW) == "14 Jan 08:00 UTC, 24 h ago"
        assert wording.say_clock(NOW, NOW) == "08:00 UTC, just now"
