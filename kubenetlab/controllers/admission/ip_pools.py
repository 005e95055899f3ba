"""Admission of IPPools: ranges that overlap others, and fields that cannot change.

Source: projectcalico/calico libcalico-go/lib/clientv3/ippool.go validateAndSetDefaults() (3.30).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kubenetlab.api.calico.ip_pools import IPPool
from kubenetlab.api.config import Network
from kubenetlab.api.meta import Resource
from kubenetlab.api.store import Cluster
from kubenetlab.api.text.decode import Finding


def pool_findings(
    before: Cluster, after: Cluster, objects: Sequence[Resource | None]
) -> Iterator[tuple[int, Finding]]:
    """Yield (index in `objects`, finding) for the IPPools among them.

    before, after: store without and with the objects.
    """
    for index, obj in enumerate(objects):
        if isinstance(obj, IPPool):
            for finding in _findings(before, after, obj):
                yield index, finding


def _findings(before: Cluster, after: Cluster, pool: IPPool) -> Iterator[Finding]:
    old = before.get(IPPool, "", pool.name)
    if old is not None and old.spec.cidr != pool.spec.cidr:
        yield Finding(("spec", "cidr"), f"cannot change; it is {old.spec.cidr}")
    if old is not None and old.spec.block_length != pool.spec.block_length:
        yield Finding(("spec", "blockSize"), f"cannot change; it is {old.spec.block_length}")
    own = pool.spec.network
    networking = after.config.networking
    if own.version not in networking.versions:
        yield Finding(
            ("spec", "cidr"),
            f"unused: pods of this cluster have no IPv{own.version} addresses "
            f"(networking.ipFamily: {networking.ip_family})",
            hints=("for addresses of both families, set ipFamily: dual",),
            is_warning=True,
        )
    for network, owner in _other_ranges(after, pool):
        if own.version == network.version and own.overlaps(network):
            yield Finding(
                ("spec", "cidr"),
                f"expected a range apart from all others, found {pool.spec.cidr}, which overlaps "
                f"{network}, {owner}",
            )


def _other_ranges(cluster: Cluster, pool: IPPool) -> Iterator[tuple[Network, str]]:
    config = cluster.config
    for network in config.node_networks:
        yield network, "the range of the nodes"
    for network in config.networking.service_networks:
        yield network, "the range of Services"
    for other in cluster.all(IPPool):
        if other.name != pool.name:
            yield other.spec.network, f"the range of IPPool {other.name}"
