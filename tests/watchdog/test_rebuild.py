"""From one configuration to the next: what is refused, what keeps its object, what is built anew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from alerts.notifiers.transport import SharedTransport
from baselines.database import Database
from watchdog.bootstrap import Shared
from watchdog.config import Config, ConfigError, parse_config
from watchdog.rebuild import build_watch, needs_restart
from watchdog.watch import Change, Current, RoutesNow, TargetsNow, Watch, compare


def target(name: str, **more: Any) -> dict[str, Any]:
    canary = {"url": "http://127.0.0.1:1/predict"} | more.pop("canary", {})
    return {"name": name, "device": "cpu", "canary": [canary], **more}


def notifier(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "kind": "webhook", "url": f"http://127.0.0.1:1/{name}", **more}


def make_config(*targets: Mapping[str, Any], notifiers: tuple[Mapping[str, Any], ...] = (), **more: Any) -> Config:
    return parse_config({"target": list(targets), "notifier": list(notifiers), **more})


@pytest.fixture
def transport() -> Iterator[httpx.BaseTransport]:
    transport = SharedTransport()
    yield transport
    transport.close()


@pytest.fixture
def shared(database: Database) -> Shared:
    return Shared(database=database)


# --- what is kept -----------------------------------------------------------------------------------------------------

BEFORE = (target("a"), target("b"), target("c"))


@pytest.mark.parametrize(
    ("after", "change"),
    [
        pytest.param(BEFORE, Change(), id="the same"),
        pytest.param((BEFORE[2], BEFORE[0], BEFORE[1]), Change(), id="another order"),
        pytest.param((*BEFORE, target("d")), Change(targets_new=("d",)), id="new"),
        pytest.param(BEFORE[1:], Change(targets_gone=("a",)), id="gone"),
        pytest.param((target("a", mode="observe"), *BEFORE[1:]), Change(targets_changed=("a",)), id="a key of it"),
        pytest.param(
            (*BEFORE[:2], target("c", canary={"interval": "30s"})), Change(targets_changed=("c",)), id="its canary"
        ),
        pytest.param((target("a", leak={"horizon": "7d"}), *BEFORE[1:]), Change(), id="a default that is written out"),
        pytest.param(
            (target("new"), target("b", group="g"), BEFORE[2]),
            Change(targets_new=("new",), targets_changed=("b",), targets_gone=("a",)),
            id="all at once",
        ),
    ],
)
def test_targets_that_say_the_same_keep_their_object(
    shared: Shared, transport: httpx.BaseTransport, after: tuple[Mapping[str, Any], ...], change: Change
) -> None:
    """And with it what they have learned; the others are built anew and know whom they replace."""
    before = build_watch(make_config(*BEFORE), shared, transport)
    now = build_watch(make_config(*after), shared, transport, before=before)
    assert compare(before, now) == change
    for name in change.targets_changed:
        assert now.targets[name].replaces is before.targets[name]
    assert list(now.targets) == [t["name"] for t in after]


@pytest.mark.parametrize(
    ("after", "change", "same_courier"),
    [
        pytest.param((notifier("x"), notifier("y")), Change(), {"x", "y"}, id="the same"),
        pytest.param((notifier("x"),), Change(notifiers_gone=("y",)), {"x"}, id="gone"),
        pytest.param((notifier("x"), notifier("y"), notifier("z")), Change(notifiers_new=("z",)), {"x", "y"}, id="new"),
        pytest.param(
            (notifier("x", min_level="page"), notifier("y", targets=["a"])),
            Change(notifiers_changed=("x", "y")),
            {"x", "y"},
            id="another level, other targets",
        ),
        pytest.param(
            (notifier("x", url="http://127.0.0.1:2/"), notifier("y", timeout="3s")),
            Change(notifiers_changed=("x", "y")),
            set(),
            id="another receiver",
        ),
    ],
)
def test_notifiers_that_send_the_same_way_keep_their_object(
    shared: Shared,
    transport: httpx.BaseTransport,
    after: tuple[Mapping[str, Any], ...],
    change: Change,
    same_courier: set[str],
) -> None:
    """What a notifier wants to hear may change without disturbing what it sends."""
    before = build_watch(make_config(target("a"), notifiers=(notifier("x"), notifier("y"))), shared, transport)
    now = build_watch(make_config(target("a"), notifiers=after), shared, transport, before=before)
    assert compare(before, now) == change
    sent = {r.notifier.name: r.notifier for r in before.routes}
    assert {r.notifier.name for r in now.routes if sent.get(r.notifier.name) is r.notifier} == same_courier


def test_file_with_other_bytes_is_a_change(shared: Shared, transport: httpx.BaseTransport, tmp_path: Path) -> None:
    """Though its name is the same."""
    body = tmp_path / "body.bin"
    body.write_bytes(b"one")
    config = make_config(target("a", canary={"body_file": str(body)}))
    before = build_watch(config, shared, transport)
    assert compare(before, build_watch(config, shared, transport, before=before)) == Change()
    body.write_bytes(b"two")
    changed = build_watch(config, shared, transport, before=before)
    assert compare(before, changed) == Change(targets_changed=("a",))
    assert changed.targets["a"].canaries["default"].identity != before.targets["a"].canaries["default"].identity


# --- what is refused --------------------------------------------------------------------------------------------------


def test_what_needs_a_restart_is_named_with_both_values() -> None:
    """All of it at once; another spelling of the same file is no change."""
    store = {"url": "sqlite:///one.db"}
    before = make_config(target("a"), store=store, web={"listen": "127.0.0.1:1"})
    after = make_config(
        target("a"), store={"url": "sqlite:///two.db"}, web={"listen": "127.0.0.1:2"}, nvml={"lists": 30}
    )
    assert needs_restart(before, after) == [
        "store.url: needs a restart (in use: sqlite:///one.db, given: sqlite:///two.db)",
        "web.listen: needs a restart (in use: 127.0.0.1:1, given: 127.0.0.1:2)",
        "nvml.lists: needs a restart (in use: 15 s, given: 30 s)",
    ]
    other = make_config(target("a"), store=store | {"samples": "3d"}, web={"listen": "127.0.0.1:1"})
    assert needs_restart(before, other) == []


def test_files_that_cannot_be_read_are_all_named(
    shared: Shared, transport: httpx.BaseTransport, tmp_path: Path
) -> None:
    """They were there when the file was validated; each is said with its key."""
    files = [tmp_path / name for name in ("one", "two")]
    for file in files:
        file.touch()
    config = make_config(*(target(f.name, canary={"body_file": str(f)}) for f in files))
    for file in files:
        file.unlink()
    with pytest.raises(ConfigError) as raised:
        build_watch(config, shared, transport)
    assert [p.partition(":")[0] for p in raised.value.problems] == [
        "target[one].canary[default].body_file",
        "target[two].canary[default].body_file",
    ]


# --- the views of it --------------------------------------------------------------------------------------------------


@pytest.fixture
def watches(shared: Shared, transport: httpx.BaseTransport) -> tuple[Watch, Watch]:
    group = {"group": "g"}
    before = build_watch(
        make_config(target("a", **group), target("b", **group), notifiers=(notifier("x"),)), shared, transport
    )
    config = make_config(target("a", **group), target("c", **group), notifiers=(notifier("y"), notifier("z")))
    return before, build_watch(config, shared, transport, before=before)


def test_exchange_is_seen_whole(watches: tuple[Watch, Watch]) -> None:
    """Who holds the views sees the new targets and routes; who was walking over the old ones ends with them."""
    before, after = watches
    current = Current(before)
    walking, said = iter(current.targets.items()), iter(current.routes)
    next(walking)
    current.exchange(after)
    assert dict(walking).keys() == {"b"}
    assert [r.notifier.name for r in said] == ["x"]
    assert list(current.targets) == list(current.targets.keys()) == ["a", "c"]
    assert [t.name for t in current.targets.values()] == ["a", "c"]
    assert (len(current.targets), len(current.routes), current.routes[0].notifier.name) == (2, 2, "y")
    assert current.notifiers() == ["y", "z"]
    assert current.watch is after


def test_who_stays_learns_who_its_peers_are_now(watches: tuple[Watch, Watch]) -> None:
    """A target that did not change itself may have gained and lost replicas of its group."""
    before, after = watches
    current = Current(before)
    assert after.targets["a"] is before.targets["a"]
    assert current.targets["a"].peers == {"b"}
    current.exchange(after)
    assert current.targets["a"].peers == {"c"}


def test_views_are_what_their_users_take(watches: tuple[Watch, Watch]) -> None:
    """A mapping and a sequence."""
    targets, routes = TargetsNow(watches[0].targets), RoutesNow(watches[0].routes)
    assert "a" in targets
    assert targets.get("no such") is None
    assert list(routes[0:1]) == list(routes)
