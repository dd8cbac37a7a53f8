"""The extension's functions for curves over thresholds."""

from .python import Methods


def add_curve_functions(mut methods: Methods):
    """Adds the functions of this file.

    Args:
        methods: The functions of the module.
    """
    pass
