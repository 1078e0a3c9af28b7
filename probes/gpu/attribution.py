"""Which devices a target's workers use, and how much of their memory. Pure.

NVML lists processes by pid, and in a container those are not always the pids seen there. Three cases are told apart:
older drivers list the host's pids (nvidia-docker#1483); newer ones translate them but may tell no amounts
(open-gpu-kernel-modules#614); or the list is empty. Where the list does not help, and only then, what is left of the
device's memory without the others is the worker's, as far as that can be known.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from probes.gpu.reading import DeviceReading, GpuReading

_IDLE_BYTES = {"v1": 1_500_000_000, "v2": 100_000_000}
"""What nobody uses: on an idle A100 the driver's own 912 MB by v1, 8 MB by v2."""


class PidView(StrEnum):
    """What NVML's lists say of a target's workers. The value is the word that a person reads."""

    SEEN = "seen"  # with their memory
    NO_AMOUNTS = "no_amounts"  # without: a container of a newer driver
    FOREIGN_PIDS = "foreign_pids"  # pids that do not exist here: the host's, seen from a container
    EMPTY = "empty"  # nobody, although the memory is in use: a container
    ABSENT = "absent"  # not among those that are listed: they use no GPU (yet)
    UNKNOWN = "unknown"  # there is no list


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """One worker's part. used_bytes: on all its devices together, with its ranks. capacity_bytes: of those devices;
    device_used_bytes: by everybody on them. room_bytes: the least that is free on any of them. ratio: its largest part
    of one of them. ranks: how many hold memory there. estimated: used_bytes is what the others leave, not what NVML
    tells of the process."""

    used_bytes: int | None = None
    capacity_bytes: int | None = None
    device_used_bytes: int | None = None
    room_bytes: int | None = None
    ratio: float | None = None
    ranks: int = 0
    estimated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribution:
    """shares: in the order of the workers. devices: UUIDs of the target's devices, None when not known which they are.

    missing: configured devices that there are not.
    """

    shares: tuple[Share, ...]
    view: PidView
    devices: frozenset[str] | None
    missing: tuple[str | int, ...] = ()


