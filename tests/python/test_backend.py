"""Which backend is chosen, what is said about it, and what happens when the kernels cannot run."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from hotloop import BackendError, backend
from hotloop.cli import main
from hotloop.optimizers import AdamW
from tests.conftest import needs_native

PACKAGE = Path(backend.__file__).parent
KERNELS = ("_kernels.v3.so", "_kernels.v4.so", "_kernels.json")
FLAGS = backend.cpu_flags()
LEVELS = [level for level, needed in backend.CPU_LEVELS.items() if needed <= FLAGS]

#: Trains for a few steps with our optimizer and with torch's, and tells on what.
TRAIN = """
import torch
from hotloop import backend
from hotloop.optimizers import AdamW

params = [torch.ones(50, requires_grad=True) for _ in range(2)]
optimizers = [AdamW(params[:1], lr=0.1), torch.optim.AdamW(params[1:], lr=0.1, fused=True)]
for _ in range(5):
    for param, optimizer in zip(params, optimizers):
        optimizer.zero_grad()
        (param * param).sum().backward()
        optimizer.step()
outcome = "trained" if torch.equal(*params) and params[0].sum() < 30 else "failed"
print(backend.current().name, backend.current().cpu_level, outcome)
print(backend.describe())
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with its kernels, where no checkout is around it."""
    return _copy_package(tmp_path_factory.mktemp("lib"))


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Choose the backend anew in this test, by `auto`, and once more after it."""
    monkeypatch.setenv("HOTLOOP_BACKEND", "auto")
    monkeypatch.delenv("HOTLOOP_CPU", raising=False)
    backend.current.cache_clear()
    yield
    monkeypatch.undo()
    backend.current.cache_clear()


