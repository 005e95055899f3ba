"""The shape of the code: imports point one way, and the pure packages do nothing but compute."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

import kubenetlab
from kubenetlab.datapath.modes import FAMILIES

PACKAGE = Path(kubenetlab.__file__).parent

MAY_IMPORT = {
    "errors": set(),
    "names": set(),
    "versioned": set(),
    "lazy": set(),
    "hoststate": {"errors", "versioned", "names", "lazy"},
    "api": {"errors", "versioned", "names", "lazy"},
    "programs": {"api", "hoststate", "errors", "names"},
    "cni": {"api", "errors"},
    "controllers": {"api", "errors", "names"},
    "datapath": {
        "api",
        "cni",
        "controllers",
        "programs",
        "hoststate",
        "errors",
        "versioned",
        "names",
    },
    "diagnostics": {"api", "datapath", "programs", "errors", "names"},
    "kernel": {"cni", "hoststate", "errors", "names"},
    "observe": {"api", "controllers", "programs", "diagnostics", "kernel", "errors", "names"},
    "lab": {
        "api",
        "cni",
        "controllers",
        "datapath",
        "programs",
        "diagnostics",
        "hoststate",
        "kernel",
        "observe",
        "errors",
        "names",
    },
    "cli": {
        "api",
        "controllers",
        "datapath",
        "programs",
        "diagnostics",
        "hoststate",
        "kernel",
        "observe",
        "lab",
        "errors",
        "names",
    },
    "library": {
        "api",
        "datapath",
        "diagnostics",
        "hoststate",
        "observe",
        "lab",
        "cli",
        "errors",
        "names",
    },
}
"""Package → packages of ours that it may import beside itself."""

PURE = (
    "versioned",
    "api",
    "cni",
    "controllers",
    "datapath",
    "hoststate",
    "programs",
    "diagnostics",
)
IMPURE_MODULES = {
    "socket",
    "subprocess",
    "time",
    "random",
    "asyncio",
    "ctypes",
    "select",
    "signal",
    "threading",
    "multiprocessing",
    "secrets",
}
MAX_LINES = 400
MAX_MODULES = 25


def modules(package: str) -> Iterator[Path]:
    place = PACKAGE / package
    yield from sorted(place.rglob("*.py")) if place.is_dir() else [PACKAGE / f"{package}.py"]


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports at run time, wherever in it."""
    return (name for name, is_for_types in all_imports(path) if not is_for_types)


@cache
def all_imports(path: Path) -> tuple[tuple[str, bool], ...]:
    """Return what a file imports, each with True if it is imported for type checkers only."""
    return tuple(_imported(ast.parse(path.read_text()).body, is_for_types=False))


def _imported(statements: Iterable[ast.AST], *, is_for_types: bool) -> Iterator[tuple[str, bool]]:
    for node in statements:
        if isinstance(node, ast.Import):
            yield from ((alias.name, is_for_types) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((f"{node.module}.{alias.name}", is_for_types) for alias in node.names)
        for blocks in ("body", "handlers", "cases", "orelse", "finalbody"):
            yield from _imported(
                getattr(node, blocks, ()),
                is_for_types=is_for_types
                or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)),
            )


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_point_one_way(package: str) -> None:
    """A package imports only those to its left: api ← controllers ← datapath ← … ← lab ← cli."""
    for path in modules(package):
        for module in imports(path):
            if module.startswith("kubenetlab."):
                imported = module.split(".")[1]
                assert (
                    imported == package
                    or imported in MAY_IMPORT[package]
                    or imported == "__version__"
                ), f"{path} imports {module}"


@pytest.mark.parametrize("package", PURE)
def test_the_pure_packages_only_compute(package: str) -> None:
    """No sockets, no processes, no clock, no chance: those come in from outside."""
    for path in modules(package):
        for module in imports(path):
            assert module.split(".")[0] not in IMPURE_MODULES, f"{path} imports {module}"


def test_only_load_reads_files() -> None:
    """`open` and `os` stand in api/manifests/load.py alone of the pure packages."""
    readers = {
        path.name
        for package in PURE
        for path in modules(package)
        if any(module.split(".")[0] in ("os", "io", "pathlib") for module in imports(path))
    }
    assert readers == {"load.py"}


