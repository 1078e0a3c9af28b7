"""How often the GPU driver is asked, and how long it may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Rhythm:
    """All in seconds.

    memory_s, lists_s: from one reading of a GPU to the next; lists of processes and health come every lists_s. Memory
    takes the driver microseconds, a list of processes milliseconds under its lock (MangoHud#2104).
    deadline_s: of one call. open_deadline_s: until NVML is opened, which takes seconds for each GPU where nobody keeps
    the driver awake. silent_s: without a beat the child itself is stuck.
    patience_s: how long a reading waits for a burst to end; longer than a canary's usual time-out.
    suspect_s: after a call about a GPU hung, until that GPU is asked again; how long all must be well before another
    child may be left behind; how long a GPU is lost before NVML is opened anew for it.
    again_s: until a child that ended, or found no driver, is started anew; doubles up to again_max_s.
    ready_s: how long a first burst waits for the types of the GPUs.
    """

    memory_s: float = 5.0
    lists_s: float = 15.0
    deadline_s: float = 10.0
    open_deadline_s: float = 60.0
    silent_s: float = 15.0
    patience_s: float = 30.0
    suspect_s: float = 300.0
    again_s: float = 60.0
    again_max_s: float = 3600.0
    ready_s: float = 10.0

    @property
    def stale_s(self) -> float:
        """A reading older than this is none: the longest wait that is no fault, and one more round."""
        return self.patience_s + self.deadline_s + 2 * self.lists_s
