"""The records that a Kubernetes DNS serves.

Source: kubernetes/dns docs/specification.md (schema 1.1.0); where that is silent, CoreDNS' plugin `kubernetes` with kubeadm's
Corefile (pods insecure, ttl 30).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from ipaddress import ip_address

from kubenetlab.api.core import Namespace, Service, ServicePort
from kubenetlab.api.discovery import Endpoint, EndpointPort, EndpointSlice

TTL_S = 30
SCHEMA_VERSION = "1.1.0"

Records = dict[str, dict[str, list[str]]]
"""Lower-case name without the last dot → record type → values as text."""

Targets = dict[str, list[tuple[int, str]]]
"""Name → (port, target) of each address behind it; see `_weighted`."""

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
        own: Collection[str] = (),
    ) -> None:
        """Build the zone of all objects. `own` are the addresses of the pod in which the server runs."""
        self.domain = domain.lower()
        self.serial = 1
        """Serial number in the zone's SOA record; CoreDNS has the Unix time of the last change there."""
        self._own = tuple(own)
        self._name_servers: dict[Source, list[tuple[str, str]]] = {}
        """Services that lead to this server, with their (name, address) pairs."""
        self._namespaces = {namespace.name for namespace in namespaces}
        self._reserved = {self.domain, f"svc.{self.domain}", f"pod.{self.domain}"}
        """Names that the schema has whether or not anything is below them."""
        self._reserved |= {
            f"{namespace}.{part}.{self.domain}"
            for namespace in self._namespaces
            for part in ("svc", "pod")
        }
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

    def change(
        self, key: tuple[str, str], service: Service | None, slices: Iterable[EndpointSlice]
    ) -> None:
        """A Service by its namespace and name is now this one, with these slices, or none."""
        known = tuple(slices)
        self._bring(key, {} if service is None else _records(self.domain, service, known))
        self._name_servers.pop(key, None)
        if service is not None and (served := _leading_to(self._own, self.domain, service, known)):
            self._name_servers[key] = served

    @property
    def name_servers(self) -> list[tuple[str, str]]:
        """(name, address) of every address at which the zone is served.

        These are the Services that lead to the server's own pod; without one it is the pod itself.
        Source: CoreDNS plugin/kubernetes/ns.go (nsAddrs).
        """
        found = [pair for key in sorted(self._name_servers) for pair in self._name_servers[key]]
        return found or [(self._default_name_server, address) for address in self._own]

    @property
    def _default_name_server(self) -> str:
        return f"ns.dns.{self.domain}"

    def is_inside(self, name: str) -> bool:
        """Return True for the zone's apex and every name below it."""
        name = name.lower().removesuffix(".")
        return name == self.domain or name.endswith(f".{self.domain}")

    def lookup(self, name: str, type_: str) -> list[str] | None:
        """The values of one name and type; empty when the name exists without them, None when it does not exist."""
        name = name.lower().removesuffix(".")
        if name == self.domain and type_ == "NS":
            return list(dict.fromkeys(server for server, _ in self.name_servers))
        if name == self._default_name_server:
            return [address for _, address in self.name_servers if _address_type(address) == type_]
        if name in self._known:
            return list(
                dict.fromkeys(
                    value
                    for records in self._known[name].values()
                    for value in records.get(type_, ())
                )
            )
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
        return [
            ".".join(labels[index:]) for index in range(1, len(labels) - self.domain.count(".") - 1)
        ]

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
    """Return every record that a Service has."""
    found: Records = {}
    targets: Targets = {}
    name = _name_of(service, domain)
    if service.spec.type == "ExternalName":
        _add(found, name, "CNAME", service.spec.external_name.removesuffix(".").lower())
        return found
    for address in service.cluster_ips:
        _add(found, name, _address_type(address), address)
        _add(found, _reverse(address), "PTR", name)
        for port in service.spec.ports:
            _add_target(targets, name, port, port.port, name)
    for piece in slices:
        for endpoint in piece.endpoints if piece.address_type != "FQDN" else ():
            if endpoint.conditions.is_ready:
                _add_endpoint(found, targets, service, name, piece, endpoint)
    for owner, entries in targets.items():
        found.setdefault(owner, {})["SRV"] = _weighted(entries)
    return found


def _add_endpoint(
    found: Records,
    targets: Targets,
    service: Service,
    name: str,
    piece: EndpointSlice,
    endpoint: Endpoint,
) -> None:
    """Add the records of one endpoint: its own name, and for a headless Service its share of the Service's name."""
    for address in endpoint.addresses:
        host = _host_of(endpoint, address, name)
        _add(found, host, _address_type(address), address)
        if service.is_headless:
            _add(found, name, _address_type(address), address)
            _add(found, _reverse(address), "PTR", host)
        for port in piece.ports:
            if port.port is None:
                continue
            targets.setdefault(host, []).append((port.port, host))
            if service.is_headless:
                _add_target(targets, name, port, port.port, host)


def _add_target(
    targets: Targets, name: str, port: ServicePort | EndpointPort, number: int, host: str
) -> None:
    """Add a target of the Service `name`: under its own name, and under the labels of a named port."""
    targets.setdefault(name, []).append((number, host))
    if port.name:
        targets.setdefault(f"_{port.name}._{port.protocol.lower()}.{name}", []).append(
            (number, host)
        )


def _weighted(entries: Sequence[tuple[int, str]]) -> list[str]:
    """Return SRV values for (port, target) entries, one entry per port and address.

    All entries share the weight 100; entries that differ in address or protocol alone are one record.
    Source: CoreDNS plugin/backend_lookup.go (SRV).
    """
    weight = max(1, 100 // len(entries))
    return [f"0 {weight} {port} {target}" for port, target in dict.fromkeys(entries)]


def _leading_to(
    own: Collection[str], domain: str, service: Service, slices: Iterable[EndpointSlice]
) -> list[tuple[str, str]]:
    """Return (name, address) pairs of a Service whose ready endpoints include one of the addresses `own`."""
    name = _name_of(service, domain)
    found: list[tuple[str, str]] = []
    for piece in slices:
        ready = [
            (endpoint, address)
            for endpoint in piece.endpoints
            if endpoint.conditions.is_ready
            for address in endpoint.addresses
        ]
        if not any(address in own for _, address in ready):
            continue
        if service.is_headless:
            found += [(_host_of(endpoint, address, name), address) for endpoint, address in ready]
        else:
            found += [(name, address) for address in service.cluster_ips]
    return list(dict.fromkeys(found))


def _name_of(service: Service, domain: str) -> str:
    return f"{service.name}.{service.namespace}.svc.{domain}"


def _host_of(endpoint: Endpoint, address: str, name: str) -> str:
    """Return the name of one endpoint of the Service `name`."""
    return f"{endpoint.hostname or dashed(address)}.{name}"


def _add(found: Records, name: str, type_: str, value: str) -> None:
    values = found.setdefault(name, {}).setdefault(type_, [])
    if value not in values:
        values.append(value)


def dashed(address: str) -> str:
    """Return an address as a label: `10-244-1-5`. A label cannot end with a hyphen."""
    label = address.replace(".", "-").replace(":", "-")
    return f"{label}0" if label.endswith("-") else label


def _address_type(address: str) -> str:
    return "AAAA" if ":" in address else "A"


def _reverse(address: str) -> str:
    return ip_address(address).reverse_pointer
