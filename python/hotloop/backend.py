"""Which backend runs the hot loops, and why: the one process-wide choice.

`native` runs the Mojo kernels on CPU tensors; `torch` runs torch's own operators. The
choice is made once, at the first use, from two environment variables:

- `HOTLOOP_BACKEND`: `auto` (default) takes the kernels where they can run, `native`
  turns every fallback to torch into a `BackendError`, `torch` never loads the kernels.
- `HOTLOOP_CPU`: `v3` (AVX2 and FMA) or `v4` (AVX-512) instead of the best that this CPU has.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.machinery
import importlib.util
import json
import logging
import os
import platform
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from hotloop import layout
from hotloop.errors import BackendError
from hotloop.runtime import Runtime

__all__ = ["DTYPES", "Backend", "current", "describe", "kernels_for"]

#: The sizes of all shared structures, in the order of `layout` in
#: `shared/bindings/extension.mojo`. Kernels with others are not used.
LAYOUT = {
    "block": layout.BLOCK,
    "row": layout.RowWord.END,
    "record": layout.RECORD_WORDS,
    "context": layout.ContextWord.END,
    "launch": layout.LaunchWord.END,
    "plan": layout.PlanWord.END,
    "handle": layout.HandleWord.END,
    "runtime": Runtime.WORDS,
    "kernels": len(layout.KERNELS),
    "program": layout.ProgramWord.END,
    "layer": layout.LayerWord.END,
    "layer kinds": layout.LayerKind.END,
}

#: The numbers of the dtypes that functions of the extension read, other than in plans.
DTYPES = {
    torch.float32: layout.Dtype.FLOAT32,
    torch.float64: layout.Dtype.FLOAT64,
    torch.bfloat16: layout.Dtype.BFLOAT16,
    torch.float16: layout.Dtype.FLOAT16,
    torch.int64: layout.Dtype.INT64,
    torch.int32: layout.Dtype.INT32,
    torch.int16: layout.Dtype.INT16,
    torch.int8: layout.Dtype.INT8,
    torch.uint8: layout.Dtype.UINT8,
    torch.bool: layout.Dtype.BOOL,
}

_V2 = {"cx16", "lahf_lm", "pni", "popcnt", "sse4_1", "sse4_2", "ssse3"}
_V3 = _V2 | {"abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"}
_V4 = _V3 | {"avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"}
#: The CPU levels with kernels, best first, and the flags of /proc/cpuinfo that each needs.
CPU_LEVELS = {"v4": _V4, "v3": _V3}

_PLAIN = (torch.Tensor, torch.nn.Parameter)

_PACKAGE = Path(__file__).parent
_MANIFEST = _PACKAGE / "_kernels.json"
_logger = logging.getLogger("hotloop")


@dataclass(frozen=True)
class Backend:
    """The choice of a process.

    Attributes:
        name: "native" or "torch".
        reason: Why it was chosen, one line.
        is_strict: Whether a fallback to torch is an error.
        cpu_level: The level of the kernels, "v3" or "v4"; None on torch.
        kernels: The extension module; None on torch.
        runtime: libtorch's functions; None on torch.
    """

    name: str
    reason: str
    is_strict: bool = False
    cpu_level: str | None = None
    kernels: ModuleType | None = None
    runtime: Runtime | None = None


class _UnavailableError(Exception):
    """The kernels cannot be used, for the reason given."""


@functools.cache
def current() -> Backend:
    """Return the backend of this process, choosing it at the first call.

    Raises:
        BackendError: If `HOTLOOP_BACKEND` or `HOTLOOP_CPU` has an unknown value, or
            `HOTLOOP_BACKEND=native` and the kernels cannot be used.
    """
    mode = _read_choice("HOTLOOP_BACKEND", ("auto", "native", "torch")) or "auto"
    level = _read_choice("HOTLOOP_CPU", tuple(CPU_LEVELS))
    if mode == "torch":
        return Backend("torch", "HOTLOOP_BACKEND=torch")
    try:
        return _load_native(level, is_strict=mode == "native")
    except _UnavailableError as error:
        if mode == "native":
            raise BackendError(
                f"HOTLOOP_BACKEND=native, but the kernels cannot be used: {error}. "
                "Set HOTLOOP_BACKEND=auto to fall back to torch."
            ) from error
        _logger.warning("hotloop runs on torch, without its kernels: %s", error)
        return Backend("torch", str(error))


def kernels_for(*tensors: torch.Tensor) -> ModuleType | None:
    """Return the extension module if it can read these tensors, or None for torch's operators.

    Args:
        tensors: What is to be read. Only device and kind of memory are looked at, not the dtype.

    Raises:
        BackendError: If they are elsewhere than in plain CPU memory, and `HOTLOOP_BACKEND=native`.
    """
    kernels = current().kernels
    if kernels is None:
        return None
    for tensor in tensors:
        # A subclass may give its elements another meaning.
        if not (tensor.is_cpu and type(tensor) in _PLAIN and tensor.layout is torch.strided):
            if current().is_strict:
                raise BackendError(
                    "HOTLOOP_BACKEND=native, but the kernels read plain CPU tensors, got "
                    f"{type(tensor).__name__} on {tensor.device}"
                )
            return None
    return kernels


def describe() -> str:
    """Return a line for the backend and its reason, and one for each detail."""
    backend = current()
    lines = [f"backend: {backend.name} ({backend.reason})"]
    if backend.runtime is not None:
        access = "libtorch" if backend.runtime.accessors else "Python"
        detail = f" ({backend.runtime.reason})" if backend.runtime.reason else ""
        lines.append(f"tensor access: {access}{detail}")
    lines.append(f"threads: {torch.get_num_threads()} (torch.set_num_threads)")
    return "\n".join(lines)


def cpu_flags() -> set[str]:
    """Return the flags that every CPU of this machine has; empty if unknown."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return set()
    lines = {line for line in text.splitlines() if line.startswith("flags")}
    flags = [set(line.partition(":")[2].split()) for line in lines]
    return set.intersection(*flags) if flags else set()


