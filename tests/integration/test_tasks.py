"""The files that say how to work on hotloop agree with each other."""

from __future__ import annotations

import re
import stat
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
TASKS = {
    "train",
    "mojo-examples",
    "test",
    "test-faults",
    "test-fuzz",
    "test-soak",
    "test-clients",
    "check",
    "bench",
    "build",
}

_TEXT = {"type": "string", "minLength": 1}
_TASK_NAME = {"type": "string", "pattern": r"^[^\s\$]+$"}
_NAMES_OR_BOOL = {"anyOf": [{"type": "boolean"}, {"type": "array", "items": _TEXT}]}


def _table(required: list[str] | None = None, **properties: Any) -> dict[str, Any]:
    named = {name.replace("_", "-"): schema for name, schema in properties.items()}
    return {
        "type": "object",
        "additionalProperties": False,
        "required": required or [],
        "properties": named,
    }


def _map(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": schema}


def _list(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": schema}


_DEPENDENCY = {"anyOf": [_table(["task"], task=_TASK_NAME, environment=_TEXT), _TASK_NAME]}
_TASK = _table(
    cmd={"anyOf": [_TEXT, _list(_TEXT)]},
    cwd=_TEXT,
    depends_on={"anyOf": [_DEPENDENCY, _list(_DEPENDENCY)]},
    inputs=_list(_TEXT),
    outputs=_list(_TEXT),
    env=_map(_TEXT),
    description=_TEXT,
)
#: The part of pixi's own schema (schema/schema.json in its repository) for the tables that
#: we use, as strict as there: an unknown key is an error.
PIXI = _table(
    ["workspace"],
    workspace=_table(
        ["channels"],
        name=_TEXT,
        version=_TEXT,
        description=_TEXT,
        channels=_list(_TEXT),
        platforms=_list({"enum": ["linux-64", "linux-aarch64", "osx-64", "osx-arm64", "win-64"]}),
        requires_pixi=_TEXT,
    ),
    dependencies=_map({"anyOf": [_TEXT, _table(version=_TEXT, build=_TEXT, channel=_TEXT)]}),
    pypi_dependencies=_map(
        {
            "anyOf": [
                _TEXT,
                _table(["version"], version=_TEXT, extras=_list(_TEXT), index=_TEXT),
                _table(
                    ["path"],
                    path=_TEXT,
                    editable={"type": "boolean"},
                    extras=_list(_TEXT),
                    subdirectory=_TEXT,
                ),
            ]
        }
    ),
    pypi_options=_table(no_build_isolation=_NAMES_OR_BOOL, no_binary=_NAMES_OR_BOOL),
    tasks={
        "type": "object",
        "propertyNames": _TASK_NAME,
        "additionalProperties": {"anyOf": [_TEXT, _TASK, _list(_DEPENDENCY)]},
    },
)


def _read_toml(name: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / name).read_text())


def _read_makefile() -> dict[str, tuple[list[str], list[str]]]:
    """Return each target's dependencies and commands."""
    targets: dict[str, tuple[list[str], list[str]]] = {}
    commands: list[str] = []
    for line in (ROOT / "Makefile").read_text().splitlines():
        if line.startswith("\t"):
            commands.append(line.strip())
        elif match := re.fullmatch(r"([\w.$()-]+):(?!=)\s*(.*)", line):
            commands = []
            targets[match[1]] = match[2].split(), commands
    return targets


def _names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(text).name) for text in requirements}


def _constraints() -> dict[str, Requirement]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(requirement.name): requirement for requirement in found}


def test_tasks_are_those_of_the_makefile() -> None:
    tasks = _read_toml("pixi.toml")["tasks"]
    targets = _read_makefile()
    assert set(tasks) == TASKS
    phony = set(targets[".PHONY"][0])
    assert phony - {"clean"} == TASKS


@pytest.mark.parametrize("name", sorted(TASKS))
def test_task_runs_the_command_of_its_target(name: str) -> None:
    task = _read_toml("pixi.toml")["tasks"][name]
    dependencies, commands = _read_makefile()[name]
    (command,) = commands
    assert command.startswith("$(PYTHON) ")
    assert task["cmd"] == command.replace("$(PYTHON)", "python")
    # Installing is pixi's own business.
    wanted = [name for name in dependencies if name not in ("$(INSTALLED)", "$(CLIENTS)")]
    assert task.get("depends-on", []) == wanted
    assert wanted == ([] if name == "build" else ["build"])


