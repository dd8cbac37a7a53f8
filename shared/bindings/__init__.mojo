"""The one door from CPython to the kernels."""
