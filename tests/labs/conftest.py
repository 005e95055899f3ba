"""Labs for the tests of this folder: each test (or module) makes its own, under a name that no
other test run has.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.conftest import OURS
from tests.labs import users
from tests.labs.changing import Changing
from tests.labs.faulty import Plan
from tests.labs.lab import Lab, run
from tests.labs.users import NOBODY, User

_SERIAL = iter(range(10_000))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Group what shares a lab for one worker, and skip with doctor's words where no lab can be
    made.
    """
    here = os.path.dirname(__file__)
    mine = [item for item in items if str(item.path).startswith(here)]
    for item in mine:
        if _shares_fixtures(item):
            item.add_marker(pytest.mark.xdist_group(str(item.path)))
    if not mine or not (reason := _why_not()):
        return
    for item in mine:
        item.add_marker(pytest.mark.skip(reason=reason))


def _shares_fixtures(item: pytest.Item) -> bool:
    """Return True for a test with a fixture of its module, such as a lab: the module's tests belong
    to one worker.
    """
    fixtures = getattr(item, "_fixtureinfo").name2fixturedefs  # noqa: B009 (pytest has no public way)
    return any(
        definition.scope == "module"
        for definitions in fixtures.values()
        for definition in definitions
    )


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


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Which call to Linux of a lab fails."""
    return Plan(tmp_path / "plan")


@pytest.fixture(scope="module")
def changing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Changing]:
    """A lab that is up, and whose calls can fail."""
    plan = Plan(tmp_path_factory.mktemp("changing") / "plan")
    for lab in new_lab():
        made = Changing(lab, plan)
        made.up()
        yield made


def some_of(metafunc: pytest.Metafunc, name: str, values: Sequence[int], few: int) -> None:
    """Gives a test that has such an argument a few of the values, the same in each run; with
    `--thorough` all.
    """
    if name in metafunc.fixturenames:
        metafunc.parametrize(
            name,
            values
            if metafunc.config.getoption("thorough")
            else sorted(random.Random(4).sample(values, few)),
        )


@pytest.fixture
def nobody() -> Iterator[User]:
    """A user without any right."""
    if not users.interpreter(NOBODY)[0]:
        pytest.skip(
            "no Python that an ordinary user can run has the package's dependencies; apt-get install python3"
        )
    with users.user(NOBODY) as user:
        yield user