@pytest.fixture
def kernels(fresh: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder with a copy of the kernels, from which this process takes them."""
    for name in KERNELS:
        shutil.copy(PACKAGE / name, tmp_path)
    monkeypatch.setattr(backend, "_PACKAGE", tmp_path)
    monkeypatch.setattr(backend, "_MANIFEST", tmp_path / "_kernels.json")
    return tmp_path


def _copy_package(folder: Path) -> Path:
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, folder / "hotloop", ignore=ignored)
    return folder


def _run(package: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HOTLOOP_")}
    environment |= {"PYTHONPATH": str(package), **variables}
    return subprocess.run(
        [sys.executable, *command],
        env=environment,
        cwd=package,
        capture_output=True,
        text=True,
        timeout=120,
    )


def _train(package: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return _run(package, "-c", TRAIN, **variables)


def _step() -> AdamW:
    """Take one step and check its result."""
    param = torch.full((5,), 2.0, requires_grad=True)
    optimizer = AdamW([param], lr=0.5, weight_decay=0.0)
    param.grad = torch.ones(5)
    optimizer.step()
    torch.testing.assert_close(param.detach(), torch.full((5,), 1.5))
    return optimizer


def _check_falls_back(reason: str, caplog: pytest.LogCaptureFixture) -> None:
    """Check that `auto` runs on torch and says so once, and that `native` refuses."""
    with caplog.at_level("DEBUG", "hotloop"):
        chosen = backend.current()
        optimizer = _step()
        _step()
    assert chosen.name == "torch"
    assert (chosen.cpu_level, chosen.kernels, chosen.runtime) == (None, None, None)
    assert reason in chosen.reason
    messages = [record.getMessage() for record in caplog.records]
    assert messages == [f"hotloop runs on torch, without its kernels: {chosen.reason}"]
    assert "\n" not in messages[0]
    assert optimizer.fallback_reason == chosen.reason
    assert f"backend: torch ({chosen.reason})" in backend.describe()
    os.environ["HOTLOOP_BACKEND"] = "native"
    backend.current.cache_clear()
    with pytest.raises(BackendError, match="HOTLOOP_BACKEND=native, but the kernels") as caught:
        backend.current()
    assert reason in str(caught.value)
    assert "Set HOTLOOP_BACKEND=auto" in str(caught.value)


# What the environment asks for.


@needs_native
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("mode", ["auto", "native"])
def test_each_cpu_level_is_chosen_by_its_name(package: Path, mode: str, level: str) -> None:
    result = _train(package, HOTLOOP_BACKEND=mode, HOTLOOP_CPU=level)
    assert result.stdout.splitlines()[:3] == [
        f"native {level} trained",
        f"backend: native (x86-64-{level} kernels, HOTLOOP_CPU={level})",
        "tensor access: libtorch",
    ]
    assert (result.stderr, result.returncode) == ("", 0)


@needs_native
def test_best_cpu_level_is_the_default(package: Path) -> None:
    result = _train(package)
    assert result.stdout.splitlines()[:2] == [
        f"native {LEVELS[0]} trained",
        f"backend: native (x86-64-{LEVELS[0]} kernels, the best this CPU runs)",
    ]
    assert result.stderr == ""


def test_torch_is_chosen_and_no_kernel_is_opened(package: Path) -> None:
    result = _run(package, "-c", WATCH.format(flags="backend.cpu_flags()"), HOTLOOP_BACKEND="torch")
    assert result.stdout.splitlines()[:2] == ["torch", "HOTLOOP_BACKEND=torch"]
    assert result.stdout.splitlines()[2] == "opened []"
    assert (result.stderr, result.returncode) == ("", 0)


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("HOTLOOP_BACKEND", "gpu", "must be one of auto, native, torch, got 'gpu'"),
        ("HOTLOOP_BACKEND", "Native", "must be one of auto, native, torch, got 'Native'"),
        ("HOTLOOP_BACKEND", " auto", "must be one of auto, native, torch, got ' auto'"),
        ("HOTLOOP_CPU", "v2", "must be one of v4, v3, got 'v2'"),
        ("HOTLOOP_CPU", "../v3", r"must be one of v4, v3, got '\.\./v3'"),
    ],
)
def test_unknown_value_is_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(BackendError, match=f"^{variable} {message}$"):
        backend.current()


def test_unknown_level_is_refused_on_torch_too(
    fresh: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOTLOOP_BACKEND", "torch")
    monkeypatch.setenv("HOTLOOP_CPU", "v5")
    with pytest.raises(BackendError, match="HOTLOOP_CPU must be one of v4, v3, got 'v5'"):
        backend.current()


@pytest.mark.usefixtures("fresh")
def test_empty_value_is_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOTLOOP_CPU", "")
    chosen = backend.current()
    backend.current.cache_clear()
    monkeypatch.setenv("HOTLOOP_BACKEND", "")
    assert backend.current().reason == chosen.reason


@pytest.mark.usefixtures("fresh")
def test_choice_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = backend.current()
    monkeypatch.setenv("HOTLOOP_BACKEND", "nonsense")
    assert backend.current() is chosen


# The command line.


@needs_native
def test_info_prints_backend_versions_and_cpu(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["info"]) == 0
    output = capsys.readouterr().out
    assert output.startswith(backend.describe() + "\n")
    assert "tensor access: " in output
    assert f"threads: {torch.get_num_threads()} " in output
    assert f"hotloop 0.1.0, torch {torch.__version__}, Python 3." in output


def test_info_tells_which_flags_a_level_lacks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(backend, "cpu_flags", lambda: backend.CPU_LEVELS["v3"] | {"avx512f"})
    assert main(["info"]) == 0
    v4, v3 = capsys.readouterr().out.splitlines()[-2:]
    assert v4.startswith("CPU level v4: no (has abm avx avx2 avx512f ")
    assert v4.endswith("; lacks avx512bw avx512cd avx512dq avx512vl)")
    assert v3.startswith("CPU level v3: yes (has abm avx avx2 ")
    assert "lacks" not in v3


def test_info_as_a_program(package: Path) -> None:
    result = _run(package, "-m", "hotloop", "info", HOTLOOP_BACKEND="torch")
    assert result.stdout.startswith("backend: torch (HOTLOOP_BACKEND=torch)\nthreads: ")
    assert (result.stderr, result.returncode) == ("", 0)


@pytest.mark.parametrize(("variable", "value"), [("HOTLOOP_BACKEND", "gpu"), ("HOTLOOP_CPU", "v9")])
def test_info_with_a_bad_environment_is_one_clear_line(
    package: Path, variable: str, value: str
) -> None:
    result = _run(package, "-m", "hotloop", "info", **{variable: value})
    assert result.returncode == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"hotloop: {variable} must be one of ")
    assert line.endswith(f", got {value!r}")


def test_no_command_shows_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 2
    assert "python -m hotloop" in capsys.readouterr().err


# Kernels that are missing, damaged or of another version.


def _rewrite_manifest(folder: Path) -> None:
    names = [path.name for path in folder.glob("_kernels.*.so")]
    sums = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    (folder / "_kernels.json").write_text(json.dumps({"sha256": sums}))


def _remove_manifest(folder: Path) -> None:
    (folder / "_kernels.json").unlink()


def _remove_extension(folder: Path) -> None:
    for path in folder.glob("_kernels.*.so"):
        path.unlink()


def _forget_checksum(folder: Path) -> None:
    (folder / "_kernels.json").write_text('{"sha256": {}}')


def _swap_levels(folder: Path) -> None:
    v3, v4 = folder / "_kernels.v3.so", folder / "_kernels.v4.so"
    v3_bytes, v4_bytes = v3.read_bytes(), v4.read_bytes()
    v3.write_bytes(v4_bytes)
    v4.write_bytes(v3_bytes)


def _replace_extension_by_text(folder: Path) -> None:
    for path in folder.glob("_kernels.*.so"):
        path.write_text("This is no shared object.")
    _rewrite_manifest(folder)


def _write_manifest(text: str | bytes) -> Callable[[Path], None]:
    content = text.encode() if isinstance(text, str) else text
    return lambda folder: (folder / "_kernels.json").write_bytes(content) and None


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "no manifest": (_remove_manifest, "are missing or incomplete"),
    "no extension": (_remove_extension, "are missing or incomplete"),
    "no checksum": (_forget_checksum, "are missing or incomplete"),
    "empty manifest": (_write_manifest(""), "are missing or incomplete"),
    "cut manifest": (_write_manifest('{"sha256": {"_kern'), "are missing or incomplete"),
    "list as manifest": (_write_manifest("[1, 2]"), "are missing or incomplete"),
    "null in manifest": (_write_manifest('{"sha256": null}'), "are missing or incomplete"),
    "binary manifest": (_write_manifest(b"\xff\xfe\x00\x9d"), "are missing or incomplete"),
    "number as checksum": (
        _write_manifest('{"sha256": {"_kernels.v3.so": 1, "_kernels.v4.so": 1}}'),
        "is damaged (checksum differs)",
    ),
    "swapped levels": (_swap_levels, "is damaged (checksum differs)"),
    "text as extension": (_replace_extension_by_text, "cannot be loaded"),
}


@needs_native
@pytest.mark.parametrize("damage", DAMAGES)
def test_unusable_kernels_fall_back(
    kernels: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    make, reason = DAMAGES[damage]
    make(kernels)
    _check_falls_back(reason, caplog)


def _cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


# Loading such a file may kill the process, so it happens in another one.
@needs_native
@pytest.mark.parametrize("damage", [_cut, _flip], ids=["truncated", "flipped"])
@pytest.mark.parametrize("mode", ["auto", "native"])
def test_damaged_extension_is_not_loaded(
    tmp_path: Path, mode: str, damage: Callable[[bytes], bytes]
) -> None:
    package = _copy_package(tmp_path)
    for path in (package / "hotloop").glob("_kernels.*.so"):
        path.write_bytes(damage(path.read_bytes()))
    result = _train(package, HOTLOOP_BACKEND=mode)
    problem = f"_kernels.{LEVELS[0]}.so is damaged (checksum differs); reinstall hotloop"
    if mode == "native":
        assert result.returncode == 1
        assert problem in result.stderr.splitlines()[-1]
        assert "hotloop.errors.BackendError: " in result.stderr
        return
    assert result.stdout.startswith("torch None trained\n")
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"hotloop runs on torch, without its kernels: {problem}")


@needs_native
@pytest.mark.parametrize("structure", backend.LAYOUT)
def test_kernels_with_another_layout_fall_back(
    kernels: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    structure: str,
) -> None:
    monkeypatch.setitem(backend.LAYOUT, structure, backend.LAYOUT[structure] + 1)
    _check_falls_back("the kernels belong to another version of hotloop", caplog)


@needs_native
def test_kernels_with_fewer_structures_fall_back(
    kernels: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(backend.LAYOUT, "future", 1)
    _check_falls_back("the kernels belong to another version of hotloop", caplog)


@needs_native
def test_copied_kernels_are_used(kernels: Path) -> None:
    """The tests above would prove nothing if a copy were refused anyway."""
    assert backend.current().name == "native"
    assert str(kernels) in str(backend.current().kernels.__file__)
    assert _step().fallback_reason is None


@needs_native
def test_kernels_older_than_their_sources_run_with_a_warning(
    kernels: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    checkout = tmp_path_factory.mktemp("checkout")
    source = checkout / "shared" / "bindings" / "extension.mojo"
    source.parent.mkdir(parents=True)
    source.write_text("")
    installed = checkout / "python" / "hotloop"
    shutil.copytree(kernels, installed)
    monkeypatch.setattr(backend, "_PACKAGE", installed)
    monkeypatch.setattr(backend, "_MANIFEST", installed / "_kernels.json")
    built = (installed / "_kernels.json").stat().st_mtime
    for age, warnings in [(-10, []), (10, ["older than shared/: run `make build`"])]:
        os.utime(source, (built + age, built + age))
        backend.current.cache_clear()
        caplog.clear()
        assert backend.current().name == "native"
        assert [r.getMessage().partition("are ")[2] for r in caplog.records] == warnings
    assert _step().fallback_reason is None


# CPUs and platforms.

#: Chooses the backend on a CPU with certain flags, and tells which kernels were touched.
WATCH = """
import sys
from pathlib import Path

opened = []

def watch(event, arguments):
    if event in ("open", "import") and any("_kernels." in str(a) for a in arguments):
        opened.append(str(arguments))

sys.addaudithook(watch)
from hotloop import backend
flags = {flags}
backend.cpu_flags = lambda: flags
chosen = backend.current()
print(chosen.name)
print(chosen.cpu_level or chosen.reason)
print("opened", opened)
maps = Path("/proc/self/maps").read_text()
names = {{line.rpartition("/")[2] for line in maps.splitlines()}}
print("mapped", sorted(name for name in names if "_kernels" in name))
"""


@needs_native
def test_cpu_without_avx512_gets_v3_alone(package: Path) -> None:
    result = _run(package, "-c", WATCH.format(flags="backend.cpu_flags() - {'avx512f'}"))
    name, level, opened, mapped = result.stdout.splitlines()
    assert (name, level, mapped) == ("native", "v3", "mapped ['_kernels.v3.so']")
    assert "_kernels.v3.so" in opened
    assert "_kernels.v4.so" not in opened


@pytest.mark.parametrize(
    ("flags", "variables", "reason"),
    [
        ("backend.cpu_flags() - {'avx2'}", {}, "this CPU lacks avx2"),
        ("backend.CPU_LEVELS['v4'] - {'popcnt'}", {}, "this CPU lacks popcnt"),
        (
            "backend.CPU_LEVELS['v4'] - {'avx512vl'}",
            {"HOTLOOP_CPU": "v4"},
            "HOTLOOP_CPU=v4, but this CPU lacks avx512vl",
        ),
        (
            "backend.CPU_LEVELS['v4'] - {'fma'}",
            {"HOTLOOP_CPU": "v3"},
            "HOTLOOP_CPU=v3, but this CPU lacks fma",
        ),
    ],
    ids=["no avx2", "no popcnt", "v4 asked", "v3 asked"],
)
def test_kernels_beyond_the_cpu_are_never_opened(
    package: Path, flags: str, variables: dict[str, str], reason: str
) -> None:
    result = _run(package, "-c", WATCH.format(flags=flags), **variables)
    lines = result.stdout.splitlines()
    assert lines[0] == "torch"
    assert lines[1].startswith(reason)
    assert lines[2:] == ["opened []", "mapped []"]
    (line,) = result.stderr.splitlines()
    assert line == f"hotloop runs on torch, without its kernels: {lines[1]}"


@pytest.mark.parametrize("flag", sorted(backend.CPU_LEVELS["v3"]))
def test_every_flag_of_v3_is_needed(
    fresh: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, flag: str
) -> None:
    monkeypatch.setattr(backend, "cpu_flags", lambda: backend.CPU_LEVELS["v4"] - {flag})
    _check_falls_back(f"this CPU lacks {flag}, which the kernels need", caplog)


@pytest.mark.parametrize("flag", sorted(backend.CPU_LEVELS["v4"] - backend.CPU_LEVELS["v3"]))
def test_every_flag_of_v4_is_needed(
    fresh: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, flag: str
) -> None:
    monkeypatch.setattr(backend, "cpu_flags", lambda: backend.CPU_LEVELS["v4"] - {flag})
    monkeypatch.setenv("HOTLOOP_CPU", "v4")
    _check_falls_back(f"HOTLOOP_CPU=v4, but this CPU lacks {flag}", caplog)


@pytest.mark.usefixtures("fresh")
def test_no_cpuinfo_falls_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    read_text = Path.read_text

    def refuse(path: Path, *args: object, **options: object) -> str:
        if str(path) == "/proc/cpuinfo":
            raise FileNotFoundError(path)
        return read_text(path, *args, **options)

    monkeypatch.setattr(Path, "read_text", refuse)
    assert backend.cpu_flags() == set()
    _check_falls_back("this CPU lacks abm avx avx2", caplog)


CPUINFO = {
    "one CPU": ("processor\t: 0\nflags\t\t: fma avx\n", {"fma", "avx"}),
    "unequal CPUs": ("flags\t: fma avx\n\nflags\t: fma avx512f\n", {"fma"}),
    "other lines": ("vmx flags\t: ept\nflags : fma\nbugs\t: avx\n", {"fma"}),
    "no flags": ("processor\t: 0\nFeatures\t: asimd\n", set()),
    "empty": ("", set()),
}


@pytest.mark.parametrize("case", CPUINFO)
def test_flags_are_those_of_every_cpu(monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    text, flags = CPUINFO[case]
    monkeypatch.setattr(Path, "read_text", lambda path: text)
    assert backend.cpu_flags() == flags


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(
    ("system", "machine"), [("Darwin", "arm64"), ("Windows", "AMD64"), ("Linux", "aarch64")]
)
def test_platform_without_kernels_falls_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, system: str, machine: str
) -> None:
    monkeypatch.setattr("platform.system", lambda: system)
    monkeypatch.setattr("platform.machine", lambda: machine)
    _check_falls_back(f"no kernels for {system} on {machine}", caplog)


@pytest.mark.usefixtures("fresh")
def test_free_threaded_python_falls_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("sysconfig.get_config_var", lambda name: name == "Py_GIL_DISABLED")
    _check_falls_back("the kernels do not run on a free-threaded Python", caplog)


@needs_native
def test_torch_without_a_stable_thread_pool_falls_back(
    kernels: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("hotloop.runtime._PARALLEL_FOR", "torch_parallel_for_missing")
    _check_falls_back(f"torch {torch.__version__} is too old: ", caplog)
