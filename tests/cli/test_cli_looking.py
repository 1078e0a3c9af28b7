"""The commands that look: canary, status, history, headroom, profile, incidents, silence."""

from __future__ import annotations

import csv
import re
import time
from dataclasses import replace

import pytest
from builders import make_burst, make_incident
from cli_stage import FAST, Ended, Stage
from page_stage import Page, page

from alerts import recycle_store
from alerts import store as alert_store
from alerts.episode import Outcome as RecycleOutcome
from alerts.episode import State as RecycleState
from alerts.episode import Trigger
from alerts.recycle_store import Episode, Step
from baselines import burst_store, memory_store, slope_store, snapshot_store, verdict_store
from baselines.verdict import Cause, Check, Level, Reason, Status, Verdict
from probes import facts
from probes.messages import MemorySample, OpStat, Snapshot
from watchdog.cli.canary import describe_surroundings
from watchdog.turns import hold

__all__ = ["page"]  # a fixture

MEMORY = """
[target.process]
port = 1
[target.leak]
interval = "250ms"
warmup = "1s"
window = "12s"
capacity = "4GB"
"""


# --- canary -----------------------------------------------------------------------------------------------------------


def test_good_canary_exits_zero_and_shows_every_request(stage: Stage) -> None:
    """Twelve requests, the answer's shape, the server's versions."""
    ended = stage.start("canary", "chat")
    assert ended.code == 0
    lines = ended.out.splitlines()
    assert lines[0] == "chat/default: 12 request(s)"
    assert sum(line.startswith("  good ") for line in lines) == 12
    assert any("shape [5]" in line for line in lines)
    assert "  model_version: v1" in lines


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        ({"status": 500}, 2, "status_500"),
        ({"status": 404}, 2, "status_404"),
        ({"scale": float("nan")}, 2, "not_finite"),
        ({"busy": 9}, 3, "overloaded_503"),
        ({"status": 429}, 3, "overloaded_429"),
        ({"silent": True}, 2, "timeout"),
    ],
    ids=["error", "not found", "not finite", "loading", "overloaded", "hanging"],
)
def test_canary_that_is_not_good_says_how(stage: Stage, change: dict[str, object], code: int, says: str) -> None:
    """2 when it is wrong, refused or late; 3 when the server says that it is busy."""
    stage.config.write_text(stage.config.read_text().replace('timeout = "5s"', 'timeout = "500ms"'))
    for name, value in change.items():
        setattr(stage.model, name, value)
    ended = stage.run("canary chat")
    assert ended.code == code
    assert says in ended.out


def test_refused_canary_exits_two(stage: Stage) -> None:
    """Nobody listens there."""
    stage.config.write_text(stage.config.read_text().replace(f":{stage.model.port}/", ":1/"))
    ended = stage.run("canary chat --json")
    assert ended.code == 2
    (burst,) = ended.json()
    assert [s["outcome"] for s in burst["samples"]] == ["refused"]


def test_canary_is_compared_with_the_golden_output(stage: Stage) -> None:
    """As the daemon does: another answer than the baseline's is wrong."""
    before, _ = stage.run("canary chat"), stage.run(FAST)
    stage.model.scale = 1.5
    after = stage.run("canary chat")
    assert (before.code, after.code) == (0, 2)
    assert "drifted" in after.out


def test_recorded_canary_is_what_replay_reads(stage: Stage) -> None:
    """--record appends whole bursts under one header, leaves out what is tainted, and replay judges them."""
    record = stage.folder / "samples.csv"
    recorded = [stage.run("canary chat --bursts 6 --record", str(record)) for _ in range(2)]
    with record.open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["time", "latency_s", "ok", "reason", "burst", "control_s", "load", "worker"]
    tainted = [int(n) for e in recorded for n in re.findall(r"^watchdog: (\d+) sample\(s\) tainted", e.err)]
    assert len(rows) == 2 * 6 * 12 - sum(tainted)
    assert len({row[4] for row in rows}) == 12
    judged = stage.run("replay", str(record), "--baseline-rows", "0:60", "--what-if", "threshold=4", "--json")
    assert [e.code for e in (*recorded, judged)] == [0, 0, 0], judged.said
    assert "is not known" not in judged.err


