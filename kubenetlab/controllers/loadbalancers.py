"""load balancer controller: an address of the lab's own pool for each Service that wants one, per family.

The one that is asked for (`loadBalancerIP`) when it is free, else the first that is. What the pool's addresses lead to, the router
of the lab knows. A Service with a loadBalancerClass waits for somebody else's controller. Which ipMode the addresses have, an
annotation of the Service says: a cloud's own controller would know it of itself.
Source: k8s.io/cloud-provider controllers/service/controller.go (1.33).
"""

from collections.abc import Iterator
from ipaddress import ip_address
from typing import Final

from msgspec import structs

from kubenetlab.api.config import LOAD_BALANCER_SUBNETS, ClusterConfig, Network
from kubenetlab.api.core import (
    IP_MODE_ANNOTATION,
    IpMode,
    LoadBalancerIngress,
    LoadBalancerStatus,
    Service,
)
from kubenetlab.api.ip import is_address
from kubenetlab.api.store import Change, Cluster, Kind
from kubenetlab.controllers.cluster_ips import FAMILIES
from kubenetlab.controllers.events import event, is_recorded

WATCHES: Final[tuple[Kind, ...]] = (ClusterConfig, Service)

SOURCE = "service-controller"


def reconcile(cluster: Cluster, now: float) -> Iterator[Change]:
    taken = {
        address
        for service in cluster.all(Service)
        if is_managed(service)
        for address in service.load_balancer_ips
    }
    for service in sorted(
        cluster.all(Service), key=lambda service: not service.spec.load_balancer_ip
    ):  # those with a wish first
        wanted = tuple(_addresses(service, taken)) if is_managed(service) else ()
        taken |= set(wanted)
        if is_managed(service) and len(wanted) < len(service.spec.ip_families):
            yield from _failed(cluster, service, now)
        ip_mode: IpMode = (
            "Proxy" if service.metadata.annotations.get(IP_MODE_ANNOTATION) == "Proxy" else "VIP"
        )
        status = LoadBalancerStatus(
            tuple(LoadBalancerIngress(address, ip_mode) for address in wanted)
        )
        if status == service.status.load_balancer:
            continue
        yield structs.replace(service, status=structs.replace(service.status, load_balancer=status))
        if wanted:
            yield event(
                cluster,
                service,
                "Normal",
                "EnsuredLoadBalancer",
                "Ensured load balancer",
                SOURCE,
                now,
            )


def _failed(cluster: Cluster, service: Service, now: float) -> Iterator[Change]:
    asked = service.spec.load_balancer_ip
    why = "no address is left in the load balancers' pool"
    if asked:
        pools = " and ".join(str(pool) for pool in _pools(service))
        why = (
            f"{asked} is in use"
            if _is_of_a_pool(service)
            else f"{asked} is none of the load balancers' pool, {pools}"
        )
    message = f"Error syncing load balancer: failed to ensure load balancer: {why}"
    if not is_recorded(cluster, service, "SyncLoadBalancerFailed", message):
        yield event(cluster, service, "Warning", "SyncLoadBalancerFailed", message, SOURCE, now)


def is_managed(service: Service) -> bool:
    """True when the lab's load balancer takes care of a Service."""
    return service.spec.type == "LoadBalancer" and not service.spec.load_balancer_class


def _addresses(service: Service, taken: set[str]) -> Iterator[str]:
    """One per family of the Service: the one it has, the one it asks for, the first that is free; none where the pool is used up, or where
    one is asked for that no pool has."""
    asked = service.spec.load_balancer_ip
    if asked and not _is_of_a_pool(service):
        return
    for pool in _pools(service):
        known = [address for address in service.load_balancer_ips if ip_address(address) in pool]
        if asked and ip_address(asked) in pool:
            if asked in known or asked not in taken:
                yield asked
        elif known:
            yield known[0]
        else:
            free = (str(pool[number]) for number in range(1, pool.num_addresses - 1))
            address = next((address for address in free if address not in taken), None)
            if address is not None:
                taken.add(address)
                yield address


def _pools(service: Service) -> list[Network]:
    """Of the families that it has."""
    versions = {family: version for version, family in FAMILIES.items()}
    return [LOAD_BALANCER_SUBNETS[versions[family]] for family in service.spec.ip_families]


def _is_of_a_pool(service: Service) -> bool:
    asked = service.spec.load_balancer_ip
    return is_address(asked) and any(ip_address(asked) in pool for pool in _pools(service))
