"""`info`: what hotloop runs on, and why."""

from __future__ import annotations

import argparse
import platform
from typing import Any

import hotloop

__all__ = ["add_parser", "describe"]


def add_parser(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the command."""
    parser = commands.add_parser("info", help="tell which backend runs here, and why")
    parser.set_defaults(run=lambda options: [describe()])


def describe() -> str:
    """Return what a bug report should hold: backend, versions and CPU."""
    import torch

    from hotloop import backend

    return "\n".join(
        [
            backend.describe(),
            f"hotloop {hotloop.__version__}, torch {torch.__version__}, "
            f"Python {platform.python_version()}",
            *_describe_cpu(),
        ]
    )


def _describe_cpu() -> list[str]:
    from hotloop import backend

    flags = backend.cpu_flags()
    lines = []
    for level, needed in backend.CPU_LEVELS.items():
        missing = needed - flags
        found = " ".join(sorted(needed & flags)) or "no flag"
        lacking = f"; lacks {' '.join(sorted(missing))}" if missing else ""
        lines.append(f"CPU level {level}: {'no' if missing else 'yes'} (has {found}{lacking})")
    return lines
