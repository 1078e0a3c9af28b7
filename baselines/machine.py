"""Did the machine change between two baselines? Asked of the control that was measured beside both.

What slows the control down slows the canary too. Contention stretches the upper part of a canary further than that of
its shorter control, so that dividing one by the other helps little; but it leaves both floors (`floor`),
while slower code lifts the canary's alone. So the control says whether the machine moved, and the difference of the
two floors whether the canary moved as well.
"""

from __future__ import annotations

from dataclasses import dataclass

from baselines import floor
from baselines.baseline import Baseline
from baselines.cause import FLOOR_SHARE
from baselines.quantiles import Groups, Ratio, quantile_ratio, quantile_ratio_over

CONTROL_MOVED = 1.05  # a quiet control stays within this of what it was


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """New over active. p95, median: of the control. own_floor: of the canary's floor over the control's."""

    p95: Ratio
    median: Ratio
    own_floor: Ratio


def compare_machines(new: Baseline, active: Baseline, *, min_bursts: int, stretch: float) -> Machine | None:
    """None with fewer than min_bursts bursts with a control on either side. stretch: of the interval of own_floor.

    The control's own intervals are never stretched: doubt about the machine comes easily, and certainty does not.
    """
    if min(len(new.controls), len(active.controls)) < min_bursts:
        return None
    p95, median = (quantile_ratio(new.controls, active.controls, q) for q in (0.95, 0.5))
    own_floor = quantile_ratio_over(
        (_fastest(new.bursts), _fastest(active.bursts)),
        (_fastest(new.controls), _fastest(active.controls)),
        floor.QUANTILE,
    )
    return Machine(p95=p95, median=median, own_floor=own_floor.stretched(stretch))


def _fastest(groups: Groups) -> Groups:
    return tuple((min(group),) for group in groups)


def excuses(machine: Machine, control: Ratio, threshold: float) -> bool:
    """Whether the machine may be why the canary got slower. control: the ratio of the quantile that is asked about.

    It may when the control got slower, and the canary's floor did not surely rise over the control's by half of the
    threshold.
    """
    rose = control.estimate >= CONTROL_MOVED and control.lies_above(1.0)
    return rose and not machine.own_floor.lies_above(1 + FLOOR_SHARE * threshold)


def flatters(machine: Machine, control: Ratio, canary: Ratio, threshold: float) -> bool:
    """Whether the machine may hide that the canary got slower. control, canary: ratios of the quantile asked about.

    It may when the control got faster, unless the canary stays below the threshold against what the control gained,
    floor and quantile both.
    """
    fell = control.estimate <= 1 / CONTROL_MOVED and control.lies_below(1.0)
    limit = 1 + threshold
    return fell and not (machine.own_floor.lies_below(limit) and canary.lies_below(limit * control.estimate))
