"""The momentum of Muon (Jordan et al., 2024, kellerjordan.github.io/posts/muon).

Muon orthogonalizes each step's momentum, a product of whole matrices, before the
parameters move by it. Neither is here: the rule updates momentum buffers, which
stand in the place of parameters.
"""

from ..core import LaneUpdate, Scalars, UpdateRule, lerp


@fieldwise_init
struct MuonMomentumUpdate[nesterov: Bool](LaneUpdate):
    """One step of Muon's momentum, rounded where torch's loop rounds.

    With gradient g and buffer b: `b += (1 - momentum) (g - b)`. Nesterov's variant
    writes `u = g + momentum (b - g)` beside it, what is orthogonalized then in the
    place of b.

    Parameters:
        nesterov: Whether to look ahead by one more momentum step.
    """

    comptime STATES = Int(Self.nesterov)
    """With `nesterov` u, which is written and not read."""

    var momentum: Float64
    """The decay of the buffer."""
    var one_minus_momentum: Float64
    """`1 - momentum`."""

    @always_inline
    def apply[
        dtype: DType, width: Int
    ](
        self,
        mut param: SIMD[dtype, width],
        grad: SIMD[dtype, width],
        mut state: Array[SIMD[dtype, width], Self.STATES],
    ):
        """Updates `width` elements in registers.

        Parameters:
            dtype: The compute dtype, float32 or float64.
            width: How many lanes.

        Args:
            param: The buffers, replaced by their new values.
            grad: The gradients.
            state: With `nesterov` what to orthogonalize.
        """
        param = lerp(param, grad, self.one_minus_momentum.cast[dtype]())
        comptime if Self.nesterov:
            state[0] = lerp(grad, param, self.momentum.cast[dtype]())


struct MuonMomentum[nesterov: Bool = True](UpdateRule):
    """Hyperparameters of Muon's momentum.

    Parameters:
        nesterov: Whether to use Nesterov's variant.
    """

    comptime Update = MuonMomentumUpdate[Self.nesterov]
    """The constants of one step."""

    var momentum: Float64
    """The decay of the buffer, at least 0."""

    def __init__(out self, *, momentum: Float64 = 0.95):
        """Sets the hyperparameters; the default is torch's.

        Args:
            momentum: The decay of the buffer, at least 0.
        """
        self.momentum = momentum

    def at_step(self, step: Float64, mut scalars: Scalars) -> Self.Update:
        """Derives the constants of one step.

        Args:
            step: The number of the step, counted from 1.
            scalars: None.

        Returns:
            The constants.
        """
        return Self.Update(
            momentum=self.momentum, one_minus_momentum=1 - self.momentum
        )