def attribute(
    reading: GpuReading,
    workers: Sequence[Collection[int]],
    *,
    configured: Collection[str | int] = (),
    existing: Collection[int],
    ranks: Sequence[Collection[int]] | None = None,
    before: frozenset[str] | None = None,
    pids_seen: bool = False,
) -> Attribution:
    """Which part of the devices is whose.

    workers: of each, the pids it goes by: its own, and those in other pid namespaces (the NSpid line of its status).
    configured: UUIDs or NVML's indices of the target's devices; empty: they are found by the workers' pids.
    existing: all pids there are here; another process's pid is nobody's second name.
    ranks: of each worker, the processes below it that work on a GPU for it, as those of a tensor-parallel model.
    before: the devices that were found last: while one of them tells no list, a worker's part on it is not known, and
    so its sum is not. They are the target's until it is found on others: a worker that cannot start on a broken one is
    listed nowhere.
    pids_seen: NVML listed a worker's pid before: no container hides them, and a stranger is a process that just ended.
    """
    chosen, missing = _choose(reading.devices, configured)
    below = [frozenset(others) for others in ranks or [()] * len(workers)]
    pids = [_names(own, existing) | others for own, others in zip(workers, below, strict=True)]
    case = _Case(
        devices=chosen,
        is_configured=bool(configured),
        view=_view(chosen, frozenset().union(*pids), existing, pids_seen=pids_seen),
        is_alone=len(pids) == 1,
        is_whole=not any(d.processes is None and (configured or d.uuid in (before or ())) for d in chosen),
        existing=existing,
    )
    found = [d for d in chosen if any(own & _list(d).keys() for own in pids)]
    used = chosen if configured else found or (chosen if len(chosen) == 1 else [])
    uuids = frozenset(uuid for d in used for uuid in (d.uuid, d.parent) if uuid is not None)
    return Attribution(
        shares=tuple(case.share(own, others) for own, others in zip(pids, below, strict=True)),
        view=case.view,
        devices=(uuids if case.is_whole and uuids else uuids | (before or frozenset())) or None,
        missing=missing,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """What is so for all workers of a target. devices: those it may use."""

    devices: Sequence[DeviceReading]
    is_configured: bool
    view: PidView
    is_alone: bool
    is_whole: bool
    existing: Collection[int]

    def share(self, pids: frozenset[int], ranks: frozenset[int]) -> Share:
        """pids: of the worker and its ranks. What it holds on each device is told, or else estimated."""
        mine = [d for d in self.devices if pids & _list(d).keys()]
        at_work = mine or (self.devices if self.is_configured or len(self.devices) == 1 else [])
        parts = [_told(d, pids) if self.is_whole else None for d in mine]
        estimated = _sum(parts) is None and self.is_alone
        if estimated:
            parts = self._estimate(pids, at_work)
        devices = at_work if estimated else mine
        used = _sum(parts)
        return Share(
            used_bytes=used,
            capacity_bytes=_sum([d.total_bytes for d in at_work]),
            device_used_bytes=_sum([d.used_bytes for d in at_work]),
            room_bytes=_least([_minus(d.total_bytes, [d.used_bytes]) for d in at_work]),
            ratio=None if used is None else _largest_ratio(parts, [d.total_bytes for d in devices]),
            ranks=len({pid for d in mine for pid in ranks & _list(d).keys()}),
            estimated=estimated and used is not None,
        )

    def _estimate(self, pids: frozenset[int], devices: Sequence[DeviceReading]) -> list[int | None]:
        """The only worker's memory on each device where the lists do not tell it. None when others may hold some."""
        if self.view is PidView.NO_AMOUNTS:
            return [_minus(d.used_bytes, [u or None for p, u in _list(d).items() if p not in pids]) for d in devices]
        if not self.is_configured or not self.is_whole:
            return []
        if self.view is PidView.FOREIGN_PIDS:
            strangers = [[u or None for pid, u in _list(d).items() if pid not in self.existing] for d in devices]
            return [amounts[0] if len(amounts) == 1 else None for amounts in strangers]
        return [d.used_bytes for d in devices] if self.view is PidView.EMPTY else []


def _choose(
    devices: Sequence[DeviceReading], configured: Collection[str | int]
) -> tuple[list[DeviceReading], tuple[str | int, ...]]:
    """Those on which work runs (the slices of a sliced GPU), of those configured; and what is configured in vain."""

    def names(device: DeviceReading) -> set[str | int | None]:
        return {device.uuid, device.parent, device.index}

    working = [d for d in devices if not d.sliced]
    if not configured:
        return working, ()
    meant = {name: _whole(name, devices) for name in configured}
    missing = tuple(name for name, whole in meant.items() if not any(whole in names(d) for d in devices))
    return [d for d in working if names(d) & set(meant.values())], missing


def _whole(name: str | int, devices: Sequence[DeviceReading]) -> str | int:
    """A UUID may be cut short, as in CUDA_VISIBLE_DEVICES, as long as only one begins so."""
    if isinstance(name, int):
        return name
    begun = {uuid for d in devices for uuid in (d.uuid, d.parent) if uuid is not None and uuid.startswith(name)}
    return begun.pop() if len(begun) == 1 else name


def _names(pids: Collection[int], existing: Collection[int]) -> frozenset[int]:
    first, *others = pids
    return frozenset({first, *(pid for pid in others if pid not in existing)})


def _view(
    devices: Sequence[DeviceReading], mine: frozenset[int], existing: Collection[int], *, pids_seen: bool
) -> PidView:
    lists = [d.processes for d in devices if d.processes is not None]
    if not lists:
        return PidView.UNKNOWN
    amounts = [listed[pid] for listed in lists for pid in listed.keys() & mine]
    if amounts:
        return PidView.SEEN if all(amounts) else PidView.NO_AMOUNTS
    if pids_seen:
        return PidView.ABSENT
    if any(pid not in existing for listed in lists for pid in listed):
        return PidView.FOREIGN_PIDS
    if not any(lists) and any((d.used_bytes or 0) > _IDLE_BYTES[d.memory_version or "v1"] for d in devices):
        return PidView.EMPTY
    return PidView.ABSENT


def _list(device: DeviceReading) -> Mapping[int, int | None]:
    return device.processes or {}


def _told(device: DeviceReading, pids: frozenset[int]) -> int | None:
    """0 bytes is what a driver says that does not tell: a process that is listed uses some."""
    return _sum([_list(device)[pid] or None for pid in pids & _list(device).keys()])


def _minus(total: int | None, parts: Sequence[int | None]) -> int | None:
    known = [part for part in parts if part is not None]
    return None if total is None or len(known) < len(parts) else max(0, total - sum(known))


def _sum(amounts: Sequence[int | None]) -> int | None:
    """None when empty or when one is unknown."""
    known = [amount for amount in amounts if amount is not None]
    return sum(known) if known and len(known) == len(amounts) else None


def _least(amounts: Sequence[int | None]) -> int | None:
    """None when empty or when one is unknown."""
    known = [amount for amount in amounts if amount is not None]
    return min(known) if known and len(known) == len(amounts) else None


def _largest_ratio(parts: Sequence[int | None], totals: Sequence[int | None]) -> float | None:
    """None when one is unknown."""
    known = [part / total for part, total in zip(parts, totals, strict=True) if part is not None and total]
    return max(known) if known and len(known) == len(parts) else None
