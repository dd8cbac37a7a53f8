"""Run the Mojo examples, one after the other: `make mojo-examples`.

Prints what each prints, with the time that it and its compilation took; the exit code is 1 if
any fails.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import kernels

ROOT = kernels.ROOT
EXAMPLES = ROOT / "examples" / "mojo"


def export_digits(folder: Path) -> str:
    """Write the data of `digits.mojo` as its docstring says, and return the file's path."""
    source = (EXAMPLES / "digits.mojo").read_text(encoding="utf-8")
    (program,) = re.findall(r'python -c "(.*?)"', source, re.DOTALL)
    command = [sys.executable, "-c", re.sub(r"\\\n\s*", "", program)]
    subprocess.run(command, cwd=folder, check=True)
    return str(folder / "digits.csv")


def main() -> int:
    """Run every example and return the exit code."""
    mojo = str(Path(sys.executable).parent / "mojo")
    failed = []
    with tempfile.TemporaryDirectory() as name:
        digits = export_digits(Path(name))
        for path in sorted(EXAMPLES.glob("*.mojo")):
            print(f"=== {path.stem} ===", flush=True)
            arguments = [digits] if path.stem == "digits" else []
            start = time.perf_counter()
            command = [mojo, "run", "-I", ".", str(path), *arguments]
            code = subprocess.run(command, cwd=ROOT).returncode
            print(f"--- {time.perf_counter() - start:.1f} s with its compilation\n", flush=True)
            if code != 0:
                failed.append(path.stem)
    if failed:
        print(f"failed: {', '.join(failed)}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
