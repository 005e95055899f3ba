"""The public names: each exists, has a docstring, and is described in docs/api.md, and no other."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_type_hints

import pytest

import kubenetlab
from kubenetlab import Lab

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
PROSE = re.sub(r"^```.*?^```$", "", PAGE, flags=re.MULTILINE | re.DOTALL)
WORDS = {word for code in re.findall(r"`([^`\n]+)`", PROSE) for word in re.findall(r"\w+", code)}
"""Words that the page shows as code."""
PACKAGES = {
    name: import_module(name)
    for name in (
        "kubenetlab",
        "kubenetlab.api",
        "kubenetlab.controllers",
        "kubenetlab.datapath",
        "kubenetlab.diagnostics",
        "kubenetlab.hoststate",
    )
}
NAMES = [(package, name) for package, module in PACKAGES.items() for name in module.__all__]
OF_LAB = [name for name in {**vars(Lab), "name": None} if not name.startswith("_")]
each_name = pytest.mark.parametrize(("package", "name"), NAMES, ids=[".".join(n) for n in NAMES])


def value(package: str, name: str) -> Any:
    return getattr(PACKAGES[package], name)


def classes_in(hint: Any) -> Iterator[type]:
    """Yield the classes in a type, such as those in `dict[str, Pod | None]`."""
    if isinstance(hint, type) and not get_args(hint):
        yield hint
    for argument in get_args(hint):
        for inner in argument if isinstance(argument, list) else [argument]:
            yield from classes_in(inner)


def signatures(obj: Any) -> Iterator[tuple[str, Any]]:
    """Yield the types of a function, or of the public fields and methods of a class."""
    if not isinstance(obj, type):
        yield from get_type_hints(obj).items()
        return
    yield from (item for item in get_type_hints(obj).items() if not item[0].startswith("_"))
    for name, member in vars(obj).items():
        if isinstance(member, classmethod | staticmethod):
            member = member.__func__
        elif isinstance(member, property):
            member = member.fget
        if inspect.isfunction(member) and (not name.startswith("_") or name == "__init__"):
            yield from get_type_hints(member).items()


@each_name
def test_a_public_name_exists_and_has_a_docstring(package: str, name: str) -> None:
    """Constants have theirs in the source."""
    obj = value(package, name)
    if inspect.isclass(obj) or inspect.isfunction(obj):
        assert (obj.__doc__ or "").strip().endswith((".", ")")) or "." in (obj.__doc__ or "")
        assert inspect.getsourcefile(obj)


@each_name
def test_a_public_name_is_on_the_page(package: str, name: str) -> None:
    assert name in WORDS, f"docs/api.md does not name {package}.{name}"


@pytest.mark.parametrize("name", OF_LAB)
def test_each_method_of_a_lab_is_described(name: str) -> None:
    """On the page, and by a docstring."""
    assert re.search(rf"`(?:lab|Lab)\.{name}\b", PROSE), f"docs/api.md does not name Lab.{name}"
    if name != "name":
        assert inspect.getdoc(getattr(Lab, name))


@pytest.mark.parametrize("name", kubenetlab.__all__)
def test_public_signatures_have_public_types(name: str) -> None:
    """A type in a public signature can be imported by one of the public names."""
    public = {id(value(*entry)) for entry in NAMES}
    private = {
        f"{label}: {class_.__module__}.{class_.__name__}"
        for label, hint in signatures(value("kubenetlab", name))
        for class_ in classes_in(hint)
        if class_.__module__.startswith("kubenetlab") and id(class_) not in public
    }
    assert private == set()


@each_name
def test_functions_of_packages_have_public_types(package: str, name: str) -> None:
    """The functions that compute a plan step by step."""
    obj = value(package, name)
    if inspect.isfunction(obj):
        public = {id(value(*entry)) for entry in NAMES}
        for label, hint in signatures(obj):
            for class_ in classes_in(hint):
                is_ours = class_.__module__.startswith("kubenetlab")
                assert not is_ours or id(class_) in public, f"{label}: {class_}"


def test_the_page_names_nothing_that_does_not_exist() -> None:
    """Dotted names, class names and calls in backticks."""
    known = {name for _, name in NAMES}
    missing = []
    for code in re.findall(r"`([^`\n]+)`", PROSE):
        if re.fullmatch(r"kubenetlab(\.\w+)+", code):
            missing += [code] * (not _exists(code))
        elif re.fullmatch(r"([A-Z][a-z]+)+", code):
            missing += [code] * (code not in known)
        elif match := re.match(r"(lab|Lab|plan)\.(\w+)", code):
            owner = kubenetlab.LabPlan if match[1] == "plan" else Lab
            names = {*dir(owner), *get_type_hints(owner), "name"}
            missing += [code] * (match[2] not in names)
    assert missing == []


def _exists(dotted: str) -> bool:
    owner, _, name = dotted.rpartition(".")
    try:
        return hasattr(import_module(owner), name) or bool(import_module(dotted))
    except ImportError:
        return False


@pytest.mark.parametrize("package", PACKAGES)
def test_an_unknown_name_is_an_attribute_error(package: str) -> None:
    """Also in packages that import their names at the first use; `dir` lists them."""
    module: ModuleType = PACKAGES[package]
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        module.nothing  # noqa: B018
    assert set(module.__all__) <= set(dir(module))
    assert len(module.__all__) == len(set(module.__all__))


@pytest.mark.parametrize("package", ["kubenetlab", "kubenetlab.api", "kubenetlab.hoststate"])
def test_names_are_imported_at_their_first_use(package: str) -> None:
    """An import of the package alone takes no time: commands do it."""
    line = (
        f"import sys; before = set(sys.modules); import {package}; "
        "print(*sorted(name for name in set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {"__future__", "kubenetlab", package}


@pytest.mark.parametrize("package", ["kubenetlab", "kubenetlab.api", "kubenetlab.hoststate"])
def test_every_name_has_its_module(package: str) -> None:
    """The module that defines it, not one that imports it."""
    module = PACKAGES[package]
    assert sorted(module._MODULES) == sorted(module.__all__)
    for name, place in module._MODULES.items():
        assert getattr(module, name).__module__ == f"{package}.{place}"