def test_load_is_recorded_shown_and_asked_for(stage: Stage, page: Page) -> None:
    """The column `load`, the line about a burst, and what `check --live` says of it."""
    page.text = "waiting 3\n"
    stage.write_config(after=f'[target.load]\nurl = "{page.url}"\nmetric = "waiting"\n')
    record = stage.folder / "samples.csv"
    ended, check = stage.run("canary chat --record", str(record)), stage.run("check --live")
    assert (ended.code, check.code) == (0, 0)
    assert re.search(r"^  around it: load 3, .*own delay \d", ended.out, re.MULTILINE)
    assert "  ok   chat load: good, 3\n" in check.out
    with record.open(newline="") as file:
        assert {row["load"] for row in csv.DictReader(file)} == {"3"}
    page.text, page.status = "", 404
    check = stage.run("check --live")
    assert check.code == 2
    assert "  FAIL chat load: status 404, expected 200\n" in check.out
    assert len(page.headers) == 4, "what failed a moment ago is not asked again"


def test_every_fact_around_a_burst_has_words() -> None:
    """And what is not known is not spoken of."""
    names = [value for name, value in vars(facts).items() if name.isupper()]
    assert len(names) == 11
    assert describe_surroundings({"model_load_s": 1.0}) == ""
    assert describe_surroundings(dict.fromkeys(names, 1.0)).count(", ") == len(names) - 1
    said = describe_surroundings({facts.GPU_THROTTLE: 36.0, facts.SM_CLOCK_HZ: 1.98e9, facts.CPU_STEAL: 0.125})
    assert said == "CPU stolen 12.5%, SM clock 1980 MHz, clock event reasons 0x24"


def test_load_that_is_a_rate_is_asked_for_twice(stage: Stage, page: Page) -> None:
    """One reading tells no rate: `check --live` takes a second one."""
    counts = iter(range(0, 9000, 1000))
    page.on_ask = lambda: setattr(page, "text", f"# TYPE queued_us counter\nqueued_us {next(counts)}\n")
    stage.write_config(after=f'[target.load]\nurl = "{page.url}"\nmetric = "queued_us"\nrate = true\n')
    check = stage.run("check --live")
    assert check.code == 0
    assert re.search(r"^  ok   chat load: good, \d+", check.out, re.MULTILINE)


@pytest.mark.parametrize(
    ("before", "says"),
    [
        ("time,latency_s,ok,reason,burst,control_s,worker\n", "its first line is not time,latency_s,ok,"),
        ("\xff\xfe\x00", "it is no recording"),
    ],
)
def test_recording_of_other_columns_is_not_continued(stage: Stage, before: str, says: str) -> None:
    """Nothing is asked and nothing written: its rows would be read as something else."""
    record = stage.folder / "samples.csv"
    record.write_bytes(before.encode("latin-1"))
    ended = stage.run("canary chat --record", str(record))
    assert ended.code == 1
    assert says in ended.err
    assert (record.read_bytes(), stage.model.requests) == (before.encode("latin-1"), [])


# --- status, history, headroom, profile -------------------------------------------------------------------------------


def make_verdict(status: Status, **about: object) -> Verdict:
    values = {
        "target": "chat",
        "check": Check.LATENCY,
        "subject": "default",
        "at": time.time() - 5,
        "status": status,
        "reason": {Status.OK: Reason.GOOD, Status.WORSE: Reason.REGRESSED, Status.UNKNOWN: Reason.NO_BASELINE}[status],
    }
    return Verdict(**values | about)  # type: ignore[arg-type]


def save(stage: Stage, *verdicts: Verdict) -> None:
    database = stage.database()
    with database.write() as connection:
        for verdict in verdicts:
            verdict_store.save_verdict(connection, verdict)
    database.close()


