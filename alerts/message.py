"""What people are told: one plain value, and its two renderings (the generic webhook and Slack).

Read as by somebody woken at 3 am: what, how much with its interval, since when, likely cause, what was done, what to
look at next. A prompt or an output of the model is never part of it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from alerts.episode import INEFFECTIVE, GateReason, Outcome
from alerts.incident import Event, Incident, StepReason
from alerts.leak_words import SAID as SAID_OF_LEAKS
from alerts.leak_words import say_appearance, say_gone, say_kind, say_what_leaks
from alerts.magnitude import SAID, number, say_magnitude
from alerts.wording import (
    CAUSES,
    ENDINGS,
    RECOVERED_FROM,
    RECOVERIES,
    REFUSALS,
    TROUBLES,
    say_clock,
    say_duration,
    say_fact,
)
from baselines.gpu_signals import SIGNALS
from baselines.verdict import PEERS, Cause, Check, Evidence, Level, Reason

SCHEMA = 1  # of the webhook; raised when a key changes its meaning, not when one is added
MAX_FACTS = 8
MAX_DETAIL = 300

Episode = Mapping[str, Any]
"""Summary of a recycle as plain values; read are: id, target, trigger, reason, state, outcome, detail,
requested_at, acted_at, ended_at, evidence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message to people.

    id: the same however often and to whomever it is sent; deterministic, so that telling twice is one message.
    title, sentence, facts (label, text), done: lines for a person. next_commands: what to type now.
    incident: plain values for the webhook; every key always there, None where it does not apply.
    """

    id: str
    event: Event
    level: Level
    target: str
    incident_id: str | None
    title: str
    sentence: str
    facts: tuple[tuple[str, str], ...] = ()
    done: str = ""
    next_commands: tuple[str, ...] = ()
    incident: Mapping[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The whole message as plain lines."""
        lines = [self.title, self.sentence, *(f"{label}: {text}" for label, text in self.facts)]
        lines += [f"Done: {self.done}"] if self.done else []
        lines += [f"Next: {' | '.join(self.next_commands)}"] if self.next_commands else []
        return "\n".join(line for line in lines if line)


def incident_message(
    incident: Incident,
    event: Event,
    *,
    why: StepReason,
    now: float,
    mode: str = "alert",
    has_recycler: bool = False,
    gate: GateReason | None = None,
    episode: Episode | None = None,
) -> Message:
    """Say that an incident fires, still fires or is over.

    gate: what the gate answers to a recycle at this moment; None when it was not asked.

    mode, has_recycler: of the target, to say what was or would have been done. episode: the last recycle asked for by
    this incident, when there is one.
    """
    if episode and (number(episode, "requested_at") or math.inf) < (incident.fired_at or 0.0):
        episode = None  # it answered an earlier firing, before the incident came back
    if event is Event.RESOLVED:
        title, sentence = _say_resolved(incident, why, now)
        done = _say_episode(episode) if episode else ""
    else:
        title, sentence = _say_firing(incident, event, why)
        done = (
            _say_episode(episode) if episode else _say_intent(incident, mode=mode, has_recycler=has_recycler, gate=gate)
        )
    facts = [("Since", say_clock(incident.since, now)), ("Likely cause", _say_cause(incident))]
    if event is not Event.RESOLVED and (row := SIGNALS.get(incident.reason)) is not None:
        facts.append(("What to do", _sentence(row.advice.replace("INDEX", incident.subject.removeprefix("gpu ")))))
    if kind := say_kind(incident.evidence):
        facts.append(("Kind", kind))
    figures = _say_figures(incident.evidence)
    return Message(
        id=f"{incident.id}-{event}-{round(now * 1000)}",
        event=event,
        level=incident.level,
        target=incident.target,
        incident_id=incident.id,
        title=title,
        sentence=sentence,
        facts=(*facts, *([("Figures", figures)] if figures else [])),
        done=done,
        next_commands=_next_commands(incident.target, incident),
        incident=_plain(asdict(incident) | {"recycle": episode}),
    )