@pytest.mark.parametrize("name", sorted(TASKS))
def test_task_runs_a_file_that_exists(name: str) -> None:
    program, script, *_ = _read_toml("pixi.toml")["tasks"][name]["cmd"].split()
    assert program == "python"
    assert (ROOT / script).is_file()


def test_pixi_file_fits_pixis_schema() -> None:
    jsonschema.validate(_read_toml("pixi.toml"), PIXI)


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        ("workspace", "chanels", ["conda-forge"]),
        ("workspace", "platforms", ["linux"]),
        ("dependencies", "python", 3.11),
        ("pypi-dependencies", "hotloop", {"editable": True}),
        ("pypi-dependencies", "hotloop", {"path": ".", "extra": ["dev"]}),
        ("tasks", "a task", "python"),
        ("tasks", "train", {"cmd": "python", "depends": ["build"]}),
        ("task", "train", "python"),
    ],
)
def test_schema_refuses_what_pixi_refuses(table: str, key: str, value: Any) -> None:
    content = _read_toml("pixi.toml")
    content.setdefault(table, {})[key] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, PIXI)


def test_pixi_installs_this_checkout_with_everything() -> None:
    content = _read_toml("pixi.toml")
    assert set(content["dependencies"]) == {"python"}
    (hotloop,) = content["pypi-dependencies"].values()
    project = _read_toml("pyproject.toml")["project"]
    assert hotloop["path"] == "."
    assert hotloop["editable"] is True
    assert set(hotloop["extras"]) == set(project["optional-dependencies"])
    assert content["workspace"]["name"] == project["name"]
    assert content["workspace"]["channels"] == ["conda-forge"]


def test_nothing_is_compiled_twice() -> None:
    """Installing compiles the kernels; `build` follows and finds them current."""
    assert "--if-stale" in _read_toml("pixi.toml")["tasks"]["build"]["cmd"].split()
    hook = (ROOT / "hatch_build.py").read_text()
    assert re.search(r'if version == "editable":\s+if not kernels\.is_current\(\)', hook)


def test_mojo_is_pinned_for_developers() -> None:
    extras = _read_toml("pyproject.toml")["project"]["optional-dependencies"]
    pins = {r.name: str(r.specifier) for r in map(Requirement, extras["dev"]) if r.specifier}
    assert (pins["mojo"], pins["max"]) == ("==1.2.0", "==26.7.0")
    constraints = _constraints()
    assert str(constraints["mojo"].specifier) == pins["mojo"]
    assert str(constraints["max"].specifier) == pins["max"]


def test_compiler_is_the_one_that_builds_the_wheel() -> None:
    requires = _read_toml("pyproject.toml")["build-system"]["requires"]
    (compiler,) = [r for r in map(Requirement, requires) if r.name == "mojo-compiler"]
    assert str(compiler.specifier) == "==1.2.0"
    assert str(_constraints()["mojo-compiler"].specifier) == "==1.2.0"


def test_constraints_name_real_dependencies() -> None:
    content = _read_toml("pyproject.toml")
    project = content["project"]
    real = _names(project["dependencies"]) | _names(content["build-system"]["requires"])
    for extra in project["optional-dependencies"].values():
        real |= _names(extra)
    assert set(_constraints()) - real == set()


def test_constraints_pin_one_version_each() -> None:
    for name, requirement in _constraints().items():
        (pin,) = requirement.specifier
        assert pin.operator == "==", name


def test_continuous_integration_runs_the_tasks_and_nothing_else() -> None:
    path = ROOT / ".ci" / "run"
    assert path.stat().st_mode & stat.S_IXUSR
    lines = [line.strip() for line in path.read_text().splitlines()]
    assert lines[0] == "#!/usr/bin/env bash"
    assert [line for line in lines[1:] if line and not line.startswith("#")] == [
        'cd "$(dirname "$0")/.." || exit 1',
        "status=0",
        "make check || status=1",
        "make test || status=1",
        'exit "$status"',
    ]


@pytest.mark.parametrize(
    "name", ["pixi.toml", "pyproject.toml", "Makefile", "constraints.txt", ".ci/run"]
)
def test_no_file_knows_a_machine_or_a_registry(name: str) -> None:
    text = (ROOT / name).read_text().replace("#!/usr/bin/env", "")
    assert not re.search(r"https?:|file:|(^|[\s\"'=])/(home|opt|tmp|usr|work|root)\b", text)
    assert not re.search(r"\b[\w-]+\.(org|com|io|dev|net)\b", text)