def test_status_before_anything_is_known(stage: Stage) -> None:
    """Exit code 3, and what to do about it; no database is made by looking."""
    nothing = stage.run("status")
    assert nothing.code == 1
    assert "there is no database" in nothing.err
    stage.database().close()
    plain, as_json = stage.run("status"), stage.run("status chat --json")
    assert plain.code == as_json.code == 3
    assert plain.out.startswith("UNKNOWN chat  mode alert\n    not watched yet: is `watchdog run` running?\n")
    (target,) = as_json.json()
    assert (target["name"], target["status"], target["verdicts"]) == ("chat", "UNKNOWN", [])


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        ((Status.OK,), 0),
        ((Status.OK, Status.UNKNOWN), 3),
        ((Status.UNKNOWN, Status.WORSE, Status.OK), 2),
        ((Status.WORSE, Status.OK), 2),
    ],
    ids=["ok", "unknown", "worse and unknown", "worse"],
)
def test_status_is_that_of_the_worst(stage: Stage, statuses: tuple[Status, ...], code: int) -> None:
    """2 before 3 before 0; and what no daemon keeps up to date is not fine."""
    checks = list(Check)
    save(stage, *(make_verdict(status, check=checks[i]) for i, status in enumerate(statuses)))
    assert stage.run("status").code == (code or 3)
    daemon = stage.folder / "watchdog.db.daemon.lock"
    with hold(daemon, wait_s=0.0, monotonic=time.monotonic, sleep=time.sleep):
        ended = stage.run("status --json")
    assert ended.code == code
    (target,) = ended.json()
    assert {v["check"]: v["status"] for v in target["verdicts"]} == dict(zip(checks, statuses, strict=False))


def test_status_shows_baseline_canary_and_incident(stage: Stage) -> None:
    """What stands, since when, why, and what is firing."""
    stage.run(FAST)
    worse = make_verdict(Status.WORSE, cause=Cause.MODEL, level=Level.PAGE, since=time.time() - 3600)
    save(stage, worse)
    database = stage.database()
    with database.write() as connection:
        burst_store.add_burst(connection, make_burst(at=time.time()))
        alert_store.save_incident(connection, make_incident(check=Check.LATENCY, reason=Reason.REGRESSED))
    database.close()
    ended = stage.start("status")
    assert ended.code == 2
    assert "latency      default     WORSE   regressed, cause model, level page, for 1 h" in ended.out
    assert "canary default: p95 50.0 ms, baseline 1 p95 " in ended.out
    assert "incident i1: page latency regressed, since " in ended.out


def test_history_lists_changes_newest_first(stage: Stage) -> None:
    """What was said when, as far back as asked."""
    now = time.time()
    save(
        stage,
        make_verdict(Status.OK, at=now - 30 * 86400),
        make_verdict(Status.WORSE, at=now - 7200),
        make_verdict(Status.OK, at=now - 3600),
    )
    week, hour, month = (
        stage.run("history chat --json"),
        stage.run("history chat --since 1h"),
        stage.run("history chat --since 60d --json"),
    )
    assert [v["status"] for v in week.json()] == ["OK", "WORSE"]
    assert hour == Ended(0, "nothing in the last 1h\n", "")
    assert len(month.json()) == 3


def a_minute(*, growth: int = 0) -> list[MemorySample]:
    """Of a worker that started a minute ago, a sample each quarter of a second; growth: bytes from one to the next."""
    began = time.time() - 60
    return [
        MemorySample(
            target="chat",
            slot=0,
            life="77@5",
            at=began + i * 0.25,
            host_anon_bytes=500_000_000 + growth * i,
            capacity_bytes=8 * 10**9,
            uptime_s=i * 0.25,
        )
        for i in range(240)
    ]


