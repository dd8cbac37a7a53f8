"""Imports of what an extra installs."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["import_extra"]


def import_extra(module: str, extra: str, what: str) -> Any:
    """Import a module that an extra of hotloop installs.

    Args:
        module: Its full name.
        extra: The extra.
        what: What needs it, for the error.

    Returns:
        The module.

    Raises:
        ImportError: If it cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{what} needs {module}, which cannot be imported ({error}): "
            f"pip install 'hotloop[{extra}]'"
        ) from error
