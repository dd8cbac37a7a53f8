"""The extension's functions for sums and moments of values."""

from .python import Methods


def add_moment_functions(mut methods: Methods):
    """Adds the functions of this file.

    Args:
        methods: The functions of the module.
    """
    pass
