"""The rules of `gpu_signals` about faults: the device as a whole, its memory, and the errors its driver reported."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from baselines.gpu_view import XID_STANDS_S, Finding, View, said
from baselines.verdict import Reason
from baselines.xid import APP_OR_HARDWARE, FELL_OFF, NVLINK, Remedy, Xid, look_up
from probes.gpu.nvml import GpuFault
from probes.gpu.reading import Xid as XidEvent

XID_SEEN_S = 3600.0
SETTLED_S = 60.0  # after an Xid, what the driver says of the device counts again
SAME_XID_S = 60.0  # one error is reported for each unit that it hit, within seconds
REPEATS = 3
MAX_ROWS_REMAPPED = 512  # DCGM, uncorrectable
MAX_PAGES_RETIRED = 63  # DCGM
_BROKEN: Mapping[str, str] = {
    GpuFault.POWER_CABLE: "NVML says that a power cable is missing",
    GpuFault.INTERRUPTS: "NVML says that the interrupts of the GPU do not come",
}
_ACTIONS: Mapping[int, tuple[Reason, str]] = {  # nvmlDeviceGpuRecoveryAction_t
    1: (Reason.GPU_RESET_NEEDED, "a reset of the GPU"),
    2: (Reason.REBOOT_NEEDED, "a reboot of the node"),
    3: (Reason.GPU_RESET_NEEDED, "peer-to-peer traffic to be drained"),
    4: (Reason.GPU_RESET_NEEDED, "peer-to-peer traffic to be drained and a reset"),
    5: (Reason.GPU_RESET_NEEDED, "its IMEX domain to be recovered"),
    6: (Reason.GPU_RESET_NEEDED, "a reset of its PCIe bus"),
    7: (Reason.REBOOT_NEEDED, "a reboot of the system"),
}

# --- the driver and the device as a whole -----------------------------------------------------------------------------


def _lost(view: View) -> Finding | None:
    if GpuFault.GPU_LOST in (view.newest.fault, view.newest.figures.get("fault")):
        return said(view, Reason.GPU_LOST, "NVML says that the GPU is lost")
    return _asked(view, Reason.GPU_LOST, Remedy.REBOOT, lambda xid: xid.code == FELL_OFF)


def _reboot(view: View) -> Finding | None:
    return _action(view, Reason.REBOOT_NEEDED) or _asked(
        view, Reason.REBOOT_NEEDED, Remedy.REBOOT, lambda xid: xid.code != FELL_OFF
    )


def _reset(view: View) -> Finding | None:
    if GpuFault.RESET_REQUIRED in (view.newest.fault, view.newest.figures.get("fault")):
        return said(view, Reason.GPU_RESET_NEEDED, "NVML says that the GPU needs a reset")
    return _action(view, Reason.GPU_RESET_NEEDED) or _asked(view, Reason.GPU_RESET_NEEDED, Remedy.RESET_GPU)


def _action(view: View, reason: Reason) -> Finding | None:
    code = view.number("recovery_action")
    asked = _ACTIONS.get(int(code)) if code is not None else None
    if asked is None or asked[0] is not reason:
        return None
    return said(view, reason, f"the driver asks for {asked[1]}", recovery_action=code)


def _asked(view: View, reason: Reason, remedy: Remedy, which: Callable[[Xid], bool] = lambda _: True) -> Finding | None:
    """An Xid that asks for it still, unless the driver has said since then that nothing is to be done."""
    for xid, at in view.standing():
        if xid.remedy is remedy and which(xid) and not _is_over(view, xid, at):
            return Finding(reason=reason, since=at, detail=f"{xid} was reported", evidence={"xid": xid.code})
    return None


def _is_over(view: View, xid: Xid, at: float) -> bool:
    """By the newest reading that tells what is to be done: one that does not makes it no worse."""
    settled = [s for s in view.samples if s.at >= at + SETTLED_S and s.fault is None]
    actions = [action for s in settled if (action := s.number("recovery_action")) is not None]
    if actions:
        return actions[-1] == 0
    return xid.code == FELL_OFF and bool(settled) and settled[-1].number("power_w") is not None


# --- memory -----------------------------------------------------------------------------------------------------------


def _faulty(view: View) -> Finding | None:
    if (broken := _BROKEN.get(view.newest.fault or "")) is not None:
        return said(view, Reason.GPU_FAULTY, broken)
    flag = view.flag("row_remap_failed", "memory_unrepairable", "sram_threshold_exceeded")
    if flag is not None:
        return said(view, Reason.GPU_FAULTY, flag.replace("_", " "))
    rows = view.number("rows_remapped_uncorrected") or 0
    if rows >= MAX_ROWS_REMAPPED:
        return said(view, Reason.GPU_FAULTY, f"{rows:.0f} rows were remapped for uncorrectable errors")
    pages = sum(view.number(f"pages_retired_{bits}_bit") or 0 for bits in ("single", "double"))
    if pages >= MAX_PAGES_RETIRED:
        return said(view, Reason.GPU_FAULTY, f"{pages:.0f} pages of memory are retired")
    return None


def _uncorrected(view: View) -> Finding | None:
    errors = view.number("ecc_volatile_uncorrected") or 0
    if errors <= 0:
        return None
    first = next(s.at for s in view.samples if (s.number("ecc_volatile_uncorrected") or 0) > 0)
    detail = f"{errors:.0f} uncorrectable memory error{'s' if errors > 1 else ''} since the driver was loaded"
    return Finding(reason=Reason.ECC_UNCORRECTED, since=first, detail=detail, evidence={"ecc_uncorrected": errors})


def _repair(view: View) -> Finding | None:
    flag = view.flag("row_remap_pending", "pages_retirement_pending", "repair_pending")
    if flag is None:
        return None
    detail = f"{flag.replace('_', ' ')}: needs a GPU reset; a recycle cannot help"
    return said(view, Reason.MEMORY_REPAIR_PENDING, detail)


# --- errors that the driver reported ----------------------------------------------------------------------------------


def _repeated(view: View) -> Finding | None:
    for code in APP_OR_HARDWARE - view.around.xid.keys():
        mine = _apart([e for e in view.xids if e.xid == code and e.device == view.newest.uuid], view.now)
        elsewhere = any(e.xid == code and e.device != view.newest.uuid for e in view.xids)
        if len(mine) >= REPEATS and not elsewhere:
            detail = f"{look_up(code, {})} was reported {len(mine)} times in a day, on this GPU only"
            return Finding(reason=Reason.XID_REPEATED, since=mine[0], detail=detail, evidence={"xid": code})
    return None


def _apart(events: Sequence[XidEvent], now: float) -> list[float]:
    """The times of those of the last day, one for each that came together."""
    times: list[float] = []
    last = -SAME_XID_S
    for event in events:
        if event.at >= now - XID_STANDS_S and event.at - last > SAME_XID_S:
            times.append(event.at)
        last = event.at
    return times


def _poisoned(view: View) -> Finding | None:
    for xid, at in view.standing():
        if xid.remedy is Remedy.RESTART_APP and _is_poisoning(view, at):
            detail = f"{xid} was reported; CUDA is unusable in its process for as long as that lives"
            return Finding(reason=Reason.CONTEXT_POISONED, since=at, detail=detail, evidence={"xid": xid.code})
    return None


def _is_poisoning(view: View, at: float) -> bool:
    """Whether it surely hit a worker that still lives: it ran then, alone on the device, and has not answered since."""
    around = view.around
    if view.newest.others != 0 or around.worker_since is None or around.worker_since > at:
        return False
    return not (around.alone and around.good_at is not None and around.good_at > at)


def _seen(view: View) -> Finding | None:
    for xid, at in view.standing():
        unclear = xid.remedy is Remedy.UNKNOWN or (xid.remedy is Remedy.WORKFLOW and xid.code not in {45, *NVLINK})
        unowned = xid.remedy is Remedy.RESTART_APP and not _is_ended(view, at) and not _is_poisoning(view, at)
        if at >= view.now - XID_SEEN_S and (unclear or unowned):
            return Finding(reason=Reason.XID_SEEN, since=at, detail=f"{xid} was reported", evidence={"xid": xid.code})
    return None


def _is_ended(view: View, at: float) -> bool:
    """Whether all workers of that time are gone."""
    return view.around.worker_since is not None and view.around.worker_since > at


FAULTS: Mapping[Reason, Callable[[View], Finding | None]] = {
    Reason.GPU_LOST: _lost,
    Reason.REBOOT_NEEDED: _reboot,
    Reason.GPU_RESET_NEEDED: _reset,
    Reason.GPU_FAULTY: _faulty,
    Reason.ECC_UNCORRECTED: _uncorrected,
    Reason.MEMORY_REPAIR_PENDING: _repair,
    Reason.XID_REPEATED: _repeated,
    Reason.CONTEXT_POISONED: _poisoned,
    Reason.XID_SEEN: _seen,
}
