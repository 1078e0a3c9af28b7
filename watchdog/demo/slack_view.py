"""Draws a Slack message in the terminal as it would look, from the very payload that was sent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

WIDTH = 96


def draw(payload: Mapping[str, Any]) -> RenderableType:
    """A Block Kit payload of header, section, fields and context blocks as a panel."""
    parts: list[RenderableType] = []
    for block in payload["blocks"]:
        if block["type"] == "header":
            parts.append(Text(_unescape(block["text"]["text"]), style="bold"))
        elif block["type"] == "section":
            parts.append(_mrkdwn(block["text"]["text"]))
            if block.get("fields"):
                parts.append(_fields([f["text"] for f in block["fields"]]))
        elif block["type"] == "context":
            parts += [Text.assemble(_mrkdwn(e["text"]), style="dim") for e in block["elements"]]
    return Padding(Panel(Group(*parts), title="Slack", title_align="left", width=WIDTH, border_style="magenta"), (0, 3))


def _fields(texts: list[str]) -> Table:
    """Two columns, as Slack lays fields out."""
    grid = Table.grid(padding=(0, 2), expand=True)
    grid.add_column(ratio=1)
    grid.add_column(ratio=1)
    for left in range(0, len(texts), 2):
        grid.add_row(*(_mrkdwn(text) for text in texts[left : left + 2]))
    return grid


def _mrkdwn(text: str) -> Text:
    """*bold* and `code` of Slack's markup; the rest as it is."""
    drawn = Text()
    for part in re.split(r"(\*[^*\n]+\*|`[^`\n]+`)", text):
        if len(part) > 2 and part[0] == part[-1] == "*":
            drawn.append(_unescape(part[1:-1]), style="bold")
        elif len(part) > 2 and part[0] == part[-1] == "`":
            drawn.append(_unescape(part[1:-1]), style="cyan")
        else:
            drawn.append(_unescape(part))
    return drawn


def _unescape(text: str) -> str:
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