def _read_choice(variable: str, allowed: tuple[str, ...]) -> str | None:
    value = os.environ.get(variable)
    if value in (None, ""):
        return None
    if value not in allowed:
        raise BackendError(f"{variable} must be one of {', '.join(allowed)}, got {value!r}")
    return value


def _load_native(level: str | None, is_strict: bool) -> Backend:
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise _UnavailableError(f"no kernels for {platform.system()} on {platform.machine()}")
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        raise _UnavailableError("the kernels do not run on a free-threaded Python")
    level, reason = _choose_level(level)
    kernels = _load_kernels(level)
    try:
        runtime = Runtime(kernels)
    except AttributeError as error:
        raise _UnavailableError(f"torch {torch.__version__} is too old: {error}") from error
    return Backend("native", reason, is_strict, level, kernels, runtime)


def _choose_level(level: str | None) -> tuple[str, str]:
    flags = cpu_flags()
    if level is not None:
        missing = sorted(CPU_LEVELS[level] - flags)
        if missing:
            raise _UnavailableError(f"HOTLOOP_CPU={level}, but this CPU lacks {' '.join(missing)}")
        return level, f"x86-64-{level} kernels, HOTLOOP_CPU={level}"
    for name, needed in CPU_LEVELS.items():
        if needed <= flags:
            return name, f"x86-64-{name} kernels, the best this CPU runs"
    missing = sorted(_V3 - flags)
    raise _UnavailableError(f"this CPU lacks {' '.join(missing)}, which the kernels need")


def _load_kernels(level: str) -> ModuleType:
    rebuild = "reinstall hotloop, or run `make build` in a checkout"
    try:
        manifest = json.loads(_MANIFEST.read_text())
        path = _PACKAGE / f"_kernels.{level}.so"
        content = path.read_bytes()
        expected = manifest["sha256"][path.name]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _UnavailableError(
            f"the kernels are missing or incomplete ({error}); {rebuild}"
        ) from error
    # Loading a damaged shared object can kill the process, so its bytes come first.
    if hashlib.sha256(content).hexdigest() != expected:
        raise _UnavailableError(f"{path.name} is damaged (checksum differs); {rebuild}")
    loader = importlib.machinery.ExtensionFileLoader("hotloop._kernels", str(path))
    spec = importlib.util.spec_from_file_location("hotloop._kernels", path, loader=loader)
    if spec is None:
        raise _UnavailableError(f"{path.name} is not importable; {rebuild}")
    try:
        kernels = importlib.util.module_from_spec(spec)
        loader.exec_module(kernels)
    except (ImportError, SystemError) as error:
        raise _UnavailableError(f"{path.name} cannot be loaded ({error}); {rebuild}") from error
    _check_layout(kernels, rebuild)
    _warn_if_stale()
    return kernels


def _check_layout(kernels: ModuleType, rebuild: str) -> None:
    words = np.zeros(64, np.int64)
    write_layout = getattr(kernels, "layout", lambda address: 0)
    count = write_layout(words.ctypes.data)
    has_functions = all(hasattr(kernels, name) for name in layout.FUNCTIONS)
    if words[:count].tolist() != list(LAYOUT.values()) or not has_functions:
        raise _UnavailableError(f"the kernels belong to another version of hotloop; {rebuild}")


def _warn_if_stale() -> None:
    """Say so if a checkout's Mojo sources are newer than its kernels."""
    sources = _PACKAGE.parents[1] / "shared"
    if not (sources / "bindings").is_dir():
        return
    newest = max(path.stat().st_mtime for path in sources.rglob("*.mojo"))
    if newest > _MANIFEST.stat().st_mtime:
        _logger.warning("hotloop's kernels are older than shared/: run `make build`")
