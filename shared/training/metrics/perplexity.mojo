"""The perplexity of a language model."""

from std.ffi import external_call

from ..core import Executor, SerialExecutor, compute_dtype
from ..core.rows import ROW_BLOCKS, RowsJob, scan_rows
from .column import Column
from .token_sums import Ranks, TokenSums, Units, sum_tokens

comptime NO_INDEX = Int.MIN
"""A target that no row has, for rows of which none is ignored."""


struct Perplexity(Copyable, Movable):
    """The perplexity `exp(sum(nll) / tokens)` over all tokens of all batches.

    nll is `-log(softmax(logits)[target])`. The sum is compensated, so that any
    split of the tokens gives the same bits.
    """

    var ignore_index: Optional[Int]
    """The target of tokens that do not count."""
    var sums: TokenSums
    """What was counted."""

    def __init__(out self, *, ignore_index: Optional[Int] = None):
        """Starts with nothing counted.

        Args:
            ignore_index: The target of tokens that do not count.
        """
        self.ignore_index = ignore_index
        self.sums = TokenSums()

    def update[
        dtype: DType, Runner: Executor = SerialExecutor
    ](
        mut self,
        logits: Span[mut=False, Scalar[dtype], _],
        target: Span[mut=False, Int64, _],
        executor: Runner = SerialExecutor(),
    ) raises:
        """Counts tokens.

        Parameters:
            dtype: A float dtype.
            Runner: The type of the executor.

        Args:
            logits: The logits of each token, row by row.
            target: The tokens.
            executor: Who runs parts of the rows.

        Raises:
            Error: If lengths do not fit, a target is no token, or a logit is
                NaN. Nothing is counted then.
        """
        var rows = len(target)
        if rows == 0 and len(logits) == 0:
            return
        if rows == 0 or len(logits) % rows != 0:
            raise Error(
                "logits must have a row for each of the ",
                rows,
                " targets, got ",
                len(logits),
                " numbers",
            )
        var classes = len(logits) // rows
        var predicted = List[Int64](length=rows, fill=0)
        var rank = List[Int32](length=rows, fill=0)
        comptime compute = compute_dtype[dtype]()
        var nll = List[Scalar[compute]](length=rows, fill=0)
        var job = RowsJob(
            logits=Int(logits.unsafe_ptr()),
            rows=rows,
            classes=classes,
            stride=classes,
            target=Int(target.unsafe_ptr()),
            ignore_index=self.ignore_index.or_else(NO_INDEX),
            is_nan_reported=True,
            predicted=Int(predicted.unsafe_ptr()),
            rank=Int(rank.unsafe_ptr()),
            nll=Int(nll.unsafe_ptr()),
            problems=Array[Int, ROW_BLOCKS](fill=0),
        )
        var problem = scan_rows[dtype, True](job, executor)
        if problem < rows:
            raise Error(
                "target[",
                problem,
                "] is ",
                target[problem],
                ", must be in [0, ",
                classes,
                "), and its logits must not be NaN",
            )
        sum_tokens(
            self.sums,
            Ranks(unsafe_from_address=Int(rank.unsafe_ptr())),
            Column.of(Span(nll)),
            Column.none(),
            Units(0, 0),
            rows,
        )
        # Only their addresses were in use.
        _ = predicted^
        _ = rank^
        _ = nll^

    def update_sum(mut self, nll: Float64, tokens: Float64):
        """Counts tokens whose likelihoods were added up already.

        Args:
            nll: The sum of their negative log-likelihoods.
            tokens: How many there are.
        """
        self.sums.nll.add(nll)
        self.sums.count.add(tokens)

    def compute(self) raises -> Float64:
        """Computes the perplexity.

        Returns:
            The perplexity, infinite for a mean above 709.78.

        Raises:
            Error: If nothing was counted.
        """
        if self.sums.count.high == 0:
            raise Error("nothing was counted; call update first")
        return external_call["exp", Float64](
            self.sums.nll.high / self.sums.count.high
        )

    def reset(mut self):
        """Forgets everything counted."""
        self.sums = TokenSums()

    def merge(mut self, other: Self):
        """Counts what another has counted, which is left as it is.

        Args:
            other: The other.
        """
        self.sums.merge(other.sums)
