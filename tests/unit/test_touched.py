"""Which tests a change touches: the table is complete, and a change finds its tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.touched import ANY, ELSEWHERE, ROOT, TOUCHES, touched_tests

MODULES = {path.stem.removeprefix("test_") for path in ROOT.glob("tests/labs/test_*.py")}


def test_the_table_names_what_there_is() -> None:
    """Every entry is the beginning of a path, with tests that exist; and every test of labs is in an entry."""
    files = [str(path.relative_to(ROOT)) for path in ROOT.rglob("*") if ".venv" not in path.parts]
    assert [
        beginning for beginning in TOUCHES if not any(file.startswith(beginning) for file in files)
    ] == []
    named = {name for names in (*TOUCHES.values(), ANY, ELSEWHERE) for name in names}
    assert named == MODULES


@pytest.mark.parametrize(
    "package",
    sorted(
        path.name for path in Path(ROOT, "kubenetlab").iterdir() if (path / "__init__.py").exists()
    ),
)
def test_every_package_has_tests_of_labs(package: str) -> None:
    """Whatever is changed in it, some lab shows it."""
    assert list(touched_tests([f"kubenetlab/{package}/anything.py"]))


def test_a_change_finds_its_tests() -> None:
    """By the beginning of its path; tests that were changed are run themselves."""
    assert list(touched_tests(["docs/faults.md"])) == ["tests/labs/test_docs.py"]
    found = list(
        touched_tests(
            [
                "kubenetlab/datapath/proxy/ebpf.py",
                "tests/kernel/test_bpf.py",
                "tests/labs/test_names.py",
            ]
        )
    )
    assert found[0] == "tests/kernel"
    assert {
        "tests/labs/test_ebpf.py",
        "tests/labs/test_flows.py",
        "tests/labs/test_names.py",
    } <= set(found)
    assert list(touched_tests(["LICENSE"])) == []
