"""States as text: lines of `key=value`."""


struct TextState(Movable):
    """A state that is read or written line by line."""

    var text: String
    """The lines, each with its end."""

    def __init__(out self, text: String = ""):
        """Starts from a text.

        Args:
            text: The lines; none to write a new state.
        """
        self.text = text

    def put(mut self, key: String, value: String):
        """Adds a line.

        Args:
            key: The key, without `=` and line ends.
            value: The value, without line ends.
        """
        self.text += String(key, "=", value, "\n")

    def get(self, key: String) raises -> String:
        """Finds the value of a key.

        Args:
            key: The key.

        Returns:
            The value on the first line with that key.

        Raises:
            Error: If there is no such line.
        """
        var start = key + "="
        for line in self.text.split("\n"):
            if line.startswith(start):
                return String(line.removeprefix(start))
        raise Error("the state has no line ", start, "...")
