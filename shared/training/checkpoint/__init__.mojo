"""States of runs in files."""

from .storage import AtomicFile, read_file
from .tensor_file import TensorFile
