"""What every file of the agent promises, since it runs inside somebody else's Python."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import watchdog_agent

FILES = sorted(Path(watchdog_agent.__file__).parent.rglob("*.py"))


def _imports(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_agent_file_is_python_3_9(path: Path) -> None:
    """Serving processes run older Pythons than the daemon."""
    ast.parse(path.read_text(), feature_version=(3, 9))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_agent_file_imports_only_the_standard_library_and_torch(path: Path) -> None:
    """The agent drags nothing into a serving process."""
    assert _imports(ast.parse(path.read_text())) <= set(sys.stdlib_module_names) | {"torch", "watchdog_agent"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_agent_file_bears_no_standard_library_name(path: Path) -> None:
    """A module `queue` or `types` would shadow the real one when its folder is on the path."""
    assert path.stem == "__init__" or path.stem not in sys.stdlib_module_names


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_agent_file_imports_torch_late(path: Path) -> None:
    """Only inside functions: importing the agent never costs what importing torch does."""
    at_import = [
        n
        for n in ast.parse(path.read_text()).body
        if isinstance(n, (ast.Import, ast.ImportFrom)) and "torch" in _imports(ast.Module([n], []))
    ]
    assert at_import == []
