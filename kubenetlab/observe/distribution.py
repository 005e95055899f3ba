"""Distribution of a series of connections over the servers behind a Service.

It is explained by fields of the Service.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from kubenetlab.api.core import ClientIPConfig
from kubenetlab.api.json_types import JsonMapping
from kubenetlab.names import MAX_HOSTNAME
from kubenetlab.observe.destinations import ResolvedDestination
from kubenetlab.observe.expect import ServiceTarget
from kubenetlab.observe.series import Answer
from kubenetlab.observe.targets.grammar import pod_title
from kubenetlab.observe.targets.locations import Location, places
from kubenetlab.observe.targets.lookups import service_named

if TYPE_CHECKING:
    from kubenetlab.observe.inspection import InspectedService, Inspection

MANY: Final = 20
"""Expected connections per endpoint from which an endpoint without any is reported.

By chance this happens once in 5·10⁸ series.
"""


class PossibleServer(Struct, frozen=True):
    """A server that may answer: an endpoint of a Service, or another pod or host."""

    title: str
    node: str = ""


class ServerShare(Struct, frozen=True):
    """Number of connections that one server answered."""

    server: PossibleServer
    count: int
    errors: int
    """Number of these with an HTTP error."""
    is_ready: bool
    """True for a ready endpoint of the Service."""


class SourceAddress(Struct, frozen=True):
    """A source address that servers have seen."""

    address: str
    owner: str
    """Pod, node or host that has the address; empty if there is none."""
    count: int


def endpoints(seen: Inspection, where: ResolvedDestination) -> list[PossibleServer]:
    """Return the ready endpoints of the addressed Service; empty for other destinations."""
    if isinstance(where.known, ServiceTarget):
        ready = list(where.known.endpoints)
    else:
        entry = service_named(seen, *where.service) if where.service is not None else None
        ready = [] if entry is None else _ready(entry, where)
    return list(dict.fromkeys(_server(seen, address, port) for address, port in ready))


def _ready(entry: InspectedService, where: ResolvedDestination) -> list[tuple[str, int]]:
    """Return address and port of each ready endpoint.

    The endpoints are those behind the node port, or all of a headless Service.
    """
    names = [
        port["name"] for port in entry["ports"] if where.port in (port["port"], port["node_port"])
    ]
    version = ip_address(where.address).version
    return [
        (endpoint["address"], endpoint["port"])
        for endpoint in entry["endpoints"]
        if endpoint["ready"]
        and (not names or endpoint["port_name"] in names)
        and ip_address(endpoint["address"]).version == version
    ]


def _server(seen: Inspection, address: str, port: int) -> PossibleServer:
    """Return the owner of an endpoint: a pod, an external host, or the bare address.

    Of several pods in a node's network it is the one that listens on the port.
    """
    pods = [pod for pod in seen["pods"] if address in pod["addresses"]]
    listening = [
        pod for pod in pods if any(port in container["ports"] for container in pod["containers"])
    ]
    for pod in (*listening, *pods):
        return PossibleServer(pod_title(pod["namespace"], pod["name"]), pod["node"])
    host = next((host for host in seen["external"] if address in host["addresses"]), None)
    return PossibleServer(f"ext:{host['name']}" if host is not None else address)


def shares(
    seen: Inspection, answers: Iterable[Answer], ready: Sequence[PossibleServer]
) -> list[ServerShare]:
    """Return every server that answered and every ready endpoint, sorted by number of connections.

    Servers without a known name are left out.
    """
    endpoints_by_title = {server.title: server for server in ready}
    titles = [pod_title(pod["namespace"], pod["name"]) for pod in seen["pods"]]
    pods_by_title = {
        title: PossibleServer(title, pod["node"])
        for title, pod in zip(titles, seen["pods"], strict=True)
    }
    by_hostname = _by_hostname([*titles, *endpoints_by_title])
    counts: Counter[str] = Counter(dict.fromkeys(endpoints_by_title, 0))
    errors: Counter[str] = Counter()
    for answer in answers:
        namespace, slash, name = answer.server.partition("/")
        title = (
            pod_title(namespace, name)
            if slash
            else answer.server or by_hostname.get(answer.hostname, answer.hostname)
        )
        if title and answer.outcome == "answer":
            counts[title] += 1
            errors[title] += bool(answer.failure)
    servers = {
        title: endpoints_by_title.get(title) or pods_by_title.get(title) or PossibleServer(title)
        for title in counts
    }
    server_shares = [
        ServerShare(servers[title], count, errors[title], title in endpoints_by_title)
        for title, count in counts.items()
    ]
    return sorted(server_shares, key=lambda share: (-share.count, share.server.title))


def _by_hostname(titles: Iterable[str]) -> dict[str, str]:
    """Return hostname → title of a pod. Later titles replace earlier ones of the same hostname."""
    return {title.rpartition("/")[2][:MAX_HOSTNAME]: title for title in titles}


def clients(seen: Inspection, answers: Iterable[Answer]) -> list[SourceAddress]:
    """Return the source addresses that servers have seen, the most frequent first."""
    owners = {
        address: place.title
        for place in reversed(places(seen))
        for address in place.addresses
        if not place.is_host_network
    }
    counts = Counter(answer.client for answer in answers if answer.client)
    return [
        SourceAddress(address, owners.get(address) or _bridge(seen, address), count)
        for address, count in counts.most_common()
    ]


def _bridge(seen: Inspection, address: str) -> str:
    """Return the node whose pod range contains an address that no pod has.

    It is the address of the node's bridge.
    """
    for node in seen["nodes"]:
        if any(ip_address(address) in ip_network(cidr) for cidr in node["pod_cidrs"]):
            return f"node:{node['name']}"
    return ""


def explanation(
    spec: JsonMapping,
    server_shares: Sequence[ServerShare],
    source: Location,
    *,
    is_outside: bool,
) -> str:
    """Explain by fields of the Service why ready endpoints got no connection.

    The text is empty if all got some, or if it may be by chance.
    is_outside: the Service was reached by a load balancer's address or a node port, where
    externalTrafficPolicy applies.
    """
    ready = [share for share in server_shares if share.is_ready]
    used, unused = (
        [share for share in server_shares if share.count],
        [share for share in ready if not share.count],
    )
    if not unused or not used:
        return ""
    nodes = {share.server.node for share in used}
    if spec.get("sessionAffinity") == "ClientIP" and len(used) == 1:
        timeout_s = (
            spec.get("sessionAffinityConfig", {})
            .get("clientIP", {})
            .get("timeoutSeconds", ClientIPConfig().timeout_seconds)
        )
        return (
            "one endpoint got every connection: sessionAffinity is ClientIP, "
            f"with a timeout of {timeout_s} s"
        )
    if not is_outside and spec.get("internalTrafficPolicy") == "Local" and nodes == {source.node}:
        return (
            f"only endpoints on {source.node}, the client's node, got connections: "
            "internalTrafficPolicy is Local"
        )
    if is_outside and spec.get("externalTrafficPolicy") == "Local" and len(nodes) == 1:
        return (
            f"only endpoints on {nodes.pop()}, the node that was reached, got connections: "
            "externalTrafficPolicy is Local"
        )
    if spec.get("trafficDistribution"):
        return (
            "endpoints near the client are preferred: "
            f"trafficDistribution is {spec['trafficDistribution']}"
        )
    if sum(share.count for share in server_shares) >= MANY * len(ready):
        names = ", ".join(share.server.title for share in unused)
        return (
            f"ready, but without any connection: {names}. "
            "The rules on the client's node may be stale: run kubenetlab diff"
        )
    return ""
