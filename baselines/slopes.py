"""How fast a service's memory grew before this life, by version: what its restarts need not learn again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from baselines.growth import MAD, MIN_PAST, PAST_SIGMAS
from baselines.quantiles import Slope
from baselines.verdict import Evidence, Reason, Verdict

Slopes = Mapping[tuple[str, int], Sequence[float]]
"""Per second over windows, by figure and number of the window's width (`channel.SCALES`), oldest first."""

MAX_SLOPES = 40  # of each; 20 of the longest windows, half overlapping, are three weeks


@dataclass(frozen=True, slots=True, kw_only=True)
class Former:
    """The leak of the life that was in this slot before. slope: per second."""

    figure: str
    slope: float
    version: str | None = None

    @classmethod
    def of(cls, verdict: Verdict | None) -> Former | None:
        """From the last verdict on that life that knew anything; None when it did not leak then."""
        if verdict is None or verdict.reason is not Reason.LEAKING:
            return None
        figure = str(verdict.evidence.get("channel"))
        slope, version = (verdict.evidence.get(key) for key in (f"slope_{_unit(figure)}", "version"))
        if not isinstance(slope, (int, float)):
            return None
        return cls(
            figure=figure,
            slope=slope / 3600,
            version=None if version is None else str(version),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SlopeHistory:
    """own: of earlier lives of this version. before: of the version served before, None when there was none.

    former: None when the life before did not leak.
    """

    version: str | None = None
    own: Slopes = field(default_factory=dict)
    version_before: str | None = None
    before: Slopes = field(default_factory=dict)
    former: Former | None = None

    @classmethod
    def of(
        cls,
        version: str | None,
        known: Mapping[str | None, Slopes],
        newest: Mapping[str | None, float],
        *,
        former: Former | None,
    ) -> SlopeHistory:
        """For a life of this version (None: not known). known: slopes by version; newest: when each last got some."""
        others = sorted((each for each in known if each != version), key=newest.__getitem__)
        return cls(
            version=version,
            own=known.get(version, {}),
            version_before=others[-1] if others else None,
            before=known[others[-1]] if others else {},
            former=former,
        )

    def appearance(self, figure: str, scale: int, slope: Slope) -> Evidence:
        """Whether the leak came with this version; empty when that cannot be said.

        It did when the slope, at the low end of its interval, is above all that the version before is likely to have
        shown: its median and four of its deviations, at this width of window, or at the widest below it that has been
        seen often enough; shorter windows only spread more.
        """
        widths = (self.before.get((figure, width), ()) for width in range(scale, -1, -1))
        past = next((slopes for slopes in widths if len(slopes) >= MIN_PAST), None)
        if self.version is None or self.version_before is None or past is None:
            return {}
        middle = float(np.median(past))
        spread = MAD * float(np.median(np.abs(np.array(past) - middle)))
        if slope.low <= middle + PAST_SIGMAS * spread:
            return {}
        return {
            "appeared_with": self.version,
            "version_before": self.version_before,
            f"slope_before_{_unit(figure)}": middle * 3600,
        }

    def gone(self, figure: str, slope: Slope) -> Evidence:
        """What is said of the leak of the life before, once it is gone; empty when it is not, or there was none.

        It is when the slope, at the high end of its interval, is less than half of what it was.
        """
        former = self.former
        if former is None or former.figure != figure or slope.high >= former.slope / 2:
            return {}
        return {
            "version": self.version,
            f"former_slope_{_unit(figure)}": former.slope * 3600,
            "former_version": former.version,
        }


def _unit(figure: str) -> str:
    """The end of a slope's key in the evidence: descriptors and threads are counted."""
    return "bytes_per_hour" if figure.endswith("_bytes") else "per_hour"
