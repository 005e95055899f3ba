"""Labs for the tests of this folder: each test (or module) makes its own, under a name that no other test run has."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from tests.conftest import OURS
from tests.labs.lab import Lab, run

_SERIAL = iter(range(10_000))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what needs a lab where none can be made, with doctor's words."""
    here = os.path.dirname(__file__)
    mine = [item for item in items if str(item.path).startswith(here)]
    if not mine or not (reason := _why_not()):
        return
    for item in mine:
        item.add_marker(pytest.mark.skip(reason=reason))


def _why_not() -> str:
    if os.geteuid() == 0 and run("doctor", status=None).status == 0:
        return ""
    return "labs cannot be made here; `kubenetlab doctor` says what is missing"


def new_lab() -> Iterator[Lab]:
    lab = Lab(f"{OURS}{next(_SERIAL)}")
    try:
        yield lab
    finally:
        lab.down()
        assert not lab.directory.exists()


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A lab that is not up yet; gone after the test."""
    yield from new_lab()


@pytest.fixture
def labs() -> Iterator[Callable[[], Lab]]:
    """Makes labs."""
    made: list[Iterator[Lab]] = []

    def make() -> Lab:
        made.append(new_lab())
        return next(made[-1])

    yield make
    for one in made:
        for _ in one:
            pass
