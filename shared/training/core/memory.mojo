"""Names for the raw memory that crosses between Python and the kernels."""

comptime Address = OpaquePointer[MutUntrackedOrigin]
"""An untyped address whose owner lives outside Mojo."""

comptime Words = MutPointer[Int64, MutUntrackedOrigin]
"""Memory read and written as 64-bit words: addresses, counts, flags."""

comptime Elements[dtype: DType] = MutPointer[Scalar[dtype], MutUntrackedOrigin]
"""The first of some elements whose owner lives outside Mojo.

Parameters:
    dtype: The dtype of the elements.
"""


def words_at(address: Int) -> Words:
    """Views the memory at `address` as 64-bit words.

    Args:
        address: An 8-byte aligned address that outlives every use of the view.

    Returns:
        The view. It does not own the memory.
    """
    return Words(unsafe_from_address=address)


def pointer_at[T: AnyType](address: Int) -> MutPointer[T, MutUntrackedOrigin]:
    """Views the memory at `address` as values of `T`.

    Parameters:
        T: The type that the memory holds.

    Args:
        address: An address aligned for `T` that outlives every use of the view.

    Returns:
        The view. It does not own the memory.
    """
    return MutPointer[T, MutUntrackedOrigin](unsafe_from_address=address)
