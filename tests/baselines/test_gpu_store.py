"""What is kept about GPUs, and for how long."""

from __future__ import annotations

from builders import NOW
from devices import OTHER, UUID, xid

from baselines import gpu_store, retention
from baselines.database import Database
from baselines.device import Remembered
from baselines.retention import RetentionPolicy

DAY = 86400.0
DEVICE = Remembered(
    uuid=UUID,
    at=NOW,
    last={"pcie_replays": 7, "power_w": 400.5, "vbios_version": "96.00"},
    normal={"power_limit_w": 700.0},
    moved_at={"power_limit_w": NOW - 60},
    began={"power_capped": NOW - 60},
)


def test_a_device_is_remembered_as_it_was_last(database: Database) -> None:
    """By target: what is a neighbour depends on whose worker asks."""
    later = Remembered(uuid=UUID, at=NOW + 60, last={}, normal={"power_limit_w": 500.0})
    with database.write() as connection:
        gpu_store.remember_device(connection, "chat", DEVICE)
        assert gpu_store.remembered_device(connection, "chat", UUID) == DEVICE
        gpu_store.remember_device(connection, "chat", later)
        assert gpu_store.remembered_device(connection, "chat", UUID) == later
        assert gpu_store.remembered_device(connection, "chat", OTHER) is None
        assert gpu_store.remembered_device(connection, "other", UUID) is None


def test_an_event_is_stored_once_and_a_repeat_is_another(database: Database) -> None:
    """Whoever tells it: two targets on one device are told the same."""
    events = [xid(31), xid(31, NOW + 0.5), xid(31, device=OTHER), xid(13)]
    with database.write() as connection:
        gpu_store.add_xids(connection, events[:2])
        gpu_store.add_xids(connection, events)
        gpu_store.add_xids(connection, [])
        found = gpu_store.xids_since(connection, NOW)
        assert len(found) == 4
        assert set(found) == set(events)
        assert found[-1] == events[1]
        assert gpu_store.xids_since(connection, NOW + 0.1) == [events[1]]


def test_events_and_devices_are_kept_as_long_as_failures(database: Database) -> None:
    """They are what somebody looks for weeks later."""
    policy = RetentionPolicy(failures_s=30 * DAY)
    with database.write() as connection:
        gpu_store.add_xids(connection, [xid(31), xid(31, NOW + 20 * DAY)])
        gpu_store.remember_device(connection, "chat", DEVICE)
        assert retention.prune(connection, policy, now=NOW + 29 * DAY) == 0
        assert retention.prune(connection, policy, now=NOW + 31 * DAY) == 2
        assert gpu_store.xids_since(connection, 0.0) == [xid(31, NOW + 20 * DAY)]
        assert gpu_store.remembered_device(connection, "chat", UUID) is None
