"""Decay by a factor at regular steps, or at given ones."""

from .checks import check_length, check_number
from .power import power
from .schedule import Schedule


struct Step(Schedule):
    """Decays every so many steps: `gamma^floor(s / every)`, torch's StepLR."""

    var every: Int
    """Steps between two decays, at least 1."""
    var gamma: Float64
    """The factor of each decay, at least 0."""

    def __init__(
        out self,
        every: Int,
        *,
        gamma: Float64 = 0.1,
    ) raises:
        """Sets the arguments.

        Args:
            every: Steps between two decays, at least 1.
            gamma: The factor of each decay, at least 0.

        Raises:
            Error: If an argument is out of range.
        """
        check_length("every", every, 1)
        check_number("gamma", gamma)
        self.every = every
        self.gamma = gamma

    def value(self, step: Int) -> Float64:
        """Gives the factor of a step.

        Args:
            step: How many steps have been taken.

        Returns:
            The factor.
        """
        return power(self.gamma, Float64(step // self.every))


struct MultiStep(Schedule):
    """Decays at given steps: gamma to the number of milestones `<= s`.

    torch's MultiStepLR.
    """

    var milestones: List[Int]
    """The steps, at least 0, none after a later one."""
    var gamma: Float64
    """The factor of each decay, at least 0."""

    def __init__(
        out self,
        var milestones: List[Int],
        *,
        gamma: Float64 = 0.1,
    ) raises:
        """Sets the arguments.

        Args:
            milestones: The steps, at least 0, none after a later one.
            gamma: The factor of each decay, at least 0.

        Raises:
            Error: If a milestone is before the one in front of it, or an argument is out of
                range.
        """
        var before = 0
        for milestone in milestones:
            check_length("milestones", milestone, before)
            before = milestone
        check_number("gamma", gamma)
        self.milestones = milestones^
        self.gamma = gamma

    def value(self, step: Int) -> Float64:
        """Gives the factor of a step.

        Args:
            step: How many steps have been taken.

        Returns:
            The factor.
        """
        var decays = 0
        for milestone in self.milestones:
            decays += Int(milestone <= step)
        return power(self.gamma, Float64(decays))
