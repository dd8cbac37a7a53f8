"""The command line: `python -m hotloop info` tells what hotloop runs on, and why."""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Sequence

import torch

import hotloop
from hotloop import backend
from hotloop.errors import BackendError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        arguments: The words after the program's name; those of this process by default.
    """
    parser = argparse.ArgumentParser(
        prog="python -m hotloop", description="Training for PyTorch with Mojo kernels."
    )
    commands = parser.add_subparsers(metavar="command", required=True)
    commands.add_parser("info", help="tell which backend runs here, and why")
    parser.parse_args(arguments)
    try:
        report = describe()
    except BackendError as error:
        print(f"hotloop: {error}", file=sys.stderr)
        return 1
    print(report)
    return 0


def describe() -> str:
    """Return what a bug report should hold: backend, versions and CPU."""
    return "\n".join(
        [
            backend.describe(),
            f"hotloop {hotloop.__version__}, torch {torch.__version__}, "
            f"Python {platform.python_version()}",
            *_describe_cpu(),
        ]
    )


def _describe_cpu() -> list[str]:
    flags = backend.cpu_flags()
    lines = []
    for level, needed in backend.CPU_LEVELS.items():
        missing = needed - flags
        found = " ".join(sorted(needed & flags)) or "no flag"
        lacking = f"; lacks {' '.join(sorted(missing))}" if missing else ""
        lines.append(f"CPU level {level}: {'no' if missing else 'yes'} (has {found}{lacking})")
    return lines


if __name__ == "__main__":
    sys.exit(main())
