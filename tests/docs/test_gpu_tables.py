"""The tables of docs/gpu.md are those of the code: what is read, what it means, what each Xid asks for."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from baselines.gpu_signals import CONTEXT, SIGNALS
from baselines.xid import XIDS, Remedy

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "gpu.md").read_text()
ASKS = {
    Remedy.RESTART_APP: "the process ends: a recycle helps",
    Remedy.RESET_GPU: "a reset of the GPU",
    Remedy.REBOOT: "a reboot",
    Remedy.WORKFLOW: "other figures, or another code, say what to do",
    Remedy.IGNORE: "nothing",
}


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(line)} |" for line in (head, *rows)]
    return "\n".join([lines[0], f"|{'---|' * len(head)}", *lines[1:]])


def _ranges(codes: Sequence[int]) -> str:
    """1, 3 to 5."""
    runs = [[code for _, code in run] for _, run in groupby(enumerate(sorted(codes)), lambda each: each[1] - each[0])]
    said = [
        [str(run[0]), f"{run[0]} to {run[-1]}"][len(run) > 2] if len(run) != 2 else f"{run[0]}, {run[1]}"
        for run in runs
    ]
    return ", ".join(said)


def _same(table: str) -> None:
    """With the table in the message, so that it can be copied into the page."""
    assert table in PAGE, f"docs/gpu.md should hold:\n\n{table}\n"


def test_the_table_of_signals() -> None:
    """Each rule with its cause, its level, what a recycle can do, and its source."""
    rows = [
        [
            f"`{row.reason}`",
            row.meaning,
            row.rule,
            f"{row.cause}, {row.level}",
            row.recycle,
            row.advice.replace("INDEX", "N"),
            row.source,
        ]
        for row in SIGNALS.values()
    ]
    _same(_table(["reason", "meaning", "when", "cause, level", "recycle", "what to do", "source"], rows))


def test_the_table_of_context() -> None:
    """What is read and never bad by itself."""
    rows = [[", ".join(f"`{name}`" for name in names), meaning] for names, meaning in CONTEXT.items()]
    _same(_table(["figures", "meaning"], rows))


def test_the_table_of_xids() -> None:
    """By what they ask for."""
    by_remedy = {remedy: [x.code for x in XIDS.values() if x.remedy is remedy] for remedy in ASKS}
    rows = [[f"`{remedy}`", ASKS[remedy], _ranges(codes)] for remedy, codes in by_remedy.items()]
    _same(_table(["remedy", "asks for", "codes"], rows))
