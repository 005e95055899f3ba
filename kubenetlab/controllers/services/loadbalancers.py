"""load balancer controller: one address per IP family for each Service of type LoadBalancer.

It reads Services and writes their `status.loadBalancer`. The address is `loadBalancerIP` when that
is free, otherwise the first free address of the lab's pool; the lab's router forwards it. Services
with a loadBalancerClass are left to other controllers. An annotation of the Service sets the
ipMode, which a cloud's controller would know itself.
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
from kubenetlab.api.store import Change, Cluster, Kind
from kubenetlab.api.values.ip import is_address
from kubenetlab.controllers.allocation.cluster_ips import FAMILIES
from kubenetlab.controllers.support.events import event, is_recorded

WATCHES: Final[tuple[Kind, ...]] = (ClusterConfig, Service)

SOURCE = "service-controller"


def reconcile(cluster: Cluster, now: float) -> Iterator[Change]:
    taken = {
        address
        for service in cluster.all(Service)
        if is_managed(service)
        for address in service.load_balancer_ips
    }
    # Services that request an address come first, so that no other Service gets it.
    for service in sorted(
        cluster.all(Service), key=lambda service: not service.spec.load_balancer_ip
    ):
        addresses = tuple(_addresses(service, taken)) if is_managed(service) else ()
        taken |= set(addresses)
        if is_managed(service) and len(addresses) < len(service.spec.ip_families):
            yield from _failure_event(cluster, service, now)
        ip_mode: IpMode = (
            "Proxy" if service.metadata.annotations.get(IP_MODE_ANNOTATION) == "Proxy" else "VIP"
        )
        status = LoadBalancerStatus(
            tuple(LoadBalancerIngress(address, ip_mode) for address in addresses)
        )
        if status == service.status.load_balancer:
            continue
        yield structs.replace(service, status=structs.replace(service.status, load_balancer=status))
        if addresses:
            yield event(
                cluster,
                service,
                "Normal",
                "EnsuredLoadBalancer",
                "Ensured load balancer",
                SOURCE,
                now,
            )


def _failure_event(cluster: Cluster, service: Service, now: float) -> Iterator[Change]:
    """Yield the event of a Service that lacks an address, once."""
    requested = service.spec.load_balancer_ip
    reason = "no address is left in the load balancers' pool"
    if requested:
        pools = " and ".join(str(pool) for pool in _pools(service))
        reason = (
            f"{requested} is in use"
            if _is_in_a_pool(service)
            else f"{requested} is none of the load balancers' pool, {pools}"
        )
    message = f"Error syncing load balancer: failed to ensure load balancer: {reason}"
    if not is_recorded(cluster, service, "SyncLoadBalancerFailed", message):
        yield event(cluster, service, "Warning", "SyncLoadBalancerFailed", message, SOURCE, now)


def is_managed(service: Service) -> bool:
    """Return True when the lab's load balancer is responsible for the Service."""
    return service.spec.type == "LoadBalancer" and not service.spec.load_balancer_class


def _addresses(service: Service, taken: set[str]) -> Iterator[str]:
    """Yield one address per IP family of the Service.

    It is the requested address, the one that the Service has, or the first free one, which is
    added to `taken`. Yield nothing for a family whose pool is full, and nothing at all when the
    requested address is in no pool.
    """
    requested = service.spec.load_balancer_ip
    if requested and not _is_in_a_pool(service):
        return
    for pool in _pools(service):
        assigned = [address for address in service.load_balancer_ips if ip_address(address) in pool]
        if requested and ip_address(requested) in pool:
            if requested in assigned or requested not in taken:
                yield requested
        elif assigned:
            yield assigned[0]
        else:
            free = (str(pool[number]) for number in range(1, pool.num_addresses - 1))
            address = next((address for address in free if address not in taken), None)
            if address is not None:
                taken.add(address)
                yield address


def _pools(service: Service) -> list[Network]:
    """Return the pools of the Service's IP families."""
    versions = {family: version for version, family in FAMILIES.items()}
    return [LOAD_BALANCER_SUBNETS[versions[family]] for family in service.spec.ip_families]


def _is_in_a_pool(service: Service) -> bool:
    requested = service.spec.load_balancer_ip
    return is_address(requested) and any(ip_address(requested) in pool for pool in _pools(service))
