"""A model with its fixed input on a device: loaded from a file or a factory, called and timed."""

from __future__ import annotations

import hashlib
import importlib
import os
import platform
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Tuple

from watchdog_agent import wire
from watchdog_agent.kernel import Kernel, kernel_name
from watchdog_agent.tensors import HASH_DIGITS, build_inputs, describe_inputs, load_tensors

if TYPE_CHECKING:
    import torch

    from watchdog_agent.tensors import Inputs

TORCHSCRIPT_SUFFIXES = (".pt", ".pth", ".ts", ".jit")


class ModelError(Exception):
    """The model cannot be loaded as it was asked for; the text says what is wrong."""


class Model:
    """Built by `load_model`. `described` holds what the daemon is told about it."""

    def __init__(self, module: Any, inputs: Inputs, device: torch.device, described: wire.Loaded) -> None:
        self._module = module
        self._args, self._kwargs = inputs
        self._device = device
        self._kernel: Optional[Kernel] = None  # built when it is wanted
        self.described = described

    def call(self) -> Any:
        """The model's answer, finished on the device. The input is a fresh copy: a model may write into its own."""
        args, kwargs = self._prepared()
        answer = self._module(*args, **kwargs)
        self._finish()
        return answer

    def timed_call(self, *, control: bool = False) -> Tuple[Any, wire.Timed]:
        """The answer and how long it took; copying the input is not counted.

        control: run the reference kernel after it. When that fails nothing is lost: a device that is broken shows in
        the next call of the model itself.
        """
        import torch

        args, kwargs = self._prepared()
        events = [_event(), _event()] if self.on_cuda else []
        self._finish()
        start = time.perf_counter()
        if events:
            events[0].record(torch.cuda.current_stream(self._device))
        answer = self._module(*args, **kwargs)
        if events:
            events[1].record(torch.cuda.current_stream(self._device))
        self._finish()
        latency_s = time.perf_counter() - start
        device_s = events[0].elapsed_time(events[1]) / 1000 if events else None  # milliseconds
        control_s = self._run_kernel() if control else None
        return answer, wire.Timed(latency_s=latency_s, device_s=device_s, control_s=control_s)

    @property
    def on_cuda(self) -> bool:
        return self._device.type == "cuda"

    def environment(self) -> Dict[str, str]:
        """What a profiler snapshot was taken under."""
        described = self.described
        return {
            **described.provenance,
            "device": str(self._device),
            "dtype": described.dtype,
            "shapes": described.shapes,
        }

    def _run_kernel(self) -> Optional[float]:
        try:
            if self._kernel is None:
                self._kernel = Kernel(self._device)
            return self._kernel.run()
        except Exception:  # noqa: BLE001 - no memory, for example: the control is not known
            return None

    def _prepared(self) -> Inputs:
        import torch

        torch.manual_seed(0)  # a model that samples gives the same answer each time
        return tuple(t.clone() for t in self._args), {name: t.clone() for name, t in self._kwargs.items()}

    def _finish(self) -> None:
        import torch

        if self.on_cuda:
            torch.cuda.synchronize(self._device)


def _event() -> torch.cuda.Event:
    import torch

    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def load_model(request: wire.Load, *, life: Optional[str]) -> Model:
    """Load, move to the device, set to evaluation. Raises ModelError or whatever torch or the factory raises."""
    import torch

    os.chdir(request.folder)
    device = _device(request.device)
    args, kwargs = build_inputs(request.input)
    start = time.perf_counter()
    module, files = _load_module(request.model, request.weights, device)
    on_device = tuple(t.to(device) for t in args), {name: t.to(device) for name, t in kwargs.items()}
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    model_load_s = time.perf_counter() - start
    described = wire.Loaded(
        life=life,
        model_load_s=model_load_s,
        gpu_type=torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        provenance=_provenance(files, device),
        kernel=kernel_name(device.type),
        **describe_inputs((args, kwargs)),
    )
    return Model(module, on_device, device, described)


def _device(name: str) -> torch.device:
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"device is cuda, but torch {torch.__version__} of {sys.executable} sees no CUDA device")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device("cuda", torch.cuda.current_device()) if name == "cuda" else torch.device(name)


def _load_module(model: str, weights: Optional[str], device: torch.device) -> Tuple[Any, List[Path]]:
    """The module on its device and the files it came from."""

    path = Path(model)
    if ":" in model and path.suffix != ".pt2" and path.suffix not in TORCHSCRIPT_SUFFIXES:
        return _from_factory(model, weights, device)
    if weights is not None:
        raise ModelError("weights go with module:factory; a .pt2 or TorchScript file brings its own")
    if not path.is_file():
        raise ModelError("no such file" if path.suffix else "neither a file nor module:factory")
    if path.suffix == ".pt2":
        return _from_export(path, device), [path]
    if path.suffix not in TORCHSCRIPT_SUFFIXES:
        raise ModelError(f"must end in .pt2 (torch.export) or in one of {' '.join(TORCHSCRIPT_SUFFIXES)} (TorchScript)")
    return _from_torchscript(path, device), [path]


def _from_torchscript(path: Path, device: torch.device) -> Any:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit.load still works and warns since torch 2.13
        try:
            return torch.jit.load(str(path), map_location=device).eval()  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            if "constants.pkl" not in str(error):
                raise
            raise ModelError(
                "not TorchScript; a state dict is given as weights, with module:factory as model"
            ) from error


def _from_export(path: Path, device: torch.device) -> Any:
    """An exported program is in evaluation already and refuses eval(); devices are written into its graph."""
    import torch

    program = torch.export.load(str(path))
    try:
        from torch.export.passes import move_to_device_pass
    except ImportError:  # torch before 2.6
        return program.module().to(device)
    return move_to_device_pass(program, device).module()


def _from_factory(model: str, weights: Optional[str], device: torch.device) -> Tuple[Any, List[Path]]:
    """`package.module:factory` or `folder/file.py:factory`; the current folder or the file's own is importable."""
    import torch

    where, _, name = model.rpartition(":")
    source = Path(where)
    folder, module_name = (source.parent, source.stem) if source.suffix == ".py" else (Path(), where)
    if source.suffix == ".py" and not source.is_file():
        raise ModelError(f"no such file: {where}")
    sys.path.insert(0, str(folder.resolve()))
    imported = importlib.import_module(module_name)
    factory = getattr(imported, name, None)
    if not callable(factory):
        raise ModelError(f"{where} has no function {name!r}")
    module = factory()
    if not isinstance(module, torch.nn.Module):
        raise ModelError(f"{name}() returned a {type(module).__name__}, not a torch.nn.Module")
    files = [Path(imported.__file__)] if imported.__file__ else []
    if weights is not None:
        module.load_state_dict(load_tensors(weights))
        files.append(Path(weights))
    return module.to(device).eval(), files


def _provenance(files: List[Path], device: torch.device) -> Dict[str, str]:
    import torch

    known = {
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "threads": str(torch.get_num_threads()),
        "model_hash": _hash_files(files),
    }
    if device.type == "cuda":
        known["gpu"] = torch.cuda.get_device_name(device)
        known["cuda"] = str(torch.version.cuda)
    return known


def _hash_files(files: List[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            for piece in iter(lambda: file.read(1 << 20), b""):
                digest.update(piece)
    return digest.hexdigest()[:HASH_DIGITS]
