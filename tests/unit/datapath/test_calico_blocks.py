"""Ranges of IPPools in the rules of the CNI mode calico."""

from __future__ import annotations

from kubenetlab.api.calico.ip_pools import IPPool, IPPoolSpec
from kubenetlab.api.meta import ObjectMeta
from kubenetlab.datapath.cni.calico_blocks import outermost


def test_ranges_of_pools_do_not_overlap() -> None:
    """A range inside of another one is left out; neighbours are not joined."""
    cidrs = ("10.244.64.0/18", "10.9.0.0/25", "10.244.0.0/16", "10.9.0.128/25", "10.244.0.0/16")
    pools = [
        IPPool(ObjectMeta(name=f"pool-{index}"), IPPoolSpec(cidr=cidr))
        for index, cidr in enumerate(cidrs)
    ]
    assert list(outermost(pools)) == ["10.9.0.0/25", "10.244.0.0/16", "10.9.0.128/25"]
