"""The extension's functions for one pass over rows of logits."""

from .python import Methods


def add_row_functions(mut methods: Methods):
    """Adds the functions of this file.

    Args:
        methods: The functions of the module.
    """
    pass
