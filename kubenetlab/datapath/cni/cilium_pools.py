"""Options of Cilium's `ipam: cluster-pool`: their validation and their keys in the ConfigMap.

Source: cilium/cilium operator/pkg/ipam, install/kubernetes/cilium/templates/cilium-configmap.yaml
(v1.17).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from kubenetlab.api.config import ClusterConfig, Network, Networking
from kubenetlab.api.plugins.node_range_pools import NodeRangePools
from kubenetlab.api.text.decode import Finding, found
from kubenetlab.api.text.documents import Path
from kubenetlab.api.validate.node_ranges import overlapping
from kubenetlab.api.values import ip


def findings(pools: Sequence[NodeRangePools], *, is_used: bool) -> Iterator[Finding]:
    """Yield the contradictions between the options.

    is_used: False with another value of `ipam`, with which the options have no effect.
    """
    for family in pools:
        given = [
            *((_list(family),) if family.cidrs else ()),
            *((_mask_size(family),) if family.length else ()),
        ]
        if given and not is_used:
            for option in given:
                yield Finding(
                    (option,),
                    "has no effect with ipam: kubernetes",
                    hints=("add ipam: cluster-pool",),
                    is_warning=True,
                )
            continue
        yield from _range_findings(family)


def _range_findings(family: NodeRangePools) -> Iterator[Finding]:
    option = _list(family)
    networks: list[tuple[int, Network]] = []
    for index, text in enumerate(family.cidrs):
        try:
            network = ip.network(text)
        except ValueError as error:
            expected = {4: "10.244.0.0/20", 6: "fd00:10:244::/60"}[family.version]
            yield Finding(
                (option, index),
                f"expected a range such as {expected}, found {found(text)}",
                hints=(str(error),),
            )
            continue
        if network.version != family.version:
            yield Finding(
                (option, index), f"expected a range of IPv{family.version}, found {network}"
            )
            continue
        networks.append((index, network))
    for one, other in overlapping([network for _, network in networks]):
        (_, first), (index, second) = sorted((networks[one], networks[other]))
        yield Finding((option, index), f"{second} overlaps the pool {first}")


def config_findings(pools: Sequence[NodeRangePools], config: ClusterConfig) -> Iterator[Finding]:
    """Yield the contradictions between the options and other fields of the Cluster document."""
    networking = config.networking
    try:
        pod_networks: Mapping[int, Network] = {
            network.version: network for network in networking.pod_networks
        }
        service_networks = networking.service_networks
    except ValueError:
        return  # the validation of podSubnet and serviceSubnet reports it
    others = (
        ("the nodes", config.node_networks),
        ("Services", service_networks),
    )
    for family in pools:
        pod_network = pod_networks.get(family.version)
        if pod_network is None:
            if family.cidrs:
                yield Finding(
                    _path(_list(family)),
                    f"has no effect: the cluster has no IPv{family.version}",
                    is_warning=True,
                )
            continue
        faults = [
            _fault(family, cidr, pod_network, others, networking)
            for cidr in family.networks(networking)
        ]
        for index, fault in enumerate(faults):
            if fault is not None:
                path = (_list(family), index) if family.cidrs else (_mask_size(family),)
                yield Finding(_path(*path), fault)
        if not any(faults):
            yield from _capacity_finding(family, config)


def _fault(
    family: NodeRangePools,
    cidr: Network,
    pod_network: Network,
    others: Sequence[tuple[str, Sequence[Network]]],
    networking: Networking,
) -> str | None:
    """Return the mistake in a pool, None if there is none."""
    for owner, networks in others:
        for network in networks:
            if network.version == cidr.version and cidr.overlaps(network):
                return f"{cidr} overlaps the range of {owner} ({network})"
    if not ip.is_part(cidr, pod_network):
        return f"expected a part of the pods' range (podSubnet: {pod_network}), found {cidr}"
    length = family.range_length(networking)
    if length < cidr.prefixlen:
        return f"expected a pool with room for a node's range of /{length}, found {cidr}"
    return None


def _capacity_finding(family: NodeRangePools, config: ClusterConfig) -> Iterator[Finding]:
    """Yield a warning if there are more nodes than ranges: pods cannot run on the rest."""
    length = family.range_length(config.networking)
    networks = family.networks(config.networking)
    capacity = sum(2 ** (length - network.prefixlen) for network in networks)
    if capacity < len(config.nodes):
        option = _list(family) if family.cidrs else _mask_size(family)
        yield Finding(
            _path(option),
            f"{', '.join(map(str, networks))} has room for {capacity} ranges of /{length}, and "
            f"{len(config.nodes)} nodes need one; pods on the other nodes get no addresses",
            hints=(f"add a range to {_list(family)}",),
            is_warning=True,
        )


def settings(pools: Sequence[NodeRangePools], networking: Networking) -> Mapping[str, str]:
    """Return the keys of Cilium's ConfigMap for the pools."""
    data = {}
    for family in pools:
        if family.version in networking.versions:
            prefix = f"cluster-pool-ipv{family.version}"
            data[f"{prefix}-cidr"] = " ".join(map(str, family.networks(networking)))
            data[f"{prefix}-mask-size"] = str(family.range_length(networking))
    return data


def _list(family: NodeRangePools) -> str:
    return f"clusterPoolIPv{family.version}PodCIDRList"


def _mask_size(family: NodeRangePools) -> str:
    return f"clusterPoolIPv{family.version}MaskSize"


def _path(*path: str | int) -> Path:
    return ("networking", "cni", *path)
