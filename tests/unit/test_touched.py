"""The table of tests that a change affects is complete, and a change finds its tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.touched import DEFAULT_TESTS, ROOT, TOUCHES, UNLISTED_TESTS, touched_tests

MODULES = {path.stem.removeprefix("test_") for path in ROOT.glob("tests/labs/test_*.py")}


def test_the_table_is_complete() -> None:
    """Each entry is the beginning of a path, with existing tests.

    Each module of lab tests is in an entry.
    """
    files = [str(path.relative_to(ROOT)) for path in ROOT.rglob("*") if ".venv" not in path.parts]
    assert [
        beginning for beginning in TOUCHES if not any(file.startswith(beginning) for file in files)
    ] == []
    named = {name for names in (*TOUCHES.values(), DEFAULT_TESTS, UNLISTED_TESTS) for name in names}
    assert named == MODULES


@pytest.mark.parametrize(
    "package",
    sorted(
        path.name for path in Path(ROOT, "kubenetlab").iterdir() if (path / "__init__.py").exists()
    ),
)
def test_a_change_of_any_package_selects_lab_tests(package: str) -> None:
    """A lab shows the effect of any change in a package."""
    assert list(touched_tests([f"kubenetlab/{package}/anything.py"]))


def test_a_change_finds_its_tests() -> None:
    """They are found by the beginning of the path; changed tests are run themselves."""
    assert list(touched_tests(["docs/faults.md"])) == ["tests/labs/test_docs.py"]
    selected = list(
        touched_tests(
            [
                "kubenetlab/datapath/proxy/ebpf.py",
                "tests/kernel/test_bpf.py",
                "tests/labs/test_long_names.py",
            ]
        )
    )
    assert selected[0] == "tests/kernel"
    assert {
        "tests/labs/test_ebpf.py",
        "tests/labs/test_flows.py",
        "tests/labs/test_long_names.py",
    } <= set(selected)
    assert list(touched_tests(["LICENSE"])) == []
