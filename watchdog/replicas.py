"""Who is compared with whom: the targets of one group that have a canary of one name, where they are enough."""

from __future__ import annotations

from baselines.fleet import MIN_REPLICAS
from watchdog.config import Config, TargetSection


def replicas_of(config: Config, target: TargetSection, canary: str) -> frozenset[str]:
    """Those that a target is compared with by this canary, itself among them; empty where they are too few."""
    if target.group is None:
        return frozenset()
    found = {t.name for t in config.target if t.group == target.group and any(c.name == canary for c in t.canary)}
    return frozenset(found) if target.name in found and len(found) >= MIN_REPLICAS else frozenset()
