"""The extension's functions for counters of classes."""

from .python import Methods


def add_count_functions(mut methods: Methods):
    """Adds the functions of this file.

    Args:
        methods: The functions of the module.
    """
    pass
