"""The option nodePortAddresses: at which of its addresses a node answers for node ports, in every
mode that has it.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kubenetlab.datapath import modes
from tests.labs.test_ways_in import REFUSED, manifest, outcomes
from tests.labs.world import PROXIES, Labs, World, in_document

MODES = [
    name
    for name in PROXIES
    if hasattr(modes.load("proxy", name.partition(",")[0], {}), "node_port_addresses")
]
GATEWAYS = {4: "10.244.1.1", 6: "fd00:10:244:1::1"}
"""Of the pods of the node `worker`."""
RANGES = "[10.244.0.0/16, 'fd00:10:244::/56']"


def given(proxy: str, wanted: str) -> str:
    name = proxy.partition(",")[0]
    return manifest("onlink", "dual", name).replace(
        in_document(name), f"{{type: {name}, nodePortAddresses: {wanted}}}"
    )


@pytest.fixture(scope="module")
def of_kind() -> Iterator[Labs]:
    labs = Labs(given)
    yield labs
    labs.end()


@pytest.mark.parametrize(
    ("wanted", "at_node", "at_gateway"),
    [(RANGES, REFUSED, "b"), ("[primary]", "b", REFUSED), ("[]", "b", "b")],
)
@pytest.mark.parametrize("proxy", dict.fromkeys(name.partition(",")[0] for name in MODES))
def test_a_node_answers_at_these(
    of_kind: Labs, proxy: str, wanted: str, at_node: str, at_gateway: str
) -> None:
    """And at its others as if there were no Service."""
    lab = of_kind.of(proxy, wanted)
    for version in (4, 6):
        world = World(lab, version)
        for source in ("a", "node:worker"):
            found = outcomes(
                world, source, (world.address("node:worker"), 30080), (GATEWAYS[version], 30080)
            )
            assert [who for who, _ in found] == [at_node, at_gateway], (source, version)