def recycle_message(episode: Episode, *, incident: Incident | None, now: float) -> Message:
    """Say how a recycle ended. incident: the one that asked for it; None when age or a person did."""
    target, outcome = str(episode["target"]), Outcome(episode["outcome"])
    helped = outcome in (Outcome.VERIFIED, Outcome.TRIMMED)
    level = incident.level if incident else Level.INFO if helped else Level.PAGE
    if outcome in INEFFECTIVE or outcome is Outcome.INTERRUPTED:
        level = max(level, Level.PAGE, key=lambda each: each.rank)
    why = ": ".join(str(episode[key]).replace("_", " ") for key in ("trigger", "reason") if episode.get(key))
    facts = [("Why", why)] if why else []
    acted_at, ended_at = number(episode, "acted_at"), number(episode, "ended_at")
    if acted_at is not None:
        took = f", took {say_duration(ended_at - acted_at)}" if ended_at is not None else ""
        facts.append(("Acted", say_clock(acted_at, now) + took))
    figures = _say_figures(episode.get("evidence") or {})
    nothing = dict.fromkeys(f.name for f in fields(Incident)) | {"target": target}
    return Message(
        id=f"{episode['id']}-{Event.RECYCLE}-{round(now * 1000)}",
        event=Event.RECYCLE,
        level=level,
        target=target,
        incident_id=incident.id if incident else None,
        title=f"RECYCLE: {target} {ENDINGS[outcome]}",
        sentence=_sentence(str(episode.get("detail") or ENDINGS[outcome])),
        facts=(*facts, *([("Figures", figures)] if figures else [])),
        next_commands=_next_commands(target, incident),
        incident=_plain((asdict(incident) if incident else nothing) | {"recycle": episode}),
    )


def trial_message(notifier: str, *, now: float) -> Message:
    """What `watchdog notify test` sends: looks like the real thing and says that it is not."""
    nothing = dict.fromkeys(f.name for f in fields(Incident)) | {"recycle": None}
    return Message(
        id=f"test-{notifier}-{round(now * 1000)}",
        event=Event.TEST,
        level=Level.INFO,
        target="",
        incident_id=None,
        title=f"TEST: this is how the watchdog reaches you through {notifier}",
        sentence="Nothing is wrong. Somebody ran `watchdog notify test`.",
        facts=(("Sent", say_clock(now, now)),),
        next_commands=("watchdog status",),
        incident=nothing,
    )


# --- the two renderings -----------------------------------------------------------------------------------------------


def webhook_payload(message: Message) -> dict[str, Any]:
    """The body of the generic webhook (design section 3)."""
    return {
        "schema": SCHEMA,
        "id": message.id,
        "event": str(message.event),
        "incident": dict(message.incident),
        "text": message.text,
    }


_ICONS = {Level.URGENT: "🔴", Level.PAGE: "🔴", Level.WATCH: "🟡", Level.INFO: "🔵"}
_EVENT_ICONS = {Event.RESOLVED: "🟢", Event.RECYCLE: "♻️", Event.TEST: "🔔"}


def slack_payload(message: Message) -> dict[str, Any]:
    """Block Kit. Limits: header 150 characters, section 3000, a field 2000, ten fields (docs.slack.dev, block-kit)."""
    icon = _EVENT_ICONS.get(message.event) or _ICONS[message.level]
    title = _clip(_escape(f"{icon} {message.title}"), 150)
    section: dict[str, Any] = {"type": "section", "text": _mrkdwn(_escape(message.sentence), 3000)}
    if message.facts:
        section["fields"] = [
            _mrkdwn(f"*{_escape(label)}*\n{_escape(text)}", 2000) for label, text in message.facts[:10]
        ]
    blocks = [{"type": "header", "text": {"type": "plain_text", "text": title, "emoji": True}}, section]
    context = [f"*Done:* {_escape(message.done)}"] if message.done else []
    if message.next_commands:
        context.append("*Next:* " + "  ".join(f"`{_escape(command)}`" for command in message.next_commands))
    if context:
        blocks.append({"type": "context", "elements": [_mrkdwn(line, 2000) for line in context]})
    return {"text": _clip(_escape(message.text), 3000), "blocks": blocks}


def _mrkdwn(escaped: str, limit: int) -> dict[str, str]:
    return {"type": "mrkdwn", "text": _clip(escaped, limit)}


