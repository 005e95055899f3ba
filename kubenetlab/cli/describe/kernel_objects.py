"""inspect of one Service, workload or pod: its objects in the kernel, on one page."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from ipaddress import ip_address, ip_network
from typing import Final

from msgspec import Struct

from kubenetlab.api.json_types import JsonObject
from kubenetlab.cli.describe.cells import paint_readiness
from kubenetlab.cli.describe.fields import print_field, print_heading
from kubenetlab.cli.input.options import Output
from kubenetlab.cli.terminal.output_documents import print_document
from kubenetlab.cli.terminal.printing import echo, hint, note, print_table
from kubenetlab.cli.terminal.theme import BAD, HEADING, MUTED, paint
from kubenetlab.errors import UsageError
from kubenetlab.kernel.namespaces.enter import enter_lab
from kubenetlab.kernel.netlink.conntrack_entries import ConntrackEntry, tracked_entries
from kubenetlab.kernel.syscalls import inside_network, open_namespace
from kubenetlab.lab.client import Client
from kubenetlab.lab.paths import LAB_API
from kubenetlab.names import socket_address
from kubenetlab.observe.inspection import InspectedPod, Inspection, ServedEndpoint
from kubenetlab.observe.listing import ListedSubject, extract
from kubenetlab.observe.nat_notes import nat_notes
from kubenetlab.observe.targets.grammar import WORKLOADS, Target, pod_title
from kubenetlab.observe.targets.locations import Location
from kubenetlab.observe.targets.lookups import service_named
from kubenetlab.observe.targets.meanings import service_of
from kubenetlab.observe.targets.resolution import source_target
from kubenetlab.observe.targets.suggestions import suggest_similar

_MAX_LINES: Final = 60
"""Maximum number of lines per group of nodes without -o wide."""
_MAX_ENTRIES: Final = 20
"""Maximum number of tracked connections without -o wide."""

Tracked = list[tuple[str, ConntrackEntry]]
"""(node, entry) of each tracked connection."""


class Page(Struct, frozen=True):
    """Kernel objects that belong to one Service or to a set of pods."""

    rules: dict[str, list[str]]
    """Links, routes, rules, set elements and map entries, by node."""
    entries: Tracked
    untracked: list[str]
    """Nodes whose tracked connections could not be read, with the reason."""
    notes: list[str]


def inspect_service(
    client: Client, inspected: Inspection, key: tuple[str, str], output: Output
) -> None:
    """Print addresses, endpoints, rules per node and tracked connections of a Service.

    inspected: reply of the lab's API to `inspect`.
    key: (namespace, name) of the Service, which must exist.
    """
    entry = service_named(inspected, *key)
    assert entry is not None
    addresses = (*entry["cluster_ips"], *entry["load_balancer_ips"], *entry["external_ips"])
    node_ports = frozenset(port["node_port"] for port in entry["ports"] if port["node_port"])
    endpoints: list[ServedEndpoint] = [
        {**endpoint, "pod": _owner(inspected, endpoint["address"])}
        for endpoint in entry["endpoints"]
    ]
    backends = {(endpoint["address"], endpoint["port"]) for endpoint in endpoints}
    backend_addresses = frozenset(address for address, _ in backends)
    subject = ListedSubject(
        frozenset(["/".join(key)]), frozenset(addresses), node_ports, backend_addresses
    )
    nodes_addresses = {address for node in inspected["nodes"] for address in node["addresses"]}

    def is_own(tracked: ConntrackEntry) -> bool:
        address, port = tracked.destination
        by_address = address in addresses or (port in node_ports and address in nodes_addresses)
        # A connection is already translated on the endpoint's node and after eBPF programs.
        return by_address or tracked.destination == tracked.server in backends

    page = _page(client, inspected, subject, is_own, backend_addresses)
    if output.is_data:
        shown = {"type", "cluster_ips", "load_balancer_ips", "external_ips", "ports"}
        fields = {name: value for name, value in entry.items() if name in shown}
        print_document(
            {
                "kind": "Service",
                "name": "/".join(key),
                **fields,
                "endpoints": endpoints,
                **_as_data(page),
            },
            output,
        )
        return
    echo(f"{paint(f'Service {key[0]}/{key[1]}', HEADING)}  {entry['type']}")
    print_field(
        "Cluster IP", ", ".join(entry["cluster_ips"]) or "none: DNS answers with the endpoints"
    )
    if entry["load_balancer_ips"] or entry["external_ips"]:
        print_field("Outside", ", ".join((*entry["load_balancer_ips"], *entry["external_ips"])))
    for port in entry["ports"]:
        at_nodes = f"  node port {port['node_port']}" if port["node_port"] else ""
        name = f" ({port['name']})" if port["name"] else ""
        print_field("Port", f"{port['port']}/{port['protocol']}{name}{at_nodes}")
    _endpoints(endpoints)
    _show(page, output)
    if not entry["proxied"]:
        echo(paint("no kube-proxy handles this Service: its addresses do not work", BAD))
    hint(f"kubenetlab ping SRC svc:{key[0]}/{key[1]} --count 100")


def selected_service(target: Target, inspected: Inspection) -> tuple[str, str] | None:
    """Return (namespace, name) if a target of `inspect` is a Service, else None.

    A bare name is a Service only if no pod or workload has that name.
    Raises UsageError for a Service that does not exist.
    """
    if target.kind == "word":
        resolved = source_target(target.bare, inspected)
        has_pods = any(names_pod(resolved, pod) for pod in inspected["pods"])
        return None if has_pods else service_of(target, inspected)
    service = service_of(target, inspected)
    if service is not None and service_named(inspected, *service) is None:
        raise UsageError(
            f"there is no Service {'/'.join(service)}"
            + suggest_similar(service[1], inspected, with_services=True)
        )
    return service


def selected_pods(
    target: Target, inspected: Inspection, location: Location
) -> tuple[str, list[InspectedPod]]:
    """Return title and pods of a target: all pods of a workload, or one pod."""
    resolved = source_target(target.bare, inspected)
    pods = [pod for pod in inspected["pods"] if names_pod(resolved, pod)]
    if resolved.kind not in WORKLOADS:
        return f"Pod {location.namespace}/{location.name}", pods
    return f"{WORKLOADS[resolved.kind]} {resolved.namespace}/{resolved.name}", pods


def names_pod(target: Target, pod: InspectedPod) -> bool:
    """Return True if a target names this pod, or a workload of this pod."""
    if target.kind in WORKLOADS:
        return bool(
            (pod["namespace"], pod["workload"])
            == (target.namespace, f"{WORKLOADS[target.kind]}/{target.name}")
        )
    return target.kind == "pod" and bool(
        (pod["namespace"], pod["name"]) == (target.namespace, target.name)
    )


def inspect_pods(
    client: Client,
    inspected: Inspection,
    pods: Sequence[InspectedPod],
    title: str,
    output: Output,
) -> JsonObject:
    """Return addresses, Services, objects per node and tracked connections of pods.

    They are also printed unless `output` is JSON or YAML.
    """
    own = [pod for pod in pods if not pod["host_network"]]
    addresses = frozenset(address for pod in own for address in pod["addresses"])
    links = {(pod["node"], pod["host_ifname"]) for pod in own if pod["host_ifname"]}

    def is_own(tracked: ConntrackEntry) -> bool:
        return not addresses.isdisjoint(
            (tracked.client[0], tracked.destination[0], tracked.server[0])
        )

    page = _page(client, inspected, ListedSubject(addresses=addresses), is_own, addresses, links)
    services = _services_of(inspected, addresses)
    document = {
        "kind": title.partition(" ")[0],
        "pods": [_pod(pod) for pod in pods],
        "services": services,
        **_as_data(page),
    }
    if output.is_data:
        return document
    echo()
    if not title.startswith("Pod "):
        echo(f"{paint(title, HEADING)}: its pods (the namespace above is that of one pod)")
        rows = [
            (
                pod_title(pod["namespace"], pod["name"]),
                ", ".join(pod["addresses"]) or "-",
                pod["node"] or "-",
                paint_readiness(is_ready=pod["ready"]),
            )
            for pod in pods
        ]
        print_table(("POD", "ADDRESS", "NODE", "STATE"), rows)
        echo()
    print_field(
        "Services", ", ".join(f"svc:{name}" for name in services) or "none has an endpoint here"
    )
    if len(own) < len(pods):
        echo(
            "pod on the node's network: for its rules and connections, "
            "see kubenetlab inspect node:NODE"
        )
    _show(page, output)
    return document


def _page(
    client: Client,
    inspected: Inspection,
    subject: ListedSubject,
    is_own: Callable[[ConntrackEntry], bool],
    endpoints: frozenset[str],
    node_links: Sequence[tuple[str, str]] | set[tuple[str, str]] = (),
) -> Page:
    """Read rules through the lab's API, then connections from inside the lab.

    The process enters the lab in between; an unprivileged process cannot leave it again.
    """
    rules: dict[str, list[str]] = {}
    nodes = [(node, node["netns"]) for node in inspected["nodes"] if node["netns"]]
    for node, _ in nodes:
        detail = client.get(f"{LAB_API}/detail", netns=node["sandbox"])
        own_links = {name for node_name, name in node_links if node_name == node["name"]}
        objects = (
            list(_objects(detail["objects"], subject.addresses, own_links)) if node_links else []
        )
        rules[node["name"]] = [*objects, *extract(detail["listings"], subject)]
    enter_lab(client.open_init())
    entries: Tracked = []
    untracked = []
    for node, netns_path in nodes:
        try:
            entries += [(node["name"], entry) for entry in _tracked(netns_path) if is_own(entry)]
        except OSError as error:
            untracked.append(f"{node['name']}: {error.strerror or error}")
    lines = [text for texts in rules.values() for text in texts]
    return Page(
        rules,
        entries,
        untracked,
        list(nat_notes(lines, endpoints, [entry for _, entry in entries])),
    )


def _tracked(netns_path: str) -> list[ConntrackEntry]:
    home = open_namespace("net")
    try:
        with inside_network(os.open(netns_path, os.O_RDONLY | os.O_CLOEXEC), home):
            return tracked_entries()
    finally:
        os.close(home)


def _objects(objects: Sequence[str], addresses: frozenset[str], links: set[str]) -> Iterator[str]:
    """Yield a node's links in `links`, and its routes and neighbours that lead to the addresses.

    Default routes are left out.
    """
    for text in objects:
        words = text.split()
        is_link = any(name in words for name in links)
        if is_link or (
            words[0] in ("route", "neighbor", "neighbour")
            and any(_leads_to(words[1], address) for address in addresses)
        ):
            yield text


def _leads_to(destination: str, address: str) -> bool:
    try:
        return ip_address(address) in ip_network(destination, strict=False)
    except ValueError:  # `default`
        return False


def _as_data(page: Page) -> JsonObject:
    return {
        "nodes": [{"name": name, "rules": lines} for name, lines in page.rules.items()],
        "conntrack": [
            {
                "node": node,
                "protocol": entry.protocol,
                "state": entry.state,
                "client": _address_text(entry.client),
                "destination": _address_text(entry.destination),
                "server": _address_text(entry.server),
                "seen_as": _address_text(entry.seen_as),
                "timeout_s": entry.timeout_s,
            }
            for node, entry in page.entries
        ],
        "untracked": page.untracked,
        "notes": page.notes,
    }


def _show(page: Page, output: Output) -> None:
    is_wide = output is Output.wide
    for names, lines in _group_by_lines(page.rules):
        echo()
        echo(paint(f"On {', '.join(names)}:", HEADING) + ("" if lines else " nothing"))
        shown = lines if is_wide else lines[:_MAX_LINES]
        for text in shown:
            echo(f"  {text}")
        if len(lines) > len(shown):
            echo(paint(f"  … and {len(lines) - len(shown)} more lines: -o wide", MUTED))
    echo()
    _connections(page.entries, is_wide=is_wide)
    for text in page.untracked:
        note(f"cannot read tracked connections on {text}")
    if page.notes:
        echo()
    for text in page.notes:
        echo(text)


def _group_by_lines(rules: Mapping[str, list[str]]) -> list[tuple[list[str], list[str]]]:
    """Return (nodes, lines), with nodes that have the same lines in one group."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, lines in rules.items():
        groups.setdefault(tuple(lines), []).append(name)
    return [(names, list(lines)) for lines, names in groups.items()]


