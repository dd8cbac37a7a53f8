"""A folder for the files of a test."""

from std.os import listdir, remove, rmdir
from std.tempfile import mkdtemp


@fieldwise_init
struct Folder(Movable):
    """Makes a folder, and removes it with its files at the end of the block.

    That of the standard library's `TemporaryDirectory` lets no error out of its block, and
    so passes each test.
    """

    var path: String

    def __init__(out self) raises:
        self.path = mkdtemp()

    def __enter__(self) -> String:
        return self.path

    def __exit__(self) raises:
        for name in listdir(self.path):
            remove(self.path + "/" + name)
        rmdir(self.path)

    def __exit__(self, error: Error) raises -> Bool:
        self.__exit__()
        return False