def _escape(text: str) -> str:
    """The three characters that Slack reads as markup; with them escaped no text can mention or link anything."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _clip(escaped: str, limit: int) -> str:
    """At most `limit` characters, never the half of an escape."""
    if len(escaped) <= limit:
        return escaped
    return re.sub(r"&[a-z]*$", "", escaped[: limit - 1]) + "…"


# --- the words --------------------------------------------------------------------------------------------------------


def _say_firing(incident: Incident, event: Event, why: StepReason) -> tuple[str, str]:
    prefix = {
        StepReason.REOPENED: "AGAIN ",
        StepReason.FLAPPING: "FLAPPING ",
        StepReason.ESCALATED: "NOW ",
    }.get(why, "STILL " if event is Event.REMINDER else "")
    trouble = _trouble(incident)
    magnitude = say_magnitude(incident.check, incident.reason, incident.strikes, incident.evidence)
    where = f"{_check(incident)} of {incident.target} ({_subject(incident)})"
    said = [_sentence(f"{where}: {magnitude or trouble}")]
    detail = incident.evidence.get("detail")
    if isinstance(detail, str) and detail:
        said.append(_sentence(detail[:MAX_DETAIL]))
    if appearance := say_appearance(incident.evidence):
        said.append(appearance)
    if why is StepReason.FLAPPING:
        said.append(
            f"It came back {incident.flaps} times soon after it was over; it now counts as over only after a much"
            " longer quiet time."
        )
    return f"{prefix}{incident.level.upper()}: {incident.target} {trouble}", " ".join(said)


def _say_resolved(incident: Incident, why: StepReason, now: float) -> tuple[str, str]:
    trouble = _trouble(incident)
    what, alert = f"{incident.target} ({_subject(incident)})", f"The alert said: {incident.target} {trouble}."
    if why is StepReason.REMOVED:
        return f"CLOSED: {what} is no longer watched", f"It is no longer in the configuration. {alert}"
    if why is StepReason.RECYCLED:
        return f"RESOLVED: {what} was recycled", f"The recycle was verified: memory is below where it was. {alert}"
    if why is StepReason.WORKER_GONE:
        return f"CLOSED: the worker of {what} is gone", f"It ended and no other took its place. {alert}"
    if why is StepReason.DEVICE_LEFT:
        return f"CLOSED: {what} is no longer used", f"The target runs on another GPU now. {alert}"
    over = (
        f"{_check(incident)} of {what}: good {incident.good_in_a_row} times in a row. It lasted"
        f" {say_duration(now - incident.since)}."
    )
    sentence = " ".join(filter(None, (over, say_gone(incident.evidence), alert)))
    recovery = RECOVERED_FROM.get(incident.reason, RECOVERIES[incident.check])
    return f"RESOLVED: {incident.target} {recovery}", sentence


def _trouble(incident: Incident) -> str:
    counted = say_what_leaks(incident.evidence) if incident.reason is Reason.LEAKING else ""
    return counted or TROUBLES.get(incident.reason, incident.reason.replace("_", " "))


def _check(incident: Incident) -> str:
    return "GPU" if incident.check is Check.GPU else incident.check.capitalize()


def _subject(incident: Incident) -> str:
    if incident.check in (Check.MEMORY, Check.GPU):
        return incident.subject
    return f"canary {incident.subject.removeprefix(PEERS)}"


def _say_cause(incident: Incident) -> str:
    changed = incident.evidence.get("changed") or incident.evidence.get("gpu")
    return f"{CAUSES[incident.cause]}{f' ({changed[:MAX_DETAIL]})' if isinstance(changed, str) else ''}"


def _say_intent(incident: Incident, *, mode: str, has_recycler: bool, gate: GateReason | None) -> str:
    """What is done about it when no recycle has ended yet; the gate's own order of questions."""
    if incident.cause is not Cause.MODEL:
        return f"Nothing: {REFUSALS[GateReason.CAUSE_NOT_MODEL]}."
    if incident.level not in (Level.PAGE, Level.URGENT):
        return f"Nothing: {REFUSALS[GateReason.LEVEL_TOO_LOW]}."
    if not has_recycler:
        return f"Nothing: {REFUSALS[GateReason.NO_RECYCLER]}."
    if mode != "act":
        return f'Nothing: it would be recycled, but mode = "{mode}".'
    if gate is not None and gate is not GateReason.ALLOWED:  # of the cause: the strikes before blamed something else
        newly = gate is GateReason.CAUSE_NOT_MODEL
        why = "the next verdicts must blame the model too" if newly else REFUSALS[gate]
        return f"Not recycled for now: {why}."
    return "A recycle was asked for."


def _say_episode(episode: Episode) -> str:
    outcome, detail = episode.get("outcome"), str(episode.get("detail") or "")
    if outcome is None:
        return f"A recycle is under way ({str(episode.get('state', 'requested')).replace('_', ' ')})."
    if outcome == Outcome.BLOCKED:
        return f"Not recycled: {REFUSALS[GateReason(detail)] if detail in set(GateReason) else detail}."
    return _sentence(f"It {ENDINGS[Outcome(outcome)]}: {detail}" if detail else f"It {ENDINGS[Outcome(outcome)]}")


def _say_figures(evidence: Evidence) -> str:
    """What the sentence and the cause did not already give."""
    said = [
        say_fact(key, value)
        for key, value in evidence.items()
        if value is not None and key not in SAID | SAID_OF_LEAKS and (isinstance(value, str) or math.isfinite(value))
    ]
    return ", ".join(each[:MAX_DETAIL] for each in said[:MAX_FACTS])


def _next_commands(target: str, incident: Incident | None) -> tuple[str, ...]:
    show = (f"watchdog incidents show {incident.id}",) if incident else ()
    ask = (f"watchdog canary {target}",) if incident and incident.check in (Check.AVAILABILITY, Check.OUTPUT) else ()
    return (*show, f"watchdog history {target}", *ask)


def _sentence(text: str) -> str:
    text = text.strip()
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _plain(value: Any) -> Any:
    """The same as JSON can carry it: NaN and infinity become None, tuples lists, words plain strings."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, str) else value
