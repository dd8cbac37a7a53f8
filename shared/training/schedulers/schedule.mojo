"""What a schedule is: a pure function of the step, and the algebra of such functions."""

from .checks import check_length, check_number


trait Schedule(Copyable, Deinitable, Movable, Writable):
    """A factor for each step, which multiplies an initial value.

    A schedule knows nothing of what came before, so that to resume a run takes no
    more than its step. Written as text it names its type and every field.
    """

    def value(self, step: Int) -> Float64:
        """Gives the factor of a step.

        Args:
            step: How many steps have been taken, at least 0. Past the end of a
                schedule its last value holds.

        Returns:
            The factor.
        """
        ...

    def warmup_steps(self) -> Int:
        """Tells how many steps rise before the schedule proper begins.

        Returns:
            The number of steps.
        """
        return 0

    def then[
        Other: Schedule
    ](self, other: Other, *, at: Int) raises -> Then[Self, Other]:
        """Follows this schedule by another, which starts at its own step 0.

        Parameters:
            Other: The type of what follows.

        Args:
            other: What follows.
            at: At which step, at least 0.

        Returns:
            Both as one.

        Raises:
            Error: If `at` is negative.
        """
        return Then(self.copy(), other.copy(), at)

    def __mul__[Other: Schedule](self, other: Other) -> Product[Self, Other]:
        """Multiplies this schedule by another.

        Parameters:
            Other: The type of the other.

        Args:
            other: The other.

        Returns:
            The product.
        """
        return Product(self.copy(), other.copy())

    def scale(self, factor: Float64) raises -> Product[Self, Constant]:
        """Multiplies each value by a number.

        Args:
            factor: The number, at least 0.

        Returns:
            The product.

        Raises:
            Error: If the number is negative or not finite.
        """
        return Product(self.copy(), Constant(factor))

    def clamp(
        self, low: Float64 = 0, high: Float64 = Float64.MAX_FINITE
    ) raises -> Clamp[Self]:
        """Keeps the factor in a range.

        Args:
            low: The least factor.
            high: The largest factor.

        Returns:
            The schedule within the range.

        Raises:
            Error: If `low` is negative or above `high`.
        """
        return Clamp(self.copy(), low, high)

    def repeat(self, *, period: Int, times: Int = 0) raises -> Repeat[Self]:
        """Runs this schedule over and over.

        Args:
            period: After how many steps it starts anew, at least 1.
            times: How often, after which the last value holds; 0 for ever.

        Returns:
            The repetition.

        Raises:
            Error: If `period` is below 1 or `times` is negative.
        """
        return Repeat(self.copy(), period, times)


struct Constant(Schedule):
    """The same factor at every step."""

    var factor: Float64
    """The factor, at least 0."""

    def __init__(out self, factor: Float64 = 1) raises:
        """Sets the factor.

        Args:
            factor: The factor, at least 0.

        Raises:
            Error: If it is negative or not finite.
        """
        check_number("factor", factor)
        self.factor = factor

    def value(self, step: Int) -> Float64:
        """Gives the factor of a step.

        Args:
            step: How many steps have been taken.

        Returns:
            The factor.
        """
        return self.factor


struct Then[First: Schedule, Second: Schedule](Schedule):
    """One schedule followed by another.

    Parameters:
        First: The type of the first.
        Second: The type of the second.
    """

    var first: Self.First
    """The factor before `at`."""
    var second: Self.Second
    """The factor from there on, of the steps since `at`."""
    var at: Int
    """The step at which `second` begins."""

    def __init__(
        out self, var first: Self.First, var second: Self.Second, at: Int
    ) raises:
        """Puts two schedules one after the other.

        Args:
            first: The first.
            second: The second.
            at: The step at which the second begins, at least 0.

        Raises:
            Error: If `at` is negative.
        """
        check_length("at", at)
        self.first = first^
        self.second = second^
        self.at = at

    def value(self, step: Int) -> Float64:
        """Gives the factor of a step.

        Args:
            step: How many steps have been taken.

        Returns:
            The factor.
        """
        if step < self.at:
            return self.first.value(step)
        return self.second.value(step - self.at)

    def warmup_steps(self) -> Int:
        """Tells how many steps rise.

        Returns:
            Those of the first schedule, up to where the second begins.
        """
        return min(self.first.warmup_steps(), self.at)


@fieldwise_init
struct Product[First: Schedule, Second: Schedule](Schedule):
    """The product of two schedules.

    Parameters:
        First: The type of the first.
        Second: The type of the second.
    """

    var first: Self.First
    """The first."""
    var second: Self.Second
    """The second."""

    def value(self, step: Int) -> Float64:
        """Gives the factor of a step.

        Args:
            step: How many steps have been taken.

        Returns:
            The factor.
        """
        return self.first.value(step) * self.second.value(step)

    def warmup_steps(self) -> Int:
        """Tells how many steps rise.

        Returns:
            Those of the longer warm-up.
        """
        return max(self.first.warmup_steps(), self.second.warmup_steps())


struct Clamp[Inner: Schedule](Schedule):
    """A schedule whose factor stays in a range.

    Parameters:
        Inner: The type of the schedule.
    """

    var schedule: Self.Inner
    """The schedule."""
    var low: Float64
    """The least factor."""
    var high: Float64
    """The largest factor."""

    def __init__(
        out self, var schedule: Self.Inner, low: Float64, high: Float64
    ) raises:
        """Limits a schedule.

        Args:
            schedule: The schedule.
            low: The least factor, at least 0.
            high: The largest factor, at least `low`.

        Raises:
            Error: If the limits are out of range.
        """
        check_number("low", low)
        check_number("high", high, low)
        self.schedule = schedule^
        self.low = low
        self.high = high

    def value(self, step: Int) -> Float64:
        """Gives the factor of a step.

        Args:
            step: How many steps have been taken.

        Returns:
            The factor.
        """
        return min(max(self.schedule.value(step), self.low), self.high)

    def warmup_steps(self) -> Int:
        """Tells how many steps rise.

        Returns:
            Those of the schedule.
        """
        return self.schedule.warmup_steps()


struct Repeat[Inner: Schedule](Schedule):
    """A schedule over and over.

    Parameters:
        Inner: The type of the schedule.
    """

    var schedule: Self.Inner
    """The schedule."""
    var period: Int
    """After how many steps it starts anew."""
    var times: Int
    """How often, after which the last value holds; 0 for ever."""

    def __init__(
        out self, var schedule: Self.Inner, period: Int, times: Int = 0
    ) raises:
        """Repeats a schedule.

        Args:
            schedule: The schedule.
            period: After how many steps it starts anew, at least 1.
            times: How often; 0 for ever.

        Raises:
            Error: If `period` is below 1 or `times` is negative.
        """
        check_length("period", period, 1)
        check_length("times", times)
        self.schedule = schedule^
        self.period = period
        self.times = times

    def value(self, step: Int) -> Float64:
        """Gives the factor of a step.

        Args:
            step: How many steps have been taken.

        Returns:
            The factor.
        """
        if self.times > 0 and step >= self.times * self.period:
            return self.schedule.value(self.period)
        return self.schedule.value(step % self.period)
