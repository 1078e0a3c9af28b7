"""SQL of the GPUs: what is remembered of each device, and the errors its driver reported.

Each function takes the caller's connection, and so joins its transaction. Values go in and out as dataclasses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields

from sqlalchemy import Connection, select
from sqlalchemy.dialects.sqlite import insert as upsert

from baselines import schema
from baselines.device import Remembered
from probes.gpu.reading import Xid as XidEvent

_DEVICE = tuple(f.name for f in fields(Remembered))


def remember_device(connection: Connection, target: str, device: Remembered) -> None:
    """Store it instead of what was remembered of it before."""
    new = upsert(schema.gpu_devices).values(target=target, **asdict(device))
    updated = {name: new.excluded[name] for name in _DEVICE if name != "uuid"}
    connection.execute(new.on_conflict_do_update(index_elements=schema.gpu_devices.primary_key.columns, set_=updated))


def remembered_device(connection: Connection, target: str, uuid: str) -> Remembered | None:
    """None of a device that this target was never seen on."""
    table = schema.gpu_devices
    row = connection.execute(select(table).where(table.c.target == target, table.c.uuid == uuid)).first()
    return None if row is None else Remembered(**{name: getattr(row, name) for name in _DEVICE})


def add_xids(connection: Connection, xids: Sequence[XidEvent]) -> None:
    """Store events; one that is there already, told by another target of the same device, is the same event."""
    if xids:
        rows = [{"at": each.at, "device": each.device, "xid": each.xid} for each in xids]
        connection.execute(upsert(schema.gpu_xids).on_conflict_do_nothing(), rows)


def xids_since(connection: Connection, since: float) -> list[XidEvent]:
    """Of all devices, not older than `since`, oldest first."""
    table = schema.gpu_xids
    rows = connection.execute(select(table).where(table.c.at >= since).order_by(table.c.at))
    return [XidEvent(at=row.at, device=row.device, xid=row.xid) for row in rows]
