"""flannel's backend wireguard leaves in the kernel what flanneld leaves there.

flanneld and etcd are programs of this machine, which sees the outer machine's cache but no network:
`scripts/upstream flannel` builds them before.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.labs.conftest import new_lab
from tests.labs.lab import Lab
from tests.upstream import flannel
from tests.upstream.builder import cache_folder, is_cached
from tests.upstream.programs import CNI_PLUGINS, ETCD, FLANNEL

pytestmark = pytest.mark.vm


@pytest.mark.parametrize("case", flannel.SECOND_CASES)
def test_flannel(lab: Lab, tmp_path: Path, case: str) -> None:
    """Links, addresses, routes, peers, sysctls and rules are those of flanneld."""
    is_built = is_cached(FLANNEL) and is_cached(CNI_PLUGINS)
    if not is_built or not (cache_folder() / ETCD.name).is_dir():
        pytest.skip("flanneld is not built: scripts/upstream flannel")
    for theirs in new_lab():
        result = flannel.compare(flannel.SECOND_CASES[case], lab, theirs, tmp_path)
    assert [str(difference) for difference in result.unnamed] == []
    assert result.named
