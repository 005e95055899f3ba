"""DNS zone of the cluster: the records that a Kubernetes DNS server serves.

Source: kubernetes/dns docs/specification.md (schema 1.1.0); where that is silent, CoreDNS' plugin
`kubernetes` with kubeadm's Corefile (pods insecure, ttl 30).
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
"""Lower-case name without the final dot → record type → values as text."""

Targets = dict[str, list[tuple[int, str]]]
"""Name → (port, target) of each of its addresses; see `_weighted`."""

Source = tuple[str, ...]
"""Origin of records: the namespace and name of a Service, `("hosts",)`, or `()` for the schema."""


class Zone:
    """Records of the cluster's zone, of reverse names, and of the hosts of the internet."""

    def __init__(
        self,
        domain: str,
        namespaces: Iterable[Namespace],
        services: Iterable[Service],
        slices: Iterable[EndpointSlice],
        hosts: Mapping[str, Sequence[str]],
        own: Collection[str] = (),
    ) -> None:
        """Build the zone from all objects.

        own: addresses of the pod in which the server runs.
        """
        self.domain = domain.lower()
        self.serial = 1
        """Serial number in the SOA record; in CoreDNS it is the Unix time of the last change."""
        self._own = tuple(own)
        self._name_servers: dict[Source, list[tuple[str, str]]] = {}
        """(name, address) pairs of each Service whose endpoints include this server."""
        self._namespaces = {namespace.name for namespace in namespaces}
        self._reserved = {self.domain, f"svc.{self.domain}", f"pod.{self.domain}"}
        """Names that exist even if no name is below them."""
        self._reserved |= {
            f"{namespace}.{part}.{self.domain}"
            for namespace in self._namespaces
            for part in ("svc", "pod")
        }
        self._records_of: dict[Source, Records] = {}
        self._names: dict[str, dict[Source, Mapping[str, list[str]]]] = {}
        """Name → source → records."""
        self._descendants: Counter[str] = Counter()
        """Name → number of names of the zone below it."""
        by_service: dict[Source, list[EndpointSlice]] = {}
        for slice_ in slices:
            by_service.setdefault((slice_.namespace, slice_.service_name), []).append(slice_)
        self._replace((), {f"dns-version.{self.domain}": {"TXT": [SCHEMA_VERSION]}})
        for service in services:
            self.change(service.key, service, by_service.get(service.key, ()))
        host_records: Records = {}
        for name, addresses in hosts.items():
            for address in addresses:
                _add(host_records, name.lower(), _address_type(address), address)
        self._replace(("hosts",), host_records)

    def change(
        self, key: tuple[str, str], service: Service | None, slices: Iterable[EndpointSlice]
    ) -> None:
        """Replace the records of a Service, which is identified by its namespace and name.

        service: the Service as it is now; None when it was deleted.
        """
        pieces = tuple(slices)
        self._replace(key, {} if service is None else _records(self.domain, service, pieces))
        self._name_servers.pop(key, None)
        if service is not None and (pairs := _leading_to(self._own, self.domain, service, pieces)):
            self._name_servers[key] = pairs

    @property
    def name_servers(self) -> list[tuple[str, str]]:
        """(name, address) pairs of every address at which the zone is served.

        These belong to the Services that lead to the server's own pod; without one, to the pod.
        Source: CoreDNS plugin/kubernetes/ns.go (nsAddrs).
        """
        pairs = [pair for key in sorted(self._name_servers) for pair in self._name_servers[key]]
        return pairs or [(self._default_name_server, address) for address in self._own]

    @property
    def _default_name_server(self) -> str:
        return f"ns.dns.{self.domain}"

    def is_inside(self, name: str) -> bool:
        """Return True for the zone's apex and every name below it."""
        name = name.lower().removesuffix(".")
        return name == self.domain or name.endswith(f".{self.domain}")

    def lookup(self, name: str, type_: str) -> list[str] | None:
        """Return the values of one name and record type.

        The list is empty when the name has no records of the type. Return None when it does not
        exist.
        """
        name = name.lower().removesuffix(".")
        if name == self.domain and type_ == "NS":
            return list(dict.fromkeys(server for server, _ in self.name_servers))
        if name == self._default_name_server:
            return [address for _, address in self.name_servers if _address_type(address) == type_]
        if name in self._names:
            return list(
                dict.fromkeys(
                    value
                    for records in self._names[name].values()
                    for value in records.get(type_, ())
                )
            )
        if name in self._reserved or self._descendants[name]:
            return []
        return self._pod(name, type_)

    def _replace(self, source: Source, records: Records) -> None:
        """Replace all records of a source."""
        for name in self._records_of.pop(source, {}):
            del self._names[name][source]
            if not self._names[name]:
                del self._names[name]
                for ancestor in self._ancestors(name):
                    self._descendants[ancestor] -= 1
                    if not self._descendants[ancestor]:
                        del self._descendants[ancestor]
        for name, values in records.items():
            if name not in self._names:
                self._descendants.update(self._ancestors(name))
            self._names.setdefault(name, {})[source] = values
        if records:
            self._records_of[source] = records

    def _ancestors(self, name: str) -> list[str]:
        """Return the names of the zone above a name; they exist because a name below them does."""
        if not name.endswith(f".{self.domain}"):
            return []
        labels = name.split(".")
        return [
            ".".join(labels[index:]) for index in range(1, len(labels) - self.domain.count(".") - 1)
        ]

    def _pod(self, name: str, type_: str) -> list[str] | None:
        """Return the address in a pod's name, `10-244-1-5.default.pod.cluster.local`.

        Any address in an existing namespace is answered (`pods insecure`). Return None for other
        names.
        """
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
    """Return all records of a Service."""
    records: Records = {}
    targets: Targets = {}
    name = _name_of(service, domain)
    if service.spec.type == "ExternalName":
        _add(records, name, "CNAME", service.spec.external_name.removesuffix(".").lower())
        return records
    for address in service.cluster_ips:
        _add(records, name, _address_type(address), address)
        _add(records, _reverse(address), "PTR", name)
        for port in service.spec.ports:
            _add_target(targets, name, port, port.port, name)
    for slice_ in slices:
        for endpoint in slice_.endpoints if slice_.address_type != "FQDN" else ():
            if endpoint.conditions.is_ready:
                _add_endpoint(records, targets, service, name, slice_, endpoint)
    for target_name, pairs in targets.items():
        records.setdefault(target_name, {})["SRV"] = _weighted(pairs)
    return records


