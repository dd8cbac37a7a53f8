"""What has a learning rate that may change between steps."""


trait LearningRate:
    """An optimizer, as schedulers see it."""

    def learning_rate(self) -> Float64:
        """Reads the learning rate.

        Returns:
            The learning rate of the next step.
        """
        ...

    def set_learning_rate(mut self, value: Float64):
        """Sets the learning rate.

        Args:
            value: The learning rate of the next step.
        """
        ...