@pytest.mark.parametrize(
    ("growth", "seconds", "code", "says"),
    [(0, 60, 0, "steady"), (2_000_000, 60, 2, "leaking, full in "), (0, 0.5, 3, "")],
    ids=["steady", "leaking", "too young"],
)
def test_headroom_says_what_is_left(stage: Stage, growth: int, seconds: float, code: int, says: str) -> None:
    """0 when it does not grow, 2 when it does and how long it lasts, 3 when that is unknown."""
    stage.write_config(after=MEMORY)
    samples = a_minute(growth=growth)[: max(2, int(seconds / 0.25))]
    database = stage.database()
    with database.write() as connection:
        memory_store.add_memory(connection, samples)
    database.close()
    plain, as_json = stage.run("headroom chat"), stage.run("headroom chat --json")
    assert plain.code == as_json.code == code
    assert plain.out.startswith("worker 0: host ")
    assert " MB of 4.0 GB: " in plain.out, "the capacity is the configuration's"
    assert says in plain.out
    (row,) = as_json.json()
    assert (row["slot"], row["capacity_bytes"]) == (0, 4 * 10**9)


def test_headroom_says_of_what(stage: Stage) -> None:
    """A date beside the host's and the GPU's memory is of one of them, or of none: here descriptors run out."""
    stage.write_config(after=MEMORY)
    samples = [replace(sample, fds=100 + i, fd_limit=1024) for i, sample in enumerate(a_minute())]
    database = stage.database()
    with database.write() as connection:
        memory_store.add_memory(connection, samples)
    database.close()
    ended = stage.run("headroom chat")
    assert ended.code == 2
    assert ended.out.endswith(", file descriptors\n")


def test_headroom_knows_what_an_answered_version_does(stage: Stage) -> None:
    """Where no agent names the version, the canary's answers do, for the daemon and here."""
    stage.write_config(after=MEMORY)
    now, samples = time.time(), a_minute(growth=2_000_000)
    before = {("host_anon_bytes", scale): [0.0] * 12 for scale in range(7)}
    database = stage.database()
    with database.write() as connection:
        burst_store.add_burst(connection, replace(make_burst(at=now), provenance={"model_version": "0.24"}))
        slope_store.add_slopes(connection, "chat", "0.23", before, at=now - 3600)
        memory_store.add_memory(connection, samples)
    database.close()
    [row] = stage.run("headroom chat --json").json()
    assert (row["appeared_with"], row["version_before"]) == ("0.24", "0.23")


def test_headroom_knows_of_the_leak_before(stage: Stage) -> None:
    """As status does: a worker in the place of one that leaked is not steady because it is young. And on the GPU, too,
    the host's capacity stays the host's."""
    stage.write_config(after=MEMORY)
    now, steps = time.time(), 40
    leaked = Verdict(
        target="chat",
        check=Check.MEMORY,
        subject="slot 0",
        at=now - 60,
        status=Status.WORSE,
        reason=Reason.LEAKING,
        life="66@4",
        evidence={"channel": "gpu_used_bytes", "slope_bytes_per_hour": 1e9},
    )
    samples = [
        MemorySample(
            target="chat",
            slot=0,
            life="77@5",
            at=now - 10 + i * 0.25,
            host_anon_bytes=500_000_000,
            capacity_bytes=8 * 10**9,
            gpu_used_bytes=10**9,
            gpu_capacity_bytes=80 * 10**9,
            uptime_s=i * 0.25,
        )
        for i in range(steps)
    ]
    database = stage.database()
    with database.write() as connection:
        verdict_store.save_verdict(connection, leaked)
        memory_store.add_memory(connection, samples)
    database.close()
    ended = stage.run("headroom chat --json")
    (row,) = ended.json()
    assert (ended.code, row["reason"]) == (3, "leak_not_ruled_out")
    assert (row["channel"], row["capacity_bytes"]) == ("gpu_used_bytes", 4 * 10**9)


def test_headroom_without_samples_says_what_it_needs(stage: Stage) -> None:
    """Exit code 3."""
    stage.database().close()
    ended = stage.run("headroom chat")
    needs = "no memory of chat was ever sampled: it needs [target.process] and a running daemon\n"
    assert ended == Ended(3, needs, "")


