"""The verdicts that stand: the last word on each subject of each check of each target."""

from __future__ import annotations

from collections.abc import Iterator

from baselines.verdict import Check, Status, Verdict, worst


class Standing:
    """Kept by target and check, since that is how the whole of a check is told, with every result."""

    def __init__(self) -> None:
        self._verdicts: dict[tuple[str, Check], dict[str, Verdict]] = {}

    def __iter__(self) -> Iterator[Verdict]:
        """All of them, as they stood when it was called."""
        return iter([verdict for subjects in self._verdicts.values() for verdict in subjects.values()])

    def put(self, verdict: Verdict) -> None:
        self._verdicts.setdefault((verdict.target, verdict.check), {})[verdict.subject] = verdict

    def before(self, verdict: Verdict) -> Verdict | None:
        """What stands of the subject that this verdict is about; None when nothing was said yet."""
        return self._verdicts.get((verdict.target, verdict.check), {}).get(verdict.subject)

    def status(self, target: str, check: Check) -> Status:
        """The worst of a check over its subjects; comparisons with peers that cannot be made count only when alone."""
        verdicts = self._verdicts[target, check].values()
        return worst([v for v in verdicts if not v.is_moot] or verdicts).status
