"""Reads the golden files that the Python tests read, too."""

from std.pathlib import Path


def numbers_of(
    file: String, entry: String, array: String
) raises -> List[Float64]:
    """Reads all numbers of the last array in an entry of a file.

    Args:
        file: The path, from the repository's root; it has an entry a line.
        entry: The name of the entry.
        array: What stands before the array.

    Returns:
        The numbers, row by row.
    """
    for line in Path(file).read_text().split("\n"):
        var text = String(line)
        if not text.startswith(String('  "', entry, '": ')):
            continue
        var values: List[Float64] = []
        var tail = text.split(array)[1]
        for part in tail.split(","):
            var digits = String(part)
            for mark in ["[", "]", "}", " "]:
                digits = digits.replace(mark, "")
            if digits:
                values.append(Float64(digits))
        return values^
    raise Error("no ", entry, " in ", file)
