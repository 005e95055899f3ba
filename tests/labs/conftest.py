"""Labs for the tests of this folder, under names that no other test run has."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.conftest import LAB_PREFIX, NEEDS_ROOT
from tests.labs import users
from tests.labs.changed_lab import ChangedLab
from tests.labs.fault_injection import FaultPlan
from tests.labs.lab import Lab, run
from tests.labs.users import NO_PYTHON_FOR_USERS, NOBODY, User

_SERIAL = iter(range(10_000))


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Group the tests that share a lab for one worker; skip all where no lab can be created."""
    folder = os.path.dirname(__file__)
    lab_tests = [item for item in items if str(item.path).startswith(folder)]
    for item in lab_tests:
        if _shares_fixtures(item):
            item.add_marker(pytest.mark.xdist_group(str(item.path)))
    if not lab_tests or not (reason := _skip_reason()):
        return
    for item in lab_tests:
        item.add_marker(pytest.mark.skip(reason=reason))


def _shares_fixtures(item: pytest.Item) -> bool:
    """Return True if the test uses a fixture of its module, such as a lab.

    Those tests run in one worker.
    """
    fixtures = getattr(item, "_fixtureinfo").name2fixturedefs  # noqa: B009 (pytest has no public way)
    return any(
        definition.scope == "module"
        for definitions in fixtures.values()
        for definition in definitions
    )


def _skip_reason() -> str:
    """Return the reason to skip the tests of labs; empty if they can run."""
    if os.geteuid():
        return NEEDS_ROOT
    if run("doctor", status=None).status == 0:
        return ""
    return "labs cannot be created here; `kubenetlab doctor` lists the missing requirements"


def new_lab() -> Iterator[Lab]:
    lab = Lab(f"{LAB_PREFIX}{next(_SERIAL)}")
    try:
        yield lab
    finally:
        lab.down()
        assert not lab.directory.exists()


@pytest.fixture
def lab() -> Iterator[Lab]:
    """Yield a lab that is not up yet; remove it after the test."""
    yield from new_lab()


@pytest.fixture
def labs() -> Iterator[Callable[[], Lab]]:
    """Yield a function that returns a new lab each time."""
    generators: list[Iterator[Lab]] = []

    def make() -> Lab:
        generators.append(new_lab())
        return next(generators[-1])

    yield make
    for generator in generators:
        for _ in generator:
            pass


@pytest.fixture
def plan(tmp_path: Path) -> FaultPlan:
    """Return the plan file of the call to Linux that fails in a lab."""
    return FaultPlan(tmp_path / "plan")


@pytest.fixture(scope="module")
def changed_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChangedLab]:
    """Yield a lab that is up, whose calls to Linux can fail."""
    plan = FaultPlan(tmp_path_factory.mktemp("changing") / "plan")
    for lab in new_lab():
        changed_lab = ChangedLab(lab, plan)
        changed_lab.up()
        yield changed_lab


def parametrize_sample(
    metafunc: pytest.Metafunc, name: str, values: Sequence[int], size: int
) -> None:
    """Parametrize a test that has the argument with a fixed sample of the values.

    With `--thorough`, use all values.
    """
    if name in metafunc.fixturenames:
        metafunc.parametrize(
            name,
            values
            if metafunc.config.getoption("thorough")
            else sorted(random.Random(4).sample(values, size)),
        )


@pytest.fixture
def nobody() -> Iterator[User]:
    """Yield an unprivileged user."""
    if not users.interpreter(NOBODY)[0]:
        pytest.skip(NO_PYTHON_FOR_USERS)
    with users.user(NOBODY) as user:
        yield user
