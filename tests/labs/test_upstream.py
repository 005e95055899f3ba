"""CNI modes leave in the kernel what upstream's programs leave there: `scripts/upstream`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from kubenetlab.datapath.manuals import manual
from tests.labs.lab import Lab
from tests.upstream import flannel, plugins
from tests.upstream.builder import NotAvailableError, build, unpack
from tests.upstream.comparison import Named
from tests.upstream.programs import CNI_PLUGINS, ETCD, FLANNEL

Labs = Callable[[], Lab]


@pytest.fixture(scope="module")
def plugin_programs() -> None:
    """Build the CNI plugins once; skip all tests that need them if that is not possible."""
    try:
        build(CNI_PLUGINS)
    except NotAvailableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def found_flannel(plugin_programs: None) -> set[Named]:
    """Build flannel's programs once; return a set for the named differences that are found."""
    try:
        build(FLANNEL)
        unpack(ETCD)
    except NotAvailableError as error:
        pytest.skip(str(error))
    return set()


@pytest.mark.parametrize("case", flannel.CASES)
def test_flannel(labs: Labs, tmp_path: Path, case: str, found_flannel: set[Named]) -> None:
    """Links, addresses, routes, neighbours, FDB, sysctls and rules are those of flanneld."""
    result = flannel.compare(flannel.CASES[case], labs(), labs(), tmp_path)
    assert [str(difference) for difference in result.unnamed] == []
    found_flannel.update(result.named)


def test_each_difference_from_flannel_was_found(found_flannel: set[Named]) -> None:
    """The manual does not name what does not differ."""
    if not found_flannel:
        pytest.skip("nothing was compared")
    assert _words(flannel.NAMED) - _words(found_flannel) == set()


@pytest.mark.usefixtures("plugin_programs")
@pytest.mark.parametrize("mode", plugins.CASES)
def test_plugins(labs: Labs, tmp_path: Path, mode: str) -> None:
    """Pods and their links are those of the CNI plugin, apart from what the manual names."""
    case = plugins.CASES[mode]
    result = plugins.compare(case, labs(), labs(), tmp_path)
    assert [str(difference) for difference in result.unnamed] == []
    assert _words(case.named) - _words(result.named) == set()


@pytest.mark.parametrize(
    ("mode", "names"),
    [("flannel", flannel.NAMED), *((case.cni, case.named) for case in plugins.CASES.values())],
)
def test_differences_are_in_the_manual(mode: str, names: tuple[Named, ...]) -> None:
    text = " ".join(manual("cni", mode).split())
    assert [name.manual for name in names if name.manual not in text] == []


def _words(names: Iterable[Named]) -> set[str]:
    return {name.manual for name in names}
