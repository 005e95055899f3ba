"""pytest plugin: labs for tests of manifests (docs/testing-your-manifests.md).

    @pytest.mark.kubenetlab(manifests="shop.yaml", cni="calico")
    def test_the_shop_is_isolated(lab):
        assert not lab.pod("client").can_reach("svc:db", 5432)

pytest imports this module in every run on a machine that has kubenetlab, so it imports nothing but
pytest. PYTEST_DONT_REWRITE: it has no assertions of tests.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from kubenetlab.library.asynchronous import AsyncLab
    from kubenetlab.library.lab import Lab
    from kubenetlab.library.lab_pool import LabPool
    from kubenetlab.library.process import Surroundings

MARKER = "kubenetlab"
"""Name of the marker."""
_POOL = pytest.StashKey["LabPool"]()
"""Key of the labs of a test run, once a test has used one."""
_NEXT = pytest.StashKey[tuple[list[pytest.Item], "Surroundings"]]()
"""Key of the next tests that use labs, and of their working directory and environment."""
_POSITIONS = pytest.StashKey[dict[pytest.Item, int]]()
"""Key of the positions of all tests, if one of them uses a lab."""
_IS_LAB_LEFT = pytest.StashKey[bool]()
"""Key of whether a lab could not be removed."""
_OF_WORKER = "kubenetlab_lab_left"
"""Field of the output of a worker of pytest-xdist that could not remove a lab."""
_AHEAD = "kubenetlab_ahead"
"""Name of the setting for labs that are made ahead."""
_MAX_AHEAD = 2
"""Maximum number of tests for which labs are made ahead: short tests end before one is made."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the setting for the configuration file of a project."""
    parser.addini(
        _AHEAD, "make the labs of the next tests while a test runs", type="bool", default=True
    )


def pytest_configure(config: pytest.Config) -> None:
    """Describe the marker."""
    config.addinivalue_line(
        "markers",
        f"{MARKER}(manifests, text, render, reuse, …): manifests of the fixture `lab`, and "
        "arguments of kubenetlab.Lab.up()",
    )


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Lab:
    """Return a lab with the manifests of the test, in the state after `up`.

    The lab is used again by the next test with the same manifests, and removed after the tests.
    """
    from kubenetlab.errors import KubenetlabError
    from kubenetlab.library.lab_options import options_of

    try:
        return _pool(request.config).lab(options_of(request.node))
    except KubenetlabError as error:
        message = f"{type(error).__name__}: {error}"
    pytest.fail(message, pytrace=False)  # the traceback would be that of the plugin


@pytest.fixture
def async_lab(lab: Lab) -> AsyncLab:
    """Return the fixture `lab` with coroutines as methods."""
    from kubenetlab.library.asynchronous import AsyncLab

    return AsyncLab(lab)


@pytest.fixture
def new_lab(request: pytest.FixtureRequest) -> Callable[..., Lab]:
    """Return a function with the arguments of `Lab.up`; its labs are removed after the test."""
    return _pool(request.config).up


def _pool(config: pytest.Config) -> LabPool:
    """Return the labs of the test run."""
    if _POOL not in config.stash:
        from kubenetlab.library.lab_pool import LabPool

        config.stash[_POOL] = LabPool()
    return config.stash[_POOL]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, bool, bool]:
    """Remove the labs that only this test uses, after its report."""
    if following := list(_following(item, nextitem)):
        from kubenetlab.library.lab_pool import present_surroundings

        # Those between tests: fixtures of this test may change them.
        item.stash[_NEXT] = following, present_surroundings()
    result = yield
    if _NEXT in item.stash:
        del item.stash[_NEXT]  # pytest keeps all tests until the end of the run
    if _POOL in item.config.stash:
        item.config.stash[_POOL].end_test()
    return result


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    """Start to make the labs of the next tests, when this test has its own."""
    yield
    following, surroundings = item.stash.get(_NEXT, ((), None))
    if surroundings is not None:
        from kubenetlab.library.lab_options import options_ahead_of
        from kubenetlab.library.labs_ahead import ExpectedLab

        options = filter(None, map(options_ahead_of, following))
        _pool(item.config).make_ahead([ExpectedLab(each, surroundings) for each in options])
    elif _POOL in item.config.stash:
        item.config.stash[_POOL].make_ahead(())


def pytest_collection_finish(session: pytest.Session) -> None:
    """Remember the order of the tests, if one of them uses a lab."""
    if any(map(_uses_lab, session.items)):
        positions = {item: index for index, item in enumerate(session.items)}
        session.config.stash[_POSITIONS] = positions


def _following(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[pytest.Item]:
    """Yield the tests after a test whose labs are made ahead."""
    positions = item.config.stash.get(_POSITIONS, None)
    if nextitem is None or positions is None or not _makes_ahead(item.config):
        return
    following = [nextitem]
    # pytest-xdist chooses the tests of each worker, one by one.
    if nextitem in positions and not hasattr(item.config, "workerinput"):
        index = positions[nextitem]
        following = item.session.items[index : index + _MAX_AHEAD]
    yield from filter(_uses_lab, following)


def _uses_lab(item: pytest.Item) -> bool:
    """Return True if a test has the fixture `lab` of this plugin."""
    fixtures = getattr(getattr(item, "_fixtureinfo", None), "name2fixturedefs", {})
    definitions = fixtures.get("lab", ())
    return bool(definitions) and definitions[-1].func.__module__ == __name__


def _makes_ahead(config: pytest.Config) -> bool:
    """Return True if a processor is free to make labs while tests run."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    return bool(config.getini(_AHEAD)) and len(os.sched_getaffinity(0)) > workers


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the probes and the state of its labs to the report of a failed test."""
    report = yield
    if report.failed and _POOL in item.config.stash:
        text = item.config.stash[_POOL].describe_test()
        if text:
            report.sections.append(("kubenetlab", text))
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Remove all labs, also after Ctrl-C. A lab that is left makes the run fail."""
    config = session.config
    if _POOL in config.stash:
        pool = config.stash[_POOL]
        del config.stash[_POOL]
        config.stash[_IS_LAB_LEFT] = not pool.close()
    if not config.stash.get(_IS_LAB_LEFT, False):
        return
    if session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    if hasattr(config, "workeroutput"):  # in a worker of pytest-xdist
        config.workeroutput[_OF_WORKER] = True


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Note that a worker of pytest-xdist has left a lab: its exit status does not count."""
    if getattr(node, "workeroutput", {}).get(_OF_WORKER):
        node.config.stash[_IS_LAB_LEFT] = True
