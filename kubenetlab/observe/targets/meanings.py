"""Meanings of targets: the object of the lab that a destination stands for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct, structs

from kubenetlab.observe.targets.grammar import DEFAULT_NAMESPACE, Target
from kubenetlab.observe.targets.locations import Location
from kubenetlab.observe.targets.lookups import only, pods_called, service_named, workloads_called

if TYPE_CHECKING:
    from kubenetlab.observe.inspection import Inspection


class Meaning(Struct, frozen=True):
    """Object of the lab that a destination stands for."""

    target: Target
    """Any kind but `word`."""
    service: tuple[str, str] | None = None
    """Namespace and name of the Service that a DNS name stands for."""
    alternatives: tuple[str, ...] = ()
    """Targets of other objects with the same name, which were not chosen."""

    def explanation(self, text: str) -> str:
        """Describe the choice that was made for `text`.

        Example: `web: Service default/web by its DNS name (not deploy:default/web)`.
        """
        if self.service is not None:
            chosen = f"Service {'/'.join(self.service)} by its DNS name {self.target.name}"
        elif self.target.kind == "name":
            name = f": {self.target.name}" if self.target.name != text else ""
            chosen = f"no object has this name; used as a DNS name{name}"
        else:
            chosen = str(self.target.bare)
        return f"{text}: {chosen}" + (
            f" (not {', '.join(self.alternatives)})" if self.alternatives else ""
        )


def resolve_name(target: Target, seen: Inspection, source: Location | None = None) -> Meaning:
    """Resolve a destination against the objects of the lab.

    A bare name is a pod, else a Service (reached by its DNS name, as a client in `source` reaches
    it), else a workload, else a DNS name. It is looked up in the namespace of option -n, else in
    the namespace of the source; pods and workloads also in `default`. NAME.NAMESPACE[.svc[.DOMAIN]]
    is the Service of that name. A bare name that is both a pod and a Service is the pod.

    Raises UsageError for an ambiguous name: two pods, two workloads, or a pod and a Service when
    the source is a pod and the target has a port or a URL.
    """
    uses_dns = source is not None and source.kind == "pod"
    own = source.namespace if source is not None and uses_dns else DEFAULT_NAMESPACE
    if target.kind == "name":
        return Meaning(target, _service_by_dns_name(target.name, seen, own))
    if target.kind != "word":
        return Meaning(target)
    first = target.namespace or own
    namespaces = tuple(dict.fromkeys((first, target.namespace or DEFAULT_NAMESPACE)))
    pods = pods_called(target, seen, namespaces)
    workloads = workloads_called(target, seen, namespaces)
    has_service = service_named(seen, first, target.name) is not None
    if has_service and (not pods or (uses_dns and not target.is_bare)):
        only(target, [*pods, structs.replace(target, kind="svc", namespace=first)])
        # A DNS name of one label is completed with the namespace of the client.
        name = target.name if first == own else f"{target.name}.{first}"
        by_name = structs.replace(target, kind="name", namespace="", name=name)
        return Meaning(by_name, (first, target.name), tuple(str(each.bare) for each in workloads))
    if pods:
        service = (
            [structs.replace(target, kind="svc", namespace=first)]
            if has_service and uses_dns
            else []
        )
        return Meaning(
            only(target, pods),
            alternatives=tuple(str(each.bare) for each in (*service, *workloads)),
        )
    if workloads:
        return Meaning(only(target, workloads))
    return Meaning(structs.replace(target, kind="name", namespace=""))


def service_of(
    target: Target, seen: Inspection, source: Location | None = None
) -> tuple[str, str] | None:
    """Return (namespace, name) of the Service that a target names, or None.

    The target names a Service by its kind, its DNS name or one of its addresses.
    """
    if target.kind in ("svc", "lb"):
        return target.namespace, target.name
    if target.kind == "nodeport":
        return target.namespace, target.name.rpartition("/")[2]
    if target.kind == "ip":
        owners = [
            entry
            for entry in seen["services"]
            if target.name in (*entry["cluster_ips"], *entry["load_balancer_ips"])
        ]
        return (owners[0]["namespace"], owners[0]["name"]) if len(owners) == 1 else None
    return resolve_name(target, seen, source).service


def _service_by_dns_name(name: str, seen: Inspection, namespace: str) -> tuple[str, str] | None:
    """Return the Service with a DNS name for a client in `namespace`; None when there is none.

    name: NAME[.NAMESPACE[.svc[.DOMAIN]]]
    """
    labels = name.rstrip(".").split(".")
    labels = labels if len(labels) > 1 else [*labels, namespace]
    if len(labels) > 2 and labels[2] != "svc":
        return None
    return (labels[1], labels[0]) if service_named(seen, labels[1], labels[0]) is not None else None
