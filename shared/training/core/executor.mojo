"""Executors: who runs the blocks of a step, and on how many threads."""

from .memory import Address, pointer_at

comptime BlockBody = def(Int64, Int64, Address) thin abi("C") -> None
"""Processes blocks `[begin, end)` of the context at the address."""

comptime TorchParallelFor = def(
    Int64, Int64, Int64, BlockBody, Address
) thin abi("C") -> Int32
"""`torch_parallel_for(begin, end, grain, body, context)`, libtorch's C ABI."""


trait Executor(Deinitable, ImplicitlyCopyable, Movable):
    """Deals blocks out to threads and returns when all of them are done."""

    def execute(
        self, blocks: Int, grain: Int, body: BlockBody, context: Address
    ):
        """Runs `body` over `[0, blocks)`.

        Args:
            blocks: How many blocks there are.
            grain: The fewest blocks worth a thread of their own.
            body: What to run on a range of blocks.
            context: Passed to the body as it is.
        """
        ...


@fieldwise_init
struct SerialExecutor(Executor):
    """Runs everything on the calling thread."""

    def execute(
        self, blocks: Int, grain: Int, body: BlockBody, context: Address
    ):
        """Runs `body` once over all blocks.

        Args:
            blocks: How many blocks there are.
            grain: Not used.
            body: What to run.
            context: Passed to the body as it is.
        """
        body(0, Int64(blocks), context)


@fieldwise_init
struct TorchExecutor(Executor):
    """Runs on torch's own thread pool, and so follows its thread count."""

    var parallel_for: Int
    """The address of `torch_parallel_for` in this process; 0 to stay on the calling thread."""

    def execute(
        self, blocks: Int, grain: Int, body: BlockBody, context: Address
    ):
        """Runs `body` on at most one thread for each `grain` blocks.

        Args:
            blocks: How many blocks there are.
            grain: The fewest blocks worth a thread of their own.
            body: What to run.
            context: Passed to the body as it is.
        """
        if self.parallel_for == 0 or blocks <= grain:
            body(0, Int64(blocks), context)
            return
        var address = self.parallel_for
        var parallel_for = Pointer(to=address).unsafe_bitcast[
            TorchParallelFor
        ]()[]
        _ = parallel_for(0, Int64(blocks), Int64(grain), body, context)
