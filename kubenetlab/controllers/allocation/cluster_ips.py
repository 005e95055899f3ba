"""Cluster IPs: the IP families of a Service and its virtual address in each.

The primary family is fixed when the Service is created; the secondary one can be added and removed.
Headless Services without a selector have both families, because endpoints of any family may be
added to them.
Source: k8s.io/kubernetes pkg/registry/core/service/storage/alloc.go, pkg/apis/core/validation
(1.33); KEP-563.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_address
from typing import Final

from msgspec import structs

from kubenetlab.api.config import Network
from kubenetlab.api.core import IPFamily, Service, ServiceSpec
from kubenetlab.api.text.decode import Finding
from kubenetlab.controllers.allocation.addresses import cluster_ip_for

FAMILIES: dict[int, IPFamily] = {4: "IPv4", 6: "IPv6"}
HEADLESS = "None"

_DUAL_STACK: Final = "networking.ipFamily: dual in the Cluster document gives it IPv4 and IPv6"


def allocate(
    service: Service, networks: Sequence[Network], taken: Mapping[str, str]
) -> tuple[Service, list[Finding]]:
    """Return the Service with defaults, families and addresses, and its problems.

    networks: the cluster's Service ranges, the primary one first.
    taken: address → title of the Service that has it.
    """
    spec = service.spec
    if spec.type == "ExternalName":
        return structs.replace(
            service,
            spec=structs.replace(
                spec, cluster_ip="", cluster_ips=(), ip_families=(), ip_family_policy=None
            ),
        ), []
    of_family = {FAMILIES[network.version]: network for network in networks}
    requested = _requested(spec)
    findings = [
        *_family_findings(spec, of_family),
        *_address_findings(service, requested, of_family, taken),
    ]
    families = _families(spec, requested, tuple(of_family))
    addresses: list[str] = []
    for index, family in enumerate(families if spec.cluster_ip != HEADLESS else ()):
        network = of_family.get(family)
        if index < len(requested):
            addresses.append(requested[index])
        elif network is not None:
            free = cluster_ip_for(network, service.full_name, taken)
            if free is None:
                findings.append(
                    Finding(
                        ("spec", "clusterIP"), f"no address is left in the Service range {network}"
                    )
                )
            else:
                addresses.append(free)
    addresses = [HEADLESS] if spec.cluster_ip == HEADLESS else addresses
    accepts_any = _accepts_any_family(spec)
    spec = structs.replace(
        spec,
        ports=tuple(
            port if port.target_port is not None else structs.replace(port, target_port=port.port)
            for port in spec.ports
        ),
        cluster_ip=addresses[0] if addresses else "",
        cluster_ips=tuple(addresses),
        ip_families=families,
        ip_family_policy=spec.ip_family_policy
        or ("RequireDualStack" if accepts_any else "SingleStack"),
    )
    return structs.replace(service, spec=spec), findings


def keep_allocations(old: Service, new: Service) -> Service:
    """Return the new Service with the policy, families and addresses that it leaves open.

    They are taken from the old Service, as many as the new policy allows.
    """
    if "ExternalName" in (old.spec.type, new.spec.type):
        return new
    before, spec = old.spec, new.spec
    # Values that were copied from the dual-stack Service are cut to the primary family.
    if spec.ip_family_policy == "SingleStack" and len(before.ip_families) > 1:
        kept = spec.cluster_ips[:1] if spec.cluster_ips == before.cluster_ips else spec.cluster_ips
        remaining = (
            spec.ip_families[:1] if spec.ip_families == before.ip_families else spec.ip_families
        )
        spec = structs.replace(spec, ip_families=remaining, cluster_ips=kept)
    policy = spec.ip_family_policy or before.ip_family_policy
    families = spec.ip_families or (
        before.ip_families[:1] if policy == "SingleStack" else before.ip_families
    )
    addresses = _requested(spec)
    if len(addresses) < len(families) and addresses == before.cluster_ips[: len(addresses)]:
        addresses = before.cluster_ips[: len(families)]
    cluster_ip = spec.cluster_ip or (
        HEADLESS if before.cluster_ip == HEADLESS else addresses[0] if addresses else ""
    )
    spec = structs.replace(
        spec,
        ip_family_policy=policy,
        ip_families=families,
        cluster_ip=cluster_ip,
        cluster_ips=addresses,
    )
    return structs.replace(new, spec=spec)


def forbidden_changes(old: Service, new: Service) -> Iterator[Finding]:
    """Yield the changes that are not allowed in an existing Service."""
    if "ExternalName" in (old.spec.type, new.spec.type):
        return
    requested = _requested(new.spec)
    if (new.spec.cluster_ip == HEADLESS and old.spec.cluster_ip != HEADLESS) or (
        requested and requested[0] != old.spec.cluster_ip
    ):
        yield Finding(("spec", "clusterIP"), f"field is immutable; it is {old.spec.cluster_ip}")
    if (
        new.spec.ip_families
        and old.spec.ip_families
        and new.spec.ip_families[0] != old.spec.ip_families[0]
    ):
        yield Finding(
            ("spec", "ipFamilies", 0),
            f"the primary family cannot change; it is {old.spec.ip_families[0]}",
        )


def _requested(spec: ServiceSpec) -> tuple[str, ...]:
    """Return the requested addresses in canonical form."""
    addresses = spec.cluster_ips or ((spec.cluster_ip,) if spec.cluster_ip else ())
    return tuple(str(ip_address(address)) for address in addresses if address != HEADLESS)


def _accepts_any_family(spec: ServiceSpec) -> bool:
    """Return True when the Service's endpoints may have any family."""
    return spec.cluster_ip == HEADLESS and not spec.selector


