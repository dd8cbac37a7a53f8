"""The extension's functions for losses and their gradients."""

from .python import Methods


def add_loss_functions(mut methods: Methods):
    """Adds the functions of this file.

    Args:
        methods: The functions of the module.
    """
    pass
