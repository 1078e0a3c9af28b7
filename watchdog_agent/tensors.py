"""Tensors in and out: the fixed input from its description, and what is kept of an answer. Needs no numpy."""

from __future__ import annotations

import ctypes
import hashlib
import math
import pickle
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional, Tuple

from watchdog_agent import wire

if TYPE_CHECKING:
    import torch

    Inputs = Tuple[Tuple[torch.Tensor, ...], Dict[str, torch.Tensor]]

HASH_DIGITS = 16  # hexadecimal digits kept of sha256, as the daemon keeps of its own hashes


def build_inputs(spec: Mapping[str, Any]) -> Inputs:
    """Positional and keyword arguments of the model, on the CPU, the same each time. One of

    {"shape": [1, 16], "dtype": "float32", "seed": 0, "low": 0, "high": 1000}
        integers (and bool) uniform in [low, high), by default [0, 1000) ([0, 2)); floats standard normal, or uniform
        in [low, high) where either is given (by default [0, 1))
    {"file": "x.pt"}             a tensor, a list of tensors (positional) or a dict of tensors (keywords)
    {"inputs": [spec, spec]}     several random positional inputs

    Raises ValueError that names what is wrong.
    """
    import torch

    if set(spec) == {"file"}:
        content = load_tensors(spec["file"])
        args = (content,) if isinstance(content, torch.Tensor) else content
        if isinstance(args, Mapping) and all(isinstance(t, torch.Tensor) for t in args.values()):
            return (), dict(args)
        if isinstance(args, (tuple, list)) and all(isinstance(t, torch.Tensor) for t in args):
            return tuple(args), {}
        raise ValueError(f"input file {spec['file']} holds no tensor, list of tensors or dict of tensors")
    if set(spec) == {"inputs"}:
        return tuple(_random_tensor(s) for s in spec["inputs"]), {}
    return (_random_tensor(spec),), {}


def load_tensors(path: str) -> Any:
    """What a file of tensors holds, on the CPU. No code in it is run: ValueError when it holds more than tensors."""
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} holds more than tensors, or is no file of torch.save") from error


def _random_tensor(spec: Mapping[str, Any]) -> torch.Tensor:
    import torch

    unknown = set(spec) - {"shape", "dtype", "seed", "low", "high"}
    if unknown or "shape" not in spec:
        raise ValueError(f"input: needs shape, and may have dtype, seed, low, high; given {', '.join(sorted(spec))}")
    dtype = getattr(torch, str(spec.get("dtype", "float32")), None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"input: torch has no dtype {spec['dtype']!r}")  # noqa: TRY004 - a wrong word in a file
    shape, generator = list(spec["shape"]), torch.Generator().manual_seed(int(spec.get("seed", 0)))
    if not dtype.is_floating_point and not dtype.is_complex:
        low, high = int(spec.get("low", 0)), int(spec.get("high", 2 if dtype is torch.bool else 1000))
        return torch.randint(low, high, shape, generator=generator).to(dtype)
    if "low" in spec or "high" in spec:
        start, end = float(spec.get("low", 0.0)), float(spec.get("high", 1.0))
        return (torch.rand(shape, generator=generator) * (end - start) + start).to(dtype)
    return torch.randn(shape, generator=generator).to(dtype)


def describe_inputs(inputs: Inputs) -> Dict[str, str]:
    """input_hash (over names, dtypes, shapes and bytes), shapes and dtype: what makes two latencies comparable."""
    named = _named(inputs)
    digest = hashlib.sha256()
    for name, tensor in named:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        _hash_bytes(digest, tensor)
    shapes = (f"{name}={tuple(t.shape)}" if name else str(tuple(t.shape)) for name, t in named)
    dtypes = dict.fromkeys(str(t.dtype).replace("torch.", "") for _, t in named)
    return {"input_hash": digest.hexdigest()[:HASH_DIGITS], "shapes": ", ".join(shapes), "dtype": ", ".join(dtypes)}


def first_tensor(answer: Any) -> Optional[torch.Tensor]:
    """The first tensor in a tensor, list, mapping or dataclass, depth first; None when there is none."""
    import torch

    if isinstance(answer, torch.Tensor):
        return answer
    if isinstance(answer, Mapping):
        items: List[Any] = list(answer.values())
    elif isinstance(answer, (tuple, list)):
        items = list(answer)
    else:
        items = list(vars(answer).values()) if hasattr(answer, "__dataclass_fields__") else []
    return next((found for found in map(first_tensor, items) if found is not None), None)


def summarise(tensor: torch.Tensor, *, values: int, top_k: int) -> wire.Summary:
    """Hash, shape and summary numbers of an answer, equal to what the daemon works out for the same numbers.

    mean, std, low, high are over the finite values and None where there are none. Kept values: flat[i * count // n]
    for i in range(n), n = min(count, values). Complex numbers count as pairs. Empty tensors have finite None.
    """
    import torch

    whole = _plain(tensor)
    flat = (torch.view_as_real(whole) if whole.is_complex() else whole).reshape(-1).double()
    count = flat.numel()
    finite = torch.isfinite(flat)
    some = flat if count and bool(finite.all()) else flat[finite]
    statistics: List[Optional[float]] = [None] * 4
    if some.numel():
        numbers = (some.mean(), some.std(unbiased=False), some.min(), some.max())
        statistics = [float(x) if math.isfinite(float(x)) else None for x in numbers]
    kept = min(count, values)
    digest = hashlib.sha256()
    _hash_bytes(digest, whole)
    return wire.Summary(
        content_hash=digest.hexdigest()[:HASH_DIGITS],
        shape=list(whole.shape),
        finite=bool(finite.all()) if count else None,
        count=count,
        mean=statistics[0],
        std=statistics[1],
        low=statistics[2],
        high=statistics[3],
        values=flat[torch.arange(kept) * count // kept].tolist() if kept else [],
        top_k=_largest(flat, min(top_k, count)) if top_k and count else [],
    )


def _largest(flat: torch.Tensor, k: int) -> List[int]:
    """Indices of the k largest, largest first; of equals the lower index first (`topk` alone promises no order)."""
    import torch

    ranked = torch.nan_to_num(flat, nan=-math.inf, posinf=math.inf, neginf=-math.inf)
    candidates = torch.nonzero(ranked >= torch.topk(ranked, k).values[-1]).reshape(-1)
    order = torch.sort(ranked[candidates], descending=True, stable=True).indices[:k]
    return [int(i) for i in candidates[order]]


def _named(inputs: Inputs) -> List[Tuple[str, torch.Tensor]]:
    args, kwargs = inputs
    return [("", t) for t in args] + list(kwargs.items())


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """The same numbers on the CPU, dense, in one piece."""
    return tensor.detach().to_dense().cpu().resolve_conj().resolve_neg().contiguous()


def _hash_bytes(digest: Any, tensor: torch.Tensor) -> None:
    """Without a copy; bfloat16 has no numpy type and numpy may not be installed."""
    plain = _plain(tensor)
    size = plain.numel() * plain.element_size()
    if size:
        digest.update((ctypes.c_ubyte * size).from_address(plain.data_ptr()))
