"""The option nodePortAddresses limits the addresses of a node for node ports.

Every mode that has the option is tested.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kubenetlab.datapath import modes
from tests.labs.lab_view import PROXY_MODES, LabView, SharedLab, mode_in_document
from tests.labs.test_external_access import REFUSED, manifest, outcomes

MODES = [
    name
    for name in PROXY_MODES
    if hasattr(modes.load("proxy", name.partition(",")[0], {}), "node_port_addresses")
]
GATEWAYS = {4: "10.244.1.1", 6: "fd00:10:244:1::1"}
"""Gateway addresses of the pods of the node `worker`."""
RANGES = "[10.244.0.0/16, 'fd00:10:244::/56']"


def manifest_with(proxy: str, addresses: str) -> str:
    name = proxy.partition(",")[0]
    return manifest("onlink", "dual", name).replace(
        mode_in_document(name), f"{{type: {name}, nodePortAddresses: {addresses}}}"
    )


@pytest.fixture(scope="module")
def shared_lab() -> Iterator[SharedLab]:
    shared = SharedLab(manifest_with)
    yield shared
    shared.down()


@pytest.mark.parametrize(
    ("addresses", "at_node", "at_gateway"),
    [(RANGES, REFUSED, "b"), ("[primary]", "b", REFUSED), ("[]", "b", "b")],
)
@pytest.mark.parametrize("proxy", dict.fromkeys(name.partition(",")[0] for name in MODES))
def test_node_ports_answer_only_at_the_configured_addresses(
    shared_lab: SharedLab, proxy: str, addresses: str, at_node: str, at_gateway: str
) -> None:
    """At other addresses, the node behaves as without the Service."""
    lab = shared_lab.up(proxy, addresses)
    for version in (4, 6):
        view = LabView(lab, version)
        for source in ("a", "node:worker"):
            results = outcomes(
                view, source, (view.address("node:worker"), 30080), (GATEWAYS[version], 30080)
            )
            assert [server for server, _ in results] == [at_node, at_gateway], (source, version)
