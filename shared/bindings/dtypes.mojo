"""The dtypes of tensors that Python passes to the kernels, by number."""


struct Dtype:
    """Numbers the dtypes; `DTYPES` in Python maps torch's to the same numbers."""

    comptime FLOAT32 = 0
    """32-bit floating point."""
    comptime FLOAT64 = 1
    """64-bit floating point."""
    comptime BFLOAT16 = 2
    """16-bit floating point with the exponent of float32."""
    comptime FLOAT16 = 3
    """16-bit floating point of IEEE 754."""
    comptime INT64 = 4
    """Signed 64-bit integers."""
    comptime INT32 = 5
    """Signed 32-bit integers."""
    comptime INT16 = 6
    """Signed 16-bit integers."""
    comptime INT8 = 7
    """Signed 8-bit integers."""
    comptime UINT8 = 8
    """Unsigned 8-bit integers."""
    comptime BOOL = 9
    """Bytes that are 0 or 1."""
