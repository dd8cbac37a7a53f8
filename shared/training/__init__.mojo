"""Training in Mojo: kernels and the types that drive them.

`core` holds the driver, `optimizers` one file per update rule. Nothing here
imports Python; `shared/bindings` is the only door to CPython.
"""