def _add_endpoint(
    records: Records,
    targets: Targets,
    service: Service,
    name: str,
    slice_: EndpointSlice,
    endpoint: Endpoint,
) -> None:
    """Add the records of one endpoint.

    These are its own name and, for a headless Service, its share of the Service's name.
    """
    for address in endpoint.addresses:
        host = _host_of(endpoint, address, name)
        _add(records, host, _address_type(address), address)
        if service.is_headless:
            _add(records, name, _address_type(address), address)
            _add(records, _reverse(address), "PTR", host)
        for port in slice_.ports:
            if port.port is None:
                continue
            targets.setdefault(host, []).append((port.port, host))
            if service.is_headless:
                _add_target(targets, name, port, port.port, host)


def _add_target(
    targets: Targets, name: str, port: ServicePort | EndpointPort, number: int, host: str
) -> None:
    """Add a target of the Service `name`, and of the labels of a named port."""
    targets.setdefault(name, []).append((number, host))
    if port.name:
        targets.setdefault(f"_{port.name}._{port.protocol.lower()}.{name}", []).append(
            (number, host)
        )


def _weighted(entries: Sequence[tuple[int, str]]) -> list[str]:
    """Return SRV values for (port, target) entries, one entry per port and address.

    All entries share the weight 100. Entries with equal port and target become one record.
    Source: CoreDNS plugin/backend_lookup.go (SRV).
    """
    weight = max(1, 100 // len(entries))
    return [f"0 {weight} {port} {target}" for port, target in dict.fromkeys(entries)]


def _leading_to(
    own: Collection[str], domain: str, service: Service, slices: Iterable[EndpointSlice]
) -> list[tuple[str, str]]:
    """Return the (name, address) pairs of a Service that leads to this server.

    That is: its ready endpoints include one of the addresses `own`.
    """
    name = _name_of(service, domain)
    pairs: list[tuple[str, str]] = []
    for slice_ in slices:
        ready = [
            (endpoint, address)
            for endpoint in slice_.endpoints
            if endpoint.conditions.is_ready
            for address in endpoint.addresses
        ]
        if not any(address in own for _, address in ready):
            continue
        if service.is_headless:
            pairs += [(_host_of(endpoint, address, name), address) for endpoint, address in ready]
        else:
            pairs += [(name, address) for address in service.cluster_ips]
    return list(dict.fromkeys(pairs))


def _name_of(service: Service, domain: str) -> str:
    return f"{service.name}.{service.namespace}.svc.{domain}"


def _host_of(endpoint: Endpoint, address: str, name: str) -> str:
    """Return the name of one endpoint of the Service `name`."""
    return f"{endpoint.hostname or dashed(address)}.{name}"


def _add(records: Records, name: str, type_: str, value: str) -> None:
    values = records.setdefault(name, {}).setdefault(type_, [])
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