def _connections(entries: Tracked, *, is_wide: bool) -> None:
    if not entries:
        echo("Connections: none tracked")
        return
    shown = entries if is_wide else entries[:_MAX_ENTRIES]
    rows = [
        (
            node,
            entry.protocol,
            entry.state or "-",
            _address_text(entry.client),
            _address_text(entry.destination),
            _address_text(entry.server),
            _address_text(entry.seen_as),
        )
        for node, entry in shown
    ]
    print_table(("NODE", "PROTO", "STATE", "CLIENT", "SENT TO", "ANSWERED BY", "SEEN AS"), rows)
    if len(entries) > len(shown):
        echo(paint(f"… and {len(entries) - len(shown)} more connections: -o wide", MUTED))


def _address_text(end: tuple[str, int]) -> str:
    return socket_address(*end) if end[1] else end[0]


def _endpoints(endpoints: Sequence[ServedEndpoint]) -> None:
    if not endpoints:
        print_field("Endpoints", "none")
        return
    print_heading("Endpoints")
    rows = [
        (
            socket_address(each["address"], each["port"]),
            each["pod"] or "-",
            each["node"] or "-",
            paint_readiness(is_ready=each["ready"]),
        )
        for each in endpoints
    ]
    print_table(("ADDRESS", "POD", "NODE", "STATE"), rows, indent=2)


def _services_of(inspected: Inspection, addresses: frozenset[str]) -> list[str]:
    """Return the Services that have an endpoint with one of the addresses."""
    return [
        f"{entry['namespace']}/{entry['name']}"
        for entry in inspected["services"]
        if any(endpoint["address"] in addresses for endpoint in entry["endpoints"])
    ]


def _owner(inspected: Inspection, address: str) -> str | None:
    return next(
        (
            pod_title(pod["namespace"], pod["name"])
            for pod in inspected["pods"]
            if address in pod["addresses"]
        ),
        None,
    )


def _pod(pod: InspectedPod) -> JsonObject:
    fields = {"namespace", "name", "node", "addresses", "host_ifname", "ready"}
    return {name: value for name, value in pod.items() if name in fields}
