"""The command line of `python -m hotloop`.

`info` tells what hotloop runs on, and why; `schedule` shows the curve of a schedule; `metrics`
lists what can be measured; `checkpoints` looks after a directory of checkpoints.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from hotloop.cli import checkpoints, info, metrics, schedule
from hotloop.errors import HotloopError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        arguments: The words after the program's name; those of this process by default.
    """
    parser = argparse.ArgumentParser(
        prog="python -m hotloop", description="Training for PyTorch with Mojo kernels."
    )
    commands = parser.add_subparsers(metavar="command", required=True)
    for command in (info, schedule, metrics, checkpoints):
        command.add_parser(commands)
    options = parser.parse_args(arguments)
    try:
        for text in options.run(options):
            print(text, flush=True)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever reads the output has enough of it.
        return 141
    except (HotloopError, ImportError, OSError, TypeError, ValueError) as error:
        print(f"hotloop: {error}", file=sys.stderr)
        return 1
    return 0