def test_profile_shows_the_stored_snapshot(stage: Stage) -> None:
    """The per-operator table of the torch canary, largest first; no torch is needed to look."""
    torch_canary = '[[target.canary]]\nname = "alone"\nkind = "torch"\nmodel = "model.pt2"\n'
    stage.write_config(after=torch_canary)
    ops = tuple(
        OpStat(name=name, calls_per_step=2.0, self_s=self_s, self_mad_s=0.0)
        for name, self_s in (("aten::addmm", 0.006), ("aten::gelu", 0.002))
    )
    snapshot = Snapshot(
        target="chat", canary="alone", at=time.time(), steps=20, step_s=0.01, ops=ops, environment={"torch": "2.13.0"}
    )
    database = stage.database()
    with database.write() as connection:
        snapshot_store.save_snapshot(connection, snapshot)
    database.close()
    plain, as_json, wrong = (
        stage.run("profile chat"),
        stage.run("profile chat --json"),
        stage.run("profile chat --canary default"),
    )
    assert plain.code == 0
    assert "20 steps of 10.0 ms under the profiler" in plain.out
    assert [line.split()[0] for line in plain.out.splitlines()[-2:]] == ["aten::addmm", "aten::gelu"]
    assert "60.0%" in plain.out
    assert as_json.json()["ops"][0]["name"] == "aten::addmm"
    assert wrong == Ended(1, "", "watchdog: chat has no torch canary 'default'; there are: alone\n")


# --- incidents, silence -----------------------------------------------------------------------------------------------


def test_incidents_are_listed_shown_and_acknowledged(stage: Stage) -> None:
    """Open ones first; evidence, messages and recycles of one; and who is on it."""
    now = time.time()
    episode = Episode(
        id="recycle-1",
        target="chat",
        trigger=Trigger.INCIDENT,
        reason="timeout",
        requested_at=now,
        updated_at=now,
        incident_id="i1",
        state=RecycleState.COOLDOWN,
        outcome=RecycleOutcome.VERIFIED,
        steps=(Step(at=now, state=RecycleState.VERIFY, detail="3 bursts"),),
    )
    incident = make_incident(evidence={"outcome": "timeout", "ratio": 1.234567891})
    database = stage.database()
    with database.write() as connection:
        alert_store.save_incident(connection, incident)
        over = replace(incident, id="i0", subject="old", state=alert_store.State.RESOLVED, resolved_at=now)
        alert_store.save_incident(connection, over)
        recycle_store.save_episode(connection, episode)
    database.close()

    every, only_open, shown, shown_json, acked, again, after = (
        stage.run("incidents"),
        stage.run("incidents --open --json"),
        stage.run("incidents show i1"),
        stage.run("incidents show i1 --json"),
        stage.run("incidents ack i1"),
        stage.run("incidents ack i0"),
        stage.run("incidents --target chat"),
    )
    assert [line.split()[0] for line in every.out.splitlines()] == ["i1", "i0"]
    assert [i["id"] for i in only_open.json()] == ["i1"]
    assert "ratio                  1.23457" in shown.out
    assert "recycle recycle-1: verified" in shown.out
    assert "verify: 3 bursts" in shown.out
    assert shown_json.json()["recycles"][0]["outcome"] == "verified"
    assert acked.code == 0
    assert again.code == 1
    assert "on it: " in after.out


def test_silence_begins_is_listed_and_ends(stage: Stage) -> None:
    """Who, until when, why; for a target, for one check, for all."""
    ends = (
        stage.run("silence"),
        stage.run("silence chat --for 2h --why", "deploy of v2"),
        stage.run("silence * --check latency --json"),
        stage.run("silence --end 1"),
        stage.run("silence --json"),
    )
    assert {e.code for e in ends} == {0}
    assert ends[0].out == "no silences\n"
    assert ends[1].out.startswith("1  chat * until ")
    assert ends[1].out.rstrip().endswith("deploy of v2")
    begun = ends[2].json()[1]
    assert (begun["target"], begun["check"]) == ("*", "latency")
    assert begun["until_at"] - begun["from_at"] == pytest.approx(3600)
    assert [s["id"] for s in ends[4].json()] == [2]
