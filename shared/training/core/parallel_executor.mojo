"""The executor of pure Mojo programs: the thread pool of Mojo's own runtime.

It is not imported by `core`, since whatever uses it needs that runtime.
"""

from std.ffi import external_call

from max.algorithm import parallelize
from max.runtime.asyncrt import parallelism_level

from .executor import BlockBody, Executor
from .memory import Address

comptime ENVIRONMENT_WORDS = 8
"""Room for a `fenv_t` of the C library, 32 bytes on x86-64, in words."""


@fieldwise_init
struct ParallelExecutor(Executor):
    """Runs blocks on every worker of the Mojo runtime."""

    def execute(
        self, blocks: Int, grain: Int, body: BlockBody, context: Address
    ):
        """Runs `body` on at most one worker for each `grain` blocks.

        Args:
            blocks: How many blocks there are.
            grain: The fewest blocks worth a worker of their own.
            body: What to run.
            context: Passed to the body as it is.
        """
        var workers = min(
            parallelism_level(None), (blocks + grain - 1) // grain
        )
        if workers <= 1:
            body(0, Int64(blocks), context)
            return
        var share = (blocks + workers - 1) // workers
        workers = (blocks + share - 1) // share
        # `parallelize` flushes subnormal numbers to 0, on the calling thread too.
        var environment = Array[Int64, ENVIRONMENT_WORDS](fill=0)
        _ = external_call["fegetenv", Int32](Pointer(to=environment))

        def run_share(worker: Int) {imm}:
            _ = external_call["fesetenv", Int32](Pointer(to=environment))
            var begin = worker * share
            body(Int64(begin), Int64(min(begin + share, blocks)), context)

        parallelize(run_share, workers, workers)
