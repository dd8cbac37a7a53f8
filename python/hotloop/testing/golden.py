"""Compares texts with files."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

__all__ = ["golden"]


def golden(text: str, path: str | Path) -> None:
    """Check that a text is what a file holds.

    With HOTLOOP_UPDATE_GOLDEN=1 in the environment the file is written instead.

    Args:
        text: What was made.
        path: The file, in UTF-8.

    Raises:
        AssertionError: If the file holds another text, or does not exist; the message shows
            the lines that differ.
    """
    path = Path(path)
    if os.environ.get("HOTLOOP_UPDATE_GOLDEN") == "1":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
        return
    hint = "run once with HOTLOOP_UPDATE_GOLDEN=1 to write it"
    if not path.exists():
        raise AssertionError(f"{path} does not exist; {hint}")
    expected = path.read_bytes().decode()
    if text != expected:
        lines = difflib.unified_diff(
            expected.splitlines(), text.splitlines(), str(path), "now", lineterm=""
        )
        shown = "\n".join(lines) or "only the ends of lines differ"
        raise AssertionError(f"the text is not that of {path}; {hint}\n{shown}")