def test_what_is_promised_is_computed_without_the_datapath() -> None:
    """The expectations of `ping` must not come from the code that they check."""
    for module in imports(PACKAGE / "observe" / "expect.py"):
        assert not module.startswith(
            ("kubenetlab.datapath", "kubenetlab.kernel", "kubenetlab.hoststate")
        ), module


def test_a_file_holds_one_idea() -> None:
    """Files past 400 lines hide a second one."""
    long = {
        str(path.relative_to(PACKAGE)): count
        for path in PACKAGE.rglob("*.py")
        if (count := len(path.read_text().splitlines())) > MAX_LINES
    }
    assert long == {}


def test_a_folder_holds_one_group() -> None:
    """Modules beyond that belong in subpackages."""
    folders = Counter(
        str(path.parent.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if path.name != "__init__.py"
    )
    assert {folder: count for folder, count in folders.items() if count > MAX_MODULES} == {}


PLUG_INS = ("datapath.cni", "datapath.proxy", "datapath.policy", "datapath.faults", "programs")
"""Folders of modules that are found by name, or listed: each module counts by itself."""


def group_of(module: str, package: str) -> str:
    """Return the subpackage of a module, or the module itself if it is in the package's folder."""
    parts = module.removeprefix("kubenetlab.").split(".")
    depth = 3 if ".".join(parts[:2]) in PLUG_INS else 2
    return ".".join(parts[:depth]) if len(parts) > 1 else package


def cycles(graph: dict[str, set[str]]) -> list[str]:
    """Return the groups from which imports lead back to themselves."""

    def reached(start: str) -> set[str]:
        found: set[str] = set()
        pending = [start]
        while pending:
            for following in graph.get(pending.pop(), set()) - found:
                found.add(following)
                pending.append(following)
        return found

    return sorted(group for group in graph if group in reached(group))


@pytest.mark.parametrize(
    "package", [package for package in MAY_IMPORT if (PACKAGE / package).is_dir()]
)
def test_subpackages_do_not_import_one_another_in_circles(package: str) -> None:
    """Modules outside subpackages count by themselves; imports within functions count, too."""
    known = {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        for path in modules(package)
    }
    graph: dict[str, set[str]] = {}
    for path in modules(package):
        module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        if module.endswith("__init__"):
            continue
        own = group_of(module, package)
        for imported in imports(path):
            target = imported if imported in known else imported.rpartition(".")[0]
            if target in known and target != f"kubenetlab.{package}":
                graph.setdefault(own, set()).update({group_of(target, package)} - {own})
    assert cycles(graph) == []


def test_cycles_are_found() -> None:
    """Also those by way of a third."""
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == ["a", "b", "c"]
    assert cycles({"a": {"b"}, "b": set()}) == []


def test_modes_do_not_import_one_another() -> None:
    """Code that modes share lies beside them."""
    for family in FAMILIES:
        files = [
            path for path in modules(f"datapath/{family}") if "\nclass Mode(" in path.read_text()
        ]
        names = {f"kubenetlab.datapath.{family}.{path.stem}" for path in files}
        for path in files:
            for module in imports(path):
                assert not any(
                    module.startswith(name) for name in names if not name.endswith(path.stem)
                ), f"{path} imports {module}"


def test_the_command_line_uses_the_public_api_of_typer_and_rich() -> None:
    """A private module may disappear with any release."""
    private = {
        f"{path.relative_to(PACKAGE)}: {module}"
        for path in PACKAGE.rglob("*.py")
        for module, _ in all_imports(path)
        if module.partition(".")[0] in ("typer", "rich", "click") and "._" in module
    }
    assert private == set()


def test_one_module_draws_with_rich_and_one_asks_for_terminals() -> None:
    """Commands print documents; how these appear is decided in one place."""
    commands = {path.relative_to(PACKAGE / "cli"): path for path in (PACKAGE / "cli").rglob("*.py")}
    with_rich = {
        str(name)
        for name, path in commands.items()
        if any(module.partition(".")[0] == "rich" for module, _ in all_imports(path))
    }
    assert with_rich == {"terminal/drawing.py", "terminal/layout.py"}
    with_terminals = {
        str(name) for name, path in commands.items() if ".isatty()" in path.read_text()
    }
    assert with_terminals == {"terminal/display.py"}
