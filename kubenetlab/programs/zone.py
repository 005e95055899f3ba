"""The records that a Kubernetes DNS serves.

Source: kubernetes/dns docs/specification.md (schema 1.1.0); where that is silent, CoreDNS' plugin `kubernetes` with kubeadm's
Corefile (pods insecure, ttl 30).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address

from kubenetlab.api.core import Namespace, Service
from kubenetlab.api.discovery import Endpoint, EndpointSlice

TTL_S = 30
SCHEMA_VERSION = "1.1.0"

Records = dict[str, dict[str, list[str]]]
"""Lower-case name without the last dot → record type → values as text."""

Source = tuple[str, ...]
"""Who has brought records: a Service by its namespace and name, or something else that is there once."""


class Zone:
    """Everything that is known about names: the cluster's own zone, reverse names, and the hosts of the internet."""

    def __init__(
        self,
        domain: str,
        namespaces: Iterable[Namespace],
        services: Iterable[Service],
        slices: Iterable[EndpointSlice],
        hosts: Mapping[str, Sequence[str]],
    ) -> None:
        self.domain = domain.lower()
        self._namespaces = {namespace.name for namespace in namespaces}
        self._reserved = {self.domain, f"svc.{self.domain}", f"pod.{self.domain}"}
        """Names that the schema has whether or not anything is below them."""
        self._reserved |= {f"{namespace}.{part}.{self.domain}" for namespace in self._namespaces for part in ("svc", "pod")}
        self._brought: dict[Source, Records] = {}
        self._known: dict[str, dict[Source, Mapping[str, list[str]]]] = {}
        """Name → who has brought what of it."""
        self._above: Counter[str] = Counter()
        """How many names of the zone are below each."""
        by_service: dict[Source, list[EndpointSlice]] = {}
        for piece in slices:
            by_service.setdefault((piece.namespace, piece.service_name), []).append(piece)
        self._bring((), {f"dns-version.{self.domain}": {"TXT": [SCHEMA_VERSION]}})
        for service in services:
            self.change(service.key, service, by_service.get(service.key, ()))
        found: Records = {}
        for name, addresses in hosts.items():
            for address in addresses:
                _add(found, name.lower(), _address_type(address), address)
        self._bring(("hosts",), found)

    def change(self, key: tuple[str, str], service: Service | None, slices: Iterable[EndpointSlice]) -> None:
        """A Service by its namespace and name is now this one, with these slices, or none."""
        self._bring(key, {} if service is None else _records(self.domain, service, slices))

    def lookup(self, name: str, type_: str) -> list[str] | None:
        """The values of one name and type; empty when the name exists without them, None when it does not exist."""
        name = name.lower().removesuffix(".")
        if name in self._known:
            return list(dict.fromkeys(value for records in self._known[name].values() for value in records.get(type_, ())))
        if name in self._reserved or self._above[name]:
            return []
        return self._pod(name, type_)

    def _bring(self, source: Source, records: Records) -> None:
        """What a source says takes the place of what it said before."""
        for name in self._brought.pop(source, {}):
            del self._known[name][source]
            if not self._known[name]:
                del self._known[name]
                for above in self._ancestors(name):
                    self._above[above] -= 1
                    if not self._above[above]:
                        del self._above[above]
        for name, values in records.items():
            if name not in self._known:
                self._above.update(self._ancestors(name))
            self._known.setdefault(name, {})[source] = values
        if records:
            self._brought[source] = records

    def _ancestors(self, name: str) -> list[str]:
        """The names above one of the zone: they exist because something is below them."""
        if not name.endswith(f".{self.domain}"):
            return []
        labels = name.split(".")
        return [".".join(labels[index:]) for index in range(1, len(labels) - self.domain.count(".") - 1)]

    def _pod(self, name: str, type_: str) -> list[str] | None:
        """`10-244-1-5.default.pod.cluster.local`, for any address in a namespace that exists (`pods insecure`)."""
        first, _, rest = name.partition(".")
        namespace, _, tail = rest.partition(".")
        if tail != f"pod.{self.domain}" or namespace not in self._namespaces:
            return None
        for separator in (".", ":"):
            try:
                address = str(ip_address(first.replace("-", separator)))
            except ValueError:
                continue
            return [address] if _address_type(address) == type_ else []
        return None


def _records(domain: str, service: Service, slices: Iterable[EndpointSlice]) -> Records:
    """What a Service brings."""
    found: Records = {}
    name = f"{service.name}.{service.namespace}.svc.{domain}"
    if service.spec.type == "ExternalName":
        _add(found, name, "CNAME", service.spec.external_name.removesuffix(".").lower())
        return found
    for address in service.cluster_ips:
        _add(found, name, _address_type(address), address)
        _add(found, _reverse(address), "PTR", name)
        for port in service.spec.ports:
            if port.name:
                _add(found, f"_{port.name}._{port.protocol.lower()}.{name}", "SRV", f"0 100 {port.port} {name}")
    for piece in slices:
        for endpoint in piece.endpoints if piece.address_type != "FQDN" else ():
            if endpoint.conditions.is_ready:
                _add_endpoint(found, service, name, piece, endpoint)
    return found


def _add_endpoint(found: Records, service: Service, name: str, piece: EndpointSlice, endpoint: Endpoint) -> None:
    for address in endpoint.addresses:
        host = f"{endpoint.hostname or dashed(address)}.{name}"
        _add(found, host, _address_type(address), address)
        if not service.is_headless:
            continue
        _add(found, name, _address_type(address), address)
        _add(found, _reverse(address), "PTR", host)
        for port in piece.ports:
            if port.name and port.port is not None:
                _add(found, f"_{port.name}._{port.protocol.lower()}.{name}", "SRV", f"0 100 {port.port} {host}")


def _add(found: Records, name: str, type_: str, value: str) -> None:
    values = found.setdefault(name, {}).setdefault(type_, [])
    if value not in values:
        values.append(value)


def dashed(address: str) -> str:
    """An address as a label: `10-244-1-5`."""
    return address.replace(".", "-").replace(":", "-")


def _address_type(address: str) -> str:
    return "AAAA" if ":" in address else "A"


def _reverse(address: str) -> str:
    return ip_address(address).reverse_pointer
