"""The built extension as a file: what it needs, what it shows, what it refuses."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import re
import shutil
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from hotloop import backend
from tests.conftest import needs_native

pytestmark = needs_native

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path(backend.__file__).parent
FILES = [PACKAGE / f"_kernels.{level}.so" for level in backend.CPU_LEVELS]
LEVELS = [level for level, needed in backend.CPU_LEVELS.items() if needed <= backend.cpu_flags()]
SIZE_MAX = 1_500_000

_PT_DYNAMIC, _PT_LOAD = 2, 1
_SHT_DYNSYM = 11
_DT_NEEDED, _DT_STRTAB, _DT_SYMTAB, _DT_RPATH, _DT_RUNPATH = 1, 5, 6, 15, 29
#: Whatever uses an instruction or a register that only AVX-512 has.
_AVX512 = re.compile(r"zmm|%k[0-7]|%[xy]mm(1[6-9]|2\d|3[01])")

each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)


@dataclass
class Elf:
    """What the dynamic linker reads of a 64-bit little-endian shared object."""

    needed: list[str]
    run_paths: list[str]
    defined: set[str]
    undefined: set[str]


def read_elf(content: bytes) -> Elf:
    assert content[:6] == b"\x7fELF\x02\x01"
    program_at, section_at = struct.unpack_from("<QQ", content, 32)
    program_size, program_count, section_size, section_count = struct.unpack_from(
        "<HHHH", content, 54
    )
    programs = [
        struct.unpack_from("<IIQQQQQQ", content, program_at + i * program_size)
        for i in range(program_count)
    ]

    def offset(address: int) -> int:
        for kind, _, start, virtual, _, size, *_ in programs:
            if kind == _PT_LOAD and virtual <= address < virtual + size:
                return start + address - virtual
        raise AssertionError(f"address {address:#x} is not in the file")

    (dynamic,) = [program for program in programs if program[0] == _PT_DYNAMIC]
    entries = list(struct.iter_unpack("<qQ", content[dynamic[2] : dynamic[2] + dynamic[5]]))
    tags = dict(entries)
    strings = offset(tags[_DT_STRTAB])

    def text(at: int) -> str:
        start = strings + at
        return content[start : content.index(b"\0", start)].decode()

    # Only the section table tells how many dynamic symbols there are.
    sections = [
        struct.unpack_from("<IIQQQQIIQQ", content, section_at + i * section_size)
        for i in range(section_count)
    ]
    (symbols,) = [section for section in sections if section[1] == _SHT_DYNSYM]
    assert symbols[4] == offset(tags[_DT_SYMTAB])
    table = content[symbols[4] : symbols[4] + symbols[5]]
    found = [(text(name), section) for name, _, _, section, _, _ in SYMBOL.iter_unpack(table)]
    return Elf(
        needed=[text(value) for tag, value in entries if tag == _DT_NEEDED],
        run_paths=[text(value) for tag, value in entries if tag in (_DT_RPATH, _DT_RUNPATH)],
        defined={name for name, section in found if name and section},
        undefined={name for name, section in found if name and not section},
    )


SYMBOL = struct.Struct("<IBBHQQ")


def _load(level: str) -> ModuleType:
    path = str(PACKAGE / f"_kernels.{level}.so")
    loader = importlib.machinery.ExtensionFileLoader("hotloop._kernels", path)
    spec = importlib.util.spec_from_file_location("hotloop._kernels", path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_parser_reads_a_library_that_has_everything() -> None:
    """The tests below would prove nothing if the parser saw nothing."""
    import torch

    elf = read_elf(Path(torch._C.__file__).read_bytes())
    assert any(name.startswith("libtorch_python") for name in elf.needed)
    assert "$ORIGIN" in elf.run_paths[0]
    assert "PyInit__C" in elf.defined
    assert "__cxa_finalize" in elf.undefined


@each_file
def test_needs_no_library_beyond_libc(path: Path) -> None:
    elf = read_elf(path.read_bytes())
    assert set(elf.needed) <= {"libc.so.6", "libm.so.6"}
    assert elf.run_paths == []


@each_file
def test_shows_its_init_function_alone(path: Path) -> None:
    assert read_elf(path.read_bytes()).defined == {"PyInit__kernels"}


@each_file
def test_takes_only_python_and_a_few_c_functions_from_outside(path: Path) -> None:
    undefined = read_elf(path.read_bytes()).undefined
    allowed = re.compile(r"_?Py[A-Z]\w+|pow|memcpy|memset|madvise")
    assert {name for name in undefined if not allowed.fullmatch(name)} == set()
    assert "PyModule_Create2" in undefined


@each_file
def test_is_small(path: Path) -> None:
    assert path.stat().st_size < SIZE_MAX


@each_file
def test_holds_no_path_of_the_machine_that_built_it(path: Path) -> None:
    content = path.read_bytes()
    for folder in {str(ROOT), str(Path.home()), tempfile.gettempdir(), "/tmp", "/home/"}:
        assert folder.encode() not in content
    assert b".mojo" not in content


def _disassemble(level: str) -> str:
    objdump = shutil.which("objdump")
    if objdump is None:
        pytest.skip("no objdump on this machine, which lists the instructions")
    command = [objdump, "-d", "--no-show-raw-insn", str(PACKAGE / f"_kernels.{level}.so")]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_v3_holds_no_avx512() -> None:
    code = _disassemble("v3")
    assert "%ymm" in code
    assert _AVX512.search(code) is None


def test_v4_holds_avx512() -> None:
    assert _AVX512.search(_disassemble("v4")) is not None


@pytest.mark.parametrize("level", LEVELS)
def test_layout_is_the_one_of_python(level: str) -> None:
    words = np.full(64, -1, np.int64)
    count = _load(level).layout(words.ctypes.data)
    assert words[:count].tolist() == list(backend.LAYOUT.values())
    assert (words[count:] == -1).all()


WRONG: list[tuple[str, tuple[Any, ...], str]] = [
    ("layout", (), "layout() takes 1 argument"),
    ("layout", (1, 2), "layout() takes 1 argument"),
    ("layout", ("1",), "'str' object cannot be interpreted as an integer"),
    ("layout", (None,), "'NoneType' object cannot be interpreted as an integer"),
    ("step", (), "step() takes 1 argument"),
    ("step", (1, 2, 3), "step() takes 1 argument"),
    ("step", (1.5,), "'float' object cannot be interpreted as an integer"),
    ("step", ([1],), "'list' object cannot be interpreted as an integer"),
    ("probe", (1,), "probe() takes 2 arguments"),
    ("probe", (1, 2, 3), "probe() takes 2 arguments"),
    ("probe", ("a", 1), "'str' object cannot be interpreted as an integer"),
    ("probe", (1, b"b"), "'bytes' object cannot be interpreted as an integer"),
    ("probe", (object(), object()), "'object' object cannot be interpreted as an integer"),
]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("function", "arguments", "message"), WRONG)
def test_wrong_arguments_raise(
    level: str, function: str, arguments: tuple[Any, ...], message: str
) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        getattr(_load(level), function)(*arguments)


@pytest.mark.parametrize("function", ["layout", "step", "probe"])
def test_keywords_and_huge_numbers_raise(function: str) -> None:
    call = getattr(backend.current().kernels, function)
    with pytest.raises(TypeError, match="takes no keyword arguments"):
        call(address=1)
    arguments = (2**70, 2**70) if function == "probe" else (2**70,)
    with pytest.raises(OverflowError):
        call(*arguments)


@pytest.mark.parametrize("function", ["layout", "step", "probe"])
def test_functions_tell_what_they_do(function: str) -> None:
    documented = getattr(backend.current().kernels, function)
    assert documented.__doc__.endswith(".")
    assert documented.__text_signature__.endswith(", /)")


@pytest.fixture
def builder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """`tools/kernels.py` with a copy of the built files, newer than every source."""
    spec = importlib.util.spec_from_file_location("kernels", ROOT / "tools" / "kernels.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for path in (*FILES, PACKAGE / "_kernels.json"):
        shutil.copy(path, tmp_path)
    monkeypatch.setattr(module, "PACKAGE", tmp_path)
    monkeypatch.setattr(module, "MANIFEST", tmp_path / "_kernels.json")
    return module


def test_build_is_repeated_when_a_source_is_newer(builder: Any) -> None:
    newest = max(path.stat().st_mtime for path in (ROOT / "shared").rglob("*.mojo"))
    newest = max(newest, (ROOT / "tools" / "kernels.py").stat().st_mtime)
    for age, is_current in [(1, True), (-1, False)]:
        os.utime(builder.MANIFEST, (newest + age, newest + age))
        assert builder.is_current() is is_current


@pytest.mark.parametrize("damage", ["missing", "changed", "no manifest", "bad manifest"])
def test_build_is_repeated_when_a_file_is_damaged(builder: Any, damage: str) -> None:
    extension = builder.PACKAGE / "_kernels.v3.so"
    if damage == "missing":
        extension.unlink()
    elif damage == "changed":
        extension.write_bytes(extension.read_bytes()[:-1])
    elif damage == "no manifest":
        builder.MANIFEST.unlink()
    else:
        builder.MANIFEST.write_text("[]")
    assert not builder.is_current()
