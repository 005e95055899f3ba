"""CNI modes leave in the kernel what upstream's programs leave there: `scripts/upstream`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kubenetlab.datapath.manuals import manual
from tests.labs.lab import Lab
from tests.upstream import flannel
from tests.upstream.builder import NotAvailableError

Labs = Callable[[], Lab]


@pytest.fixture(scope="module")
def found_flannel() -> set[str]:
    """Return the words of the manual for which a comparison of this module found a difference."""
    return set()


@pytest.mark.parametrize("case", flannel.CASES)
def test_flannel(labs: Labs, tmp_path: Path, case: str, found_flannel: set[str]) -> None:
    """Links, addresses, routes, neighbours, FDB, sysctls and rules are those of flanneld."""
    try:
        result = flannel.compare(flannel.CASES[case], labs(), labs(), tmp_path)
    except NotAvailableError as error:
        pytest.skip(str(error))
    assert [str(difference) for difference in result.unnamed] == []
    found_flannel.update(name.manual for name in result.named)


def test_differences_from_flannel_are_in_its_manual(found_flannel: set[str]) -> None:
    """Each difference is named there, and each one that is named was found."""
    text = " ".join(manual("cni", "flannel").split())
    assert [name.manual for name in flannel.NAMED if name.manual not in text] == []
    if not found_flannel:
        pytest.skip("nothing was compared")
    assert {name.manual for name in flannel.NAMED} - found_flannel == set()