def _families(
    spec: ServiceSpec, requested: Sequence[str], known: Sequence[IPFamily]
) -> tuple[IPFamily, ...]:
    """Return the Service's families in order; `known` are the cluster's families."""
    families = list(
        spec.ip_families
        or tuple(FAMILIES[ip_address(address).version] for address in requested)
        or known[:1]
    )
    if _accepts_any_family(spec) and spec.ip_family_policy is None and not spec.ip_families:
        families += [family for family in FAMILIES.values() if family not in families]
    elif spec.ip_family_policy in ("PreferDualStack", "RequireDualStack"):
        families += [family for family in known if family not in families]
    return tuple(families)


def _family_findings(spec: ServiceSpec, known: Mapping[IPFamily, Network]) -> Iterator[Finding]:
    accepts_any = _accepts_any_family(spec)
    for index, family in enumerate(spec.ip_families):
        if family not in known and not accepts_any:
            only = " and ".join(known)
            hints = (f"the cluster has {only} only", _DUAL_STACK)
            yield Finding(
                ("spec", "ipFamilies", index),
                f'Invalid value: "{family}": not configured on this cluster',
                hints=hints,
            )
    if spec.ip_family_policy == "RequireDualStack" and len(known) < 2 and not accepts_any:
        message = (
            'Invalid value: "RequireDualStack":'
            " this cluster is not configured for dual-stack services"
        )
        yield Finding(("spec", "ipFamilyPolicy"), message, hints=(_DUAL_STACK,))
    for field, count in (
        ("ipFamilies", len(spec.ip_families)),
        ("clusterIPs", len(spec.cluster_ips)),
    ):
        if count > 1 and (spec.ip_family_policy or "SingleStack") == "SingleStack":
            policy = spec.ip_family_policy or "none, which is SingleStack"
            message = (
                "ipFamilyPolicy must be RequireDualStack or PreferDualStack"
                f" when multiple IP families are specified, found {policy}"
            )
            yield Finding(("spec", field), message)


def _address_findings(
    service: Service,
    requested: Sequence[str],
    known: Mapping[IPFamily, Network],
    taken: Mapping[str, str],
) -> Iterator[Finding]:
    for index, address in enumerate(requested):
        path: tuple[str | int, ...] = (
            ("spec", "clusterIPs", index) if service.spec.cluster_ips else ("spec", "clusterIP")
        )
        parsed = ip_address(address)
        family = FAMILIES[parsed.version]
        network = known.get(family)
        ranges = ", ".join(str(known_range) for known_range in known.values())
        if index < len(service.spec.ip_families) and service.spec.ip_families[index] != family:
            wanted = service.spec.ip_families[index]
            yield Finding(
                path, f"expected an {wanted} address, as ipFamilies says, found {address}"
            )
        elif (
            network is None
            or parsed not in network
            or parsed == network[0]
            or (parsed.version == 4 and parsed == network[-1])
        ):
            message = (
                f"the provided IP ({address}) is not in the valid range."
                f" The range of valid IPs is {network or ranges}"
            )
            yield Finding(path, message)
        elif taken.get(address, service.title) != service.title:
            yield Finding(
                path, f"provided IP is already allocated: {address} belongs to {taken[address]}"
            )
