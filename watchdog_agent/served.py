"""What a process serves, as its own code tells: the version, how long the model took to load, its inputs' shapes."""

from __future__ import annotations

import math
import sys
import weakref
from typing import Any, Callable, Optional, Set

from watchdog_agent.ledger import LEDGER

MAX_VERSION_CHARS = 100


def warn(said: str) -> None:
    """Tell whoever reads the host's log."""
    import logging  # most hosts have it; the others do not need it until now

    logging.getLogger("watchdog_agent").warning("%s", said)


def remember(version: Optional[str], load_s: Optional[float], model: Any) -> None:
    """Each by itself: one that cannot be used is left out, and that is logged once."""
    _note("version", version, _note_version)
    _note("load_s", load_s, _note_load)
    _note("model", model, _count_shapes_of)


def _note(name: str, value: Any, note: Callable[[Any], None]) -> None:
    try:
        if value is not None:
            note(value)
    except Exception as error:  # noqa: BLE001 - never the host's problem
        if name not in _LEFT_OUT:
            _LEFT_OUT.add(name)
            warn(f"attach() cannot use this {name}: {type(error).__name__}: {error}")


def _note_version(version: Any) -> None:
    plain = "".join(c for c in str(version) if " " <= c <= "~" and c != ";")  # it goes into a header
    LEDGER.version = plain.strip()[:MAX_VERSION_CHARS] or None


def _note_load(load_s: Any) -> None:
    if not 0 <= float(load_s) < math.inf:
        raise ValueError(f"load_s is {load_s}")
    LEDGER.model_load_s = float(load_s)


def _count_shapes_of(model: Any) -> None:
    if model not in _HOOKED:
        model.register_forward_pre_hook(_look_at_shapes, with_kwargs=True)
        _HOOKED.add(model)


def _look_at_shapes(_model: Any, args: Any, kwargs: Any) -> None:
    """A function of this module, so that a model that has it can still be pickled. A compiler must not look inside."""
    if not _is_compiling():
        LEDGER.note_shapes((*args, *kwargs.values()))


def _is_compiling() -> Any:
    """In words that a compiler can follow. torch 2.1 knows it in a module that is loaded with the compiler only."""
    compiler = sys.modules["torch"].compiler
    if hasattr(compiler, "is_compiling"):
        return compiler.is_compiling()
    return "torch._dynamo" in sys.modules and sys.modules["torch._dynamo"].is_compiling()


_HOOKED: weakref.WeakSet[Any] = weakref.WeakSet()
_LEFT_OUT: Set[str] = set()
