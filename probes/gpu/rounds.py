"""The thread that has the GPUs read: one child process, one request at a time, and what is done about silence.

- A call that does not return in time is a wedged driver: DRIVER_UNRESPONSIVE, with the call's name. The child is left
  behind, to end when its call returns and not by a signal, and one other is started. If that one hangs too it stays; an
  answer about the same GPU ends the incident. Where there are others, that GPU is asked again late, so that they are
  read meanwhile.
- A child that ends by itself, or finds no driver, is started again ever more rarely.
- A GPU that stays lost may be there again for a process that opens NVML anew: the child is ended and started.
- What concerns all GPUs, as opening NVML and registering for Xids, waits for a moment without any burst, as a reading
  waits for one without a burst on its GPU, and as long.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from probes.gpu.helper import Helper, HelperError
from probes.gpu.known import LOST, Known, Place, Stuck
from probes.gpu.nvml import GpuFault
from probes.gpu.reading import Xid, decode
from probes.gpu.rhythm import Rhythm
from probes.gpu.window import CanaryWindow

_LOOK_S = 0.5  # how long the thread listens before it looks up
_GATE_S = 0.05  # the same while a burst is in the way
_END_S = 1.0  # for a child that may end: at the daemon's own end

log = structlog.get_logger("gpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """lists: processes and health too."""

    place: Place
    lists: bool
    sent_at: float


class Rounds:
    """Fills `known` from `run` until `stop`; sets `ready` when every GPU was read once, or none can be."""

    def __init__(
        self,
        known: Known,
        window: CanaryWindow,
        *,
        rhythm: Rhythm,
        withheld: frozenset[str],
        monotonic: Callable[[], float],
    ) -> None:
        self._known = known
        self._window = window
        self._rhythm = rhythm
        self._withheld = withheld
        self._monotonic = monotonic
        self._closing = threading.Event()
        self.ready = threading.Event()
        self._helper: Helper | None = None
        self._left: list[Helper] = []  # behind; not yet ended
        self._start_at = 0.0  # of the next child
        self._started_at = 0.0
        self._heard_at = 0.0
        self._is_open = False
        self._request: _Request | None = None
        self._anew_at: float | None = None  # since when NVML should be opened anew; None: it need not be
        self._xids_at: float | None = None  # since when the child would register for Xids; None: it would not
        self._is_registering = False
        self._again_s = rhythm.again_s
        self._well_at: float | None = None  # since when all is well after a child was left behind; None: not since
        self._replaced = False

    def stop(self) -> None:
        """Have `run` return soon."""
        self._closing.set()

    def let_go(self) -> None:
        """After `run`: let the child end, wait a moment for those that may. Safe to call twice."""
        self._end(in_s=0.0)
        for helper in self._left:
            helper.wait(_END_S)

    def run(self) -> None:
        while not self._closing.is_set():
            try:
                self._step()
            except HelperError as error:
                self._on_ended(str(error))

    def _step(self) -> None:
        now = self._monotonic()
        self._left = [helper for helper in self._left if not helper.is_gone()]
        is_idle = self._request is None and not self._is_registering
        if is_idle and self._anew_at is not None and self._may(None, since=self._anew_at, now=now):
            log.info("NVML is opened anew, for a GPU that is lost")
            self._end(in_s=0.0)
            now = self._monotonic()
        if self._helper is None and not (now >= self._start_at and self._may(None, since=self._start_at, now=now)):
            self._closing.wait(min(_LOOK_S, max(_GATE_S, self._start_at - now)))
            return
        helper = self._helper or self._start(now)
        wait_s, began = self._ask(helper, now), self._monotonic()
        heard = helper.hear(wait_s)
        if not heard:  # of a wait that took longer than it may we were stopped ourselves: nobody else was silent
            self._heard_at += max(0.0, self._monotonic() - began - 2 * _LOOK_S)
        for said in heard:
            self._heard_at = self._monotonic()
            self._take(said)
            if self._helper is not helper:
                return
        if self._monotonic() - self._heard_at > self._rhythm.silent_s:
            self._on_stuck("the whole NVML process", None)

    def _start(self, now: float) -> Helper:
        self._started_at = self._heard_at = now
        self._helper = Helper(withheld=self._withheld)
        return self._helper

    def _may(self, devices: frozenset[str] | None, *, since: float, now: float) -> bool:
        """Whether they may be asked (None: all): no burst is in the way, or has been for long enough. Bursts that begin
        wait from then on, until the window is told that it is over."""
        if not self._window.begin_reading(devices, force=now - since > self._rhythm.patience_s):
            return False
        if self._known.stuck is not None:
            self._window.end_reading()  # no burst waits for what may never end
        return True

    def _ask(self, helper: Helper, now: float) -> float:
        """Ask about the place that has waited longest and has no burst in the way, or let the child register for Xids.
        Seconds until the next look."""
        if not self._is_open or self._request is not None or self._is_registering:
            return _LOOK_S
        if self._xids_at is not None and self.ready.is_set() and self._may(None, since=self._xids_at, now=now):
            self._xids_at, self._is_registering = None, True
            helper.ask("register")
            return _LOOK_S
        due = self._known.waiting(now)
        for place in due:
            if self._may(place.uuids, since=place.due, now=now):
                soon_s = self._rhythm.memory_s / 2
                lists = place.listed_at is None or now - place.listed_at >= self._rhythm.lists_s - soon_s
                self._request = _Request(place=place, lists=lists, sent_at=now)
                helper.ask("read", index=place.index, processes=lists, health=lists)
                return _LOOK_S
        return _GATE_S if due or self._xids_at is not None else min(_LOOK_S, max(0.0, self._known.next_due() - now))

    def _take(self, said: Mapping[str, Any]) -> None:
        try:
            match said["kind"]:
                case "hello":
                    self._on_hello(said)
                case "reading":
                    self._on_reading(said["devices"])
                case "registering":
                    self._xids_at = self._monotonic()
                case "watched":
                    self._known.watch_xids(said["devices"])
                    self._on_registered()
                case "xid":
                    xid = Xid(at=said["at"], device=said["device"], xid=said["xid"])
                    log.warning("Xid", device=xid.device, xid=xid.xid)
                    self._known.take_xid(xid)
                case "beat":
                    self._on_beat(said)
        except (KeyError, TypeError, ValueError) as error:
            raise HelperError(f"the NVML process was not understood: {error}") from error

    def _on_hello(self, said: Mapping[str, Any]) -> None:
        if said["why"] is not None:
            self._known.shut(GpuFault(said["why"]))
            self._end(in_s=self._rest_s())
            self.ready.set()
            return
        self._known.open(said["devices"], said["driver"], said["cuda"])
        self._window.end_reading()
        self._is_open = True

    def _on_reading(self, devices: list[dict[str, Any]]) -> None:
        request, now = self._request, self._monotonic()
        if request is None:
            raise HelperError("the NVML process answers more than it was asked")
        self._request = None
        self._window.end_reading()
        read = [decode(device) for device in devices]
        due = now + self._rhythm.memory_s
        if self._known.take(request.place, read, lists=request.lists, now=now, due=due):
            log.warning("the GPU driver answers again")
        self._note_well(now)
        if self._known.complete:
            self.ready.set()
        is_old = now - self._started_at > self._rhythm.suspect_s
        is_lost = any(d.fault in LOST for d in self._known.reading(now).devices)
        self._anew_at = (self._anew_at or now) if is_old and is_lost else None

    def _on_registered(self) -> None:
        """For Xids, or it cannot be waited for any longer."""
        if self._is_registering:
            self._is_registering = False
            self._window.end_reading()

    def _note_well(self, now: float) -> None:
        """A driver that hangs every now and then costs one child in suspect_s, not one each time."""
        if self._known.stuck is not None:
            self._well_at = None
            return
        self._again_s = self._rhythm.again_s
        self._well_at = self._well_at or now
        if now - self._well_at > self._rhythm.suspect_s:
            self._replaced = False

    # --- what goes wrong ----------------------------------------------------------------------------------------------

    def _on_beat(self, said: Mapping[str, Any]) -> None:
        if said["xid_late_s"] > self._rhythm.deadline_s:
            self._known.watch_xids(())
            self._on_registered()
        deadline_s = self._rhythm.deadline_s if self._is_open else self._rhythm.open_deadline_s
        if said["call"] is not None and said["late_s"] > deadline_s:
            self._on_stuck(said["call"], self._request)

    def _on_stuck(self, call: str, request: _Request | None) -> None:
        """A call does not return. Leave the child behind, once an incident. request: whose call it is, if anybody's."""
        now = self._monotonic()
        if self._known.stuck is None:
            index = None if request is None else request.place.index
            log.error("the GPU driver does not answer", call=call, gpu=index)
            self._known.hang(
                Stuck(call=call, index=index, since=self._heard_at if request is None else request.sent_at)
            )
        self._well_at = None
        self._window.end_reading()
        self.ready.set()
        if self._replaced or self._helper is None:
            return
        self._replaced = True
        if request is not None:
            self._known.suspect(request.place, until=now + self._rhythm.suspect_s)
        self._end(in_s=0.0)

    def _on_ended(self, words: str) -> None:
        in_s = self._rest_s()
        log.error("the NVML process is started again", why=words, in_s=in_s)
        self._known.shut(GpuFault.FAILED)
        self.ready.set()
        self._end(in_s=in_s)

    def _end(self, *, in_s: float) -> None:
        """Let the child go, and have the next one start in so many seconds."""
        self._window.end_reading()
        self._known.watch_xids(())
        self._start_at = self._monotonic() + in_s
        if self._helper is not None:
            self._helper.let_go()
            self._left.append(self._helper)
        self._helper, self._request, self._is_open = None, None, False
        self._anew_at, self._xids_at, self._is_registering = None, None, False

    def _rest_s(self) -> float:
        rest_s = self._again_s
        self._again_s = min(2 * rest_s, self._rhythm.again_max_s)
        return rest_s
