"""What else changed when a canary got slower: its control, its load, the machine around it. Gathered here, judged in
`cause`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from baselines.floor import UNSEEN, Lift
from baselines.seen import Seen, median_fact
from probes.facts import CPU_PRESSURE, CPU_STEAL, IO_PRESSURE, MEMORY_PRESSURE, SERVER_WAIT

MARGINS: Mapping[str, float] = {
    CPU_STEAL: 0.05,
    CPU_PRESSURE: 0.15,
    MEMORY_PRESSURE: 0.05,
    IO_PRESSURE: 0.15,
    SERVER_WAIT: 0.15,
}
"""By how much a fact must exceed what it was at baseline, nine times in ten, to speak of a busier machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signs:
    """Of the bursts since a slowdown began.

    whole: the location moved, not only the slowest requests. floor: of the canary.
    floor_over_control: of the canary's over the control's, None without a control on both sides, and while one spell of
    a busy machine may be all there is; leans: it rose far enough, be it for certain or not, or for no longer than a
    spell. control_share: how much of the canary's shift its control shared, None without a control.
    busier: whether the target is asked for more and was as slow at like load, or never had so much; None where its load
    is not known. crowded: what says that the machine is busier than at baseline, for a person; None when nothing does.
    """

    whole: bool
    floor: Lift
    floor_over_control: Lift | None = None
    leans: bool = False
    control_share: float | None = None
    busier: bool | None = None
    crowded: str | None = None


NO_SIGNS = Signs(whole=False, floor=UNSEEN)


def crowding(seen: Sequence[Seen], usual: Sequence[Mapping[str, float]]) -> str | None:
    """The fact that exceeds the baseline's the most, by MARGINS, in words; None when none does."""
    found: list[tuple[float, str]] = []
    for name, margin in MARGINS.items():
        now, known = median_fact(seen, name), [facts[name] for facts in usual if name in facts]
        if now is None or not known:
            continue
        line = float(np.quantile(known, 0.9)) + margin
        if now > line:
            found.append((now / line, f"{name} {now:.2f}, at baseline {float(np.median(known)):.2f}"))
    return max(found)[1] if found else None
