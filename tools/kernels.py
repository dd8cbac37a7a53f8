"""Compile the Mojo kernels into `python/hotloop`, one shared object per CPU level.

Run it as a program from anywhere, or call `build` from the wheel's build hook. It needs
`mojo-compiler` in the running environment and no C compiler: objects are linked with the
`lld` that comes with it, so that no path of the build machine enters the binary.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "python" / "hotloop"
SOURCE = ROOT / "shared" / "bindings" / "extension.mojo"
MANIFEST = PACKAGE / "_kernels.json"
LEVELS = ("v3", "v4")


def can_build() -> bool:
    """Tell whether kernels exist for this platform."""
    return platform.system() == "Linux" and platform.machine() == "x86_64"


def is_current() -> bool:
    """Tell whether the kernels are intact and at least as new as their sources."""
    try:
        built = MANIFEST.stat().st_mtime
        if json.loads(MANIFEST.read_text())["sha256"] != _checksums(PACKAGE):
            return False
    except (OSError, ValueError, KeyError, TypeError):
        return False
    sources = [*(ROOT / "shared").rglob("*.mojo"), Path(__file__)]
    return all(source.stat().st_mtime <= built for source in sources)


def build(target: Path = PACKAGE) -> list[Path]:
    """Compile and link every CPU level into a folder, and return the files to ship."""
    outputs = [target / f"_kernels.{level}.so" for level in LEVELS]
    with tempfile.TemporaryDirectory() as folder:
        for level, output in zip(LEVELS, outputs):
            # A process that runs the old file keeps it: the name moves, the bytes stay.
            part = output.with_name(f"{output.name}.part")
            shutil.copy(compile_shared(SOURCE, level, Path(folder)), part)
            part.replace(output)
    manifest = target / MANIFEST.name
    manifest.write_text(json.dumps({"sha256": _checksums(target)}, indent=2) + "\n")
    return [*outputs, manifest]


def _checksums(folder: Path) -> dict[str, str]:
    paths = [folder / f"_kernels.{level}.so" for level in LEVELS]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def compile_shared(source: Path, level: str, folder: Path) -> Path:
    """Compile a Mojo module for a CPU level into a shared object in a folder."""
    tools = environment(folder)
    target = folder / f"{level}.o"
    linked = folder / f"{level}.so"
    compile_command = [
        _find("mojo", tools),
        "build",
        "--Werror",
        # Sums of products round twice unless a kernel asks for one rounding.
        *("--fp-mode", "contract=off"),
        *("--target-cpu", f"x86-64-{level}"),
        *("--emit", "object"),
        *("-I", str(ROOT)),
        *(str(source), "-o", str(target)),
    ]
    link_command = [
        _find("lld", tools),
        *("-flavor", "gnu"),
        *("-shared", "--gc-sections", "-s", "-z", "noexecstack"),
        *("-o", str(linked), str(target)),
    ]
    for command in (compile_command, link_command):
        subprocess.run(command, check=True, env=tools)
    return linked


def environment(folder: Path) -> dict[str, str]:
    """Return this environment with the compiler's tools, and any `cc`, on the path."""
    scripts = sysconfig.get_path("scripts")
    path = os.pathsep.join([scripts, os.environ.get("PATH", "")])
    if not any(shutil.which(name, path=path) for name in ("cc", "gcc", "clang")):
        # The compiler insists that one exists but does not run it for objects.
        stub = folder / "cc"
        stub.write_text("#!/bin/sh\nexit 1\n")
        stub.chmod(0o755)
        path = os.pathsep.join([path, str(folder)])
    return {**os.environ, "PATH": path}


def _find(tool: str, tools: dict[str, str]) -> str:
    # An isolated build puts the tool's package, not its script, beside this Python.
    packaged = Path(sysconfig.get_path("platlib")) / "modular" / "bin" / tool
    found = shutil.which(tool, path=tools["PATH"]) or (str(packaged) if packaged.exists() else None)
    if found is None:
        raise FileNotFoundError(f"no {tool}: install mojo-compiler (see constraints.txt)")
    return found


if __name__ == "__main__":
    if "--if-stale" in sys.argv[1:] and is_current():
        sys.exit()
    for path in build():
        print(f"built {path.relative_to(ROOT)} ({path.stat().st_size} bytes)")
