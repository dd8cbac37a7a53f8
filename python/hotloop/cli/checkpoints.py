"""`checkpoints`: the words that its actions take."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

__all__ = ["add_parser"]

_NAME = 'its name, "latest" or "best"; none if DIR is one checkpoint'


def add_parser(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "checkpoints", help="list, verify, show, prune, pin or export checkpoints"
    )
    parser.add_argument(
        "directory",
        metavar="DIR",
        type=Path,
        help="a directory of checkpoints, which is listed if there is no action; or one "
        "checkpoint, which is shown",
    )
    parser.set_defaults(run=_run)
    actions = parser.add_subparsers(metavar="action", dest="action")
    actions.add_parser("list", help="list the checkpoints, newest first")
    verify = actions.add_parser("verify", help="read every byte, and tell what is damaged")
    verify.add_argument(
        "names", metavar="NAME", nargs="*", help='names, "latest" or "best"; all by default'
    )
    show = actions.add_parser("show", help="show what a checkpoint says of itself, and its tensors")
    show.add_argument("name", metavar="NAME", nargs="?", help=_NAME)
    show.add_argument("--depth", type=int, metavar="N", help="levels of tensors (default: all)")
    _add_prune(actions)
    for action, help in (
        ("pin", "keep a checkpoint until it is unpinned"),
        ("unpin", "let a checkpoint be removed when it is its turn"),
    ):
        pin = actions.add_parser(action, help=help)
        pin.add_argument("name", metavar="NAME", help='its name, "latest" or "best"')
    export = actions.add_parser("export", help="write the model's weights to a safetensors file")
    export.add_argument("name", metavar="NAME", nargs="?", help=_NAME)
    export.add_argument("file", metavar="FILE", type=Path, help="the file")
    export.add_argument(
        "--average", action="store_true", help="the moving average of the weights instead"
    )
    export.add_argument("--force", action="store_true", help="replace the file if it exists")


def _add_prune(actions: argparse._SubParsersAction[Any]) -> None:
    prune = actions.add_parser(
        "prune",
        help="remove checkpoints that are not to be kept",
        description="Tells which checkpoints would be removed, and with --yes removes them. The "
        "newest, the best and the pinned ones always stay.",
    )
    number = {"type": int, "metavar": "N"}
    prune.add_argument("--keep-last", **number, default=3, help="keep the N newest (default: 3)")
    prune.add_argument("--keep-best", **number, default=1, help="keep the N best (default: 1)")
    prune.add_argument(
        "--metric", metavar="M", help="what the best ones are best by (default: as when saved)"
    )
    prune.add_argument(
        "--mode", choices=("min", "max"), default="min", help="what is good (default: min)"
    )
    prune.add_argument("--keep-every", **number, help="keep steps that are a multiple of N")
    prune.add_argument("--yes", action="store_true", help="remove them")


def _run(options: argparse.Namespace) -> Iterable[str]:
    # The other commands do without all that this one needs.
    from hotloop.cli.checkpoint_actions import run

    return run(options)
