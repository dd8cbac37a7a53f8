"""Checkpoints: the state of a run in files that are verified whenever they are read."""

from hotloop.checkpoint.checkpoint import (
    read_checkpoint,
    read_manifest,
    verify_checkpoint,
    write_checkpoint,
)
from hotloop.checkpoint.checkpoint_manager import CheckpointManager
from hotloop.checkpoint.manifest import FileEntry, Info, Manifest
from hotloop.checkpoint.random_state import random_state, set_random_state
from hotloop.checkpoint.tree import flatten, rebuild

__all__ = [
    "CheckpointManager",
    "FileEntry",
    "Info",
    "Manifest",
    "flatten",
    "random_state",
    "read_checkpoint",
    "read_manifest",
    "rebuild",
    "set_random_state",
    "verify_checkpoint",
    "write_checkpoint",
]
