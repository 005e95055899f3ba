"""BIRD 2, the daemon that runs a BGP speaker, and its configuration.

BIRD adds the routes that the peers announce to the kernel, as routes of `proto bird`.

Source: bird.network.cz, BIRD 2.0 user's guide; proto/bgp/bgp.c (2.0.12). Timers and the option
`direct` were measured: a full mesh of ten nodes is established after one second, which is BIRD's
shortest delay of a connection.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, TypeGuard

from msgspec import structs

from kubenetlab.datapath.network import bird_filters
from kubenetlab.datapath.network.bgp import Peer, Speaker
from kubenetlab.hoststate.daemons import ControlSocket, Daemon
from kubenetlab.hoststate.files import File, digest
from kubenetlab.hoststate.object import Object

PROGRAM: Final = "bird"
CONFIG_PATH: Final = "/etc/bird/bird.conf"
CONTROL_PATH: Final = "/run/bird/bird.ctl"
"""Default paths of Debian's package, so that `birdc` needs no option."""

HOLD_S: Final = 9
"""Time after which a silent peer counts as dead, in seconds."""
_RECONFIGURED: Final = ("0003", "0004")
"""Codes of BIRD's replies to `configure` (doc/reply_codes): done, in progress."""
_NEIGHBOR: Final = re.compile(r"^  neighbor (\S+)(?: port \d+)? as ", re.MULTILINE)


def bird(netns: str, speaker: Speaker, routes: Sequence[str]) -> Iterator[Object]:
    """Yield BIRD and its configuration.

    routes: destinations that BIRD learns from other nodes of the lab; `up` waits for them.
    """
    has_secrets = any(peer.password is not None for peer in speaker.peers)
    config = File(netns, CONFIG_PATH, bird_config(speaker), 0o600 if has_secrets else 0o644)
    yield config
    yield Daemon.reading(
        [config],
        PROGRAM,
        (PROGRAM, "-f", "-c", CONFIG_PATH, "-s", CONTROL_PATH),
        reload=ControlSocket(CONTROL_PATH, "configure", _RECONFIGURED),
        provides=routes,
        # Not at the first start: BIRD would wait for all sessions before it adds a route.
        restart_options=("-R",) if speaker.keeps_routes else (),
    )


def is_bird(obj: Object) -> TypeGuard[Daemon]:
    """Return True for the daemon BIRD."""
    return isinstance(obj, Daemon) and obj.name == PROGRAM


def learned_routes(objects: Iterable[Object]) -> list[str]:
    """Return the destinations that BIRD of a node learns; empty on a node without BIRD."""
    return [destination for obj in objects if is_bird(obj) for destination in obj.provides]


def neighbors(objects: Iterable[Object]) -> list[str]:
    """Return the addresses with which BIRD of a node has sessions; empty on a node without BIRD."""
    return [
        address
        for obj in objects
        if isinstance(obj, File) and obj.path == CONFIG_PATH
        for address in _NEIGHBOR.findall(obj.content)
    ]


def expecting_no_routes(objects: Iterable[Object]) -> Iterator[Object]:
    """Yield the objects of a node; it is ready before BIRD has learned any route."""
    for obj in objects:
        yield structs.replace(obj, provides=()) if is_bird(obj) else obj


def without_routes(objects: Sequence[Object], refused: Sequence[str]) -> Iterator[Object]:
    """Yield the objects of a node whose BIRD accepts no routes to some destinations."""
    for obj in objects:
        if isinstance(obj, File) and obj.path == CONFIG_PATH:
            yield _refusing(obj, refused)
        elif is_bird(obj):
            files = [file for file in objects if isinstance(file, File) and file.path in obj.files]
            changed = [
                _refusing(file, refused) if file.path == CONFIG_PATH else file for file in files
            ]
            provides = tuple(route for route in obj.provides if route not in refused)
            yield structs.replace(obj, revision=digest(changed), provides=provides)
        else:
            yield obj


def _refusing(config: File, refused: Sequence[str]) -> File:
    """Return the configuration with a filter in each session."""
    text = config.content
    for version in (4, 6):
        prefixes = ", ".join(f"{prefix}+" for prefix in refused if _version(prefix) == version)
        if prefixes:
            start = f"  ipv{version} {{ import "
            text = text.replace(f"{start}all;", f"{start}where net !~ [ {prefixes} ];")
            start += "filter {\n"
            text = text.replace(start, f"{start}    if net ~ [ {prefixes} ] then reject;\n")
    return structs.replace(config, content=text)


def bird_config(speaker: Speaker) -> str:
    """Return the text of bird.conf."""
    return "\n".join(_config(speaker)) + "\n"


def _config(speaker: Speaker) -> Iterator[str]:
    yield "log stderr { info, warning, error, auth, fatal, bug };"
    yield f"router id {speaker.router_id};"
    if speaker.keeps_routes:
        yield f"graceful restart wait {HOLD_S};"
    yield ""
    yield "# Addresses and states of links."
    # BIRD 2.0.12 may sleep while an update is to be sent (sysdep/unix/io.c io_loop() runs events
    # before it computes how long to wait). Without this timer it wakes for the next keepalive.
    yield "protocol device { scan time 1; }"
    for address in speaker.addresses:
        yield ""
        yield from _family(speaker, _version(address), address)


def _family(speaker: Speaker, version: int, address: str) -> Iterator[str]:
    """Yield the protocols of one address family."""
    announced = [prefix for prefix in speaker.announced if _version(prefix) == version]
    blackholes = [prefix for prefix in speaker.blackholes if _version(prefix) == version]
    yield f"# IPv{version}: prefixes that this node announces."
    yield f"protocol static announced{version} {{"
    yield f"  ipv{version};"
    yield from (f"  route {prefix} blackhole;" for prefix in announced)
    yield "}"
    sources = ["source = RTS_BGP"]
    if blackholes:
        yield f"protocol static blackholes{version} {{"
        yield f"  ipv{version};"
        yield from (f"  route {prefix} blackhole;" for prefix in blackholes)
        yield "}"
        sources.append(f'proto = "blackholes{version}"')
    if services := [prefix for prefix in speaker.services if _version(prefix) == version]:
        yield f"protocol static services{version} {{"
        yield f"  ipv{version};"
        yield from (f"  route {prefix} blackhole;" for prefix in services)
        yield "}"
    yield ""
    yield "# Routes in the kernel."
    yield f"protocol kernel kernel{version} {{"
    condition = " || ".join(sources)
    unprogrammed = [f"{prefix}+" for prefix in speaker.unprogrammed if _version(prefix) == version]
    if unprogrammed:
        condition = f"({condition}) && net !~ [ {', '.join(unprogrammed)} ]"
    yield f"  ipv{version} {{ import none; export where {condition}; }};"
    yield "  scan time 10;"
    yield "  metric 0;  # as other programs leave it: no metric for IPv4, 1024 for IPv6"
    yield f"  merge paths yes limit {speaker.max_paths};"
    if speaker.keeps_routes:
        yield "  graceful restart;"
    yield "}"
    yield ""
    yield f"template bgp peers{version} {{"
    yield f"  local {address} as {speaker.as_number};"
    yield f"  hold time {HOLD_S};"
    yield f"  keepalive time {HOLD_S // 3};"
    yield "  connect delay time 0;"
    yield "  connect retry time 1;"
    yield "  error wait time 1, 2;"
    yield f"  graceful restart {'on' if speaker.keeps_routes else 'off'};"
    if speaker.is_bound:
        yield "  strict bind on;"
    yield "}"
    for peer in speaker.peers:
        if _version(peer.address) == version:
            yield from _session(speaker, peer, version)


def _session(speaker: Speaker, peer: Peer, version: int) -> Iterator[str]:
    yield f"protocol bgp {peer.name} from peers{version} {{"
    if local := _local(speaker, peer, version):
        yield f"  local {local};"
    port = f" port {peer.port}" if peer.port else ""
    yield f"  neighbor {peer.address}{port} as {peer.as_number};"
    hops = f" {peer.max_hops}" if peer.max_hops else ""
    yield "  direct;" if peer.is_direct else f"  multihop{hops};"
    if peer.max_hops:
        yield "  ttl security on;"
    if peer.is_client:
        yield "  rr client;"
        if speaker.cluster_id:
            yield f"  rr cluster id {speaker.cluster_id};"
    if peer.own_as_allowed:
        yield f"  allow local as {peer.own_as_allowed};"
    if peer.password is not None:
        yield f'  password "{peer.password.reveal.decode()}";'
    if peer.restart_time_s:
        yield f"  graceful restart time {peer.restart_time_s};"
    next_hop = f"next hop {peer.next_hop}; " if peer.next_hop else ""
    imports = _filter(bird_filters.statements(peer.imports), "all")
    exports = _filter(_export_statements(speaker, peer, version), "")
    exports = exports or f"where {_exported(speaker, peer, version)}"
    yield f"  ipv{version} {{ import {imports}; {next_hop}export {exports}; }};"
    yield "}"


def _filter(statements: Iterable[str], otherwise: str) -> str:
    """Return a filter that accepts routes about which no statement decides.

    otherwise: text without statements.
    """
    lines = [f"    {statement}\n" for statement in statements]
    return f"filter {{\n{''.join(lines)}    accept;\n  }}" if lines else otherwise


def _export_statements(speaker: Speaker, peer: Peer, version: int) -> Iterator[str]:
    """Yield the statements for exported routes; nothing if a condition about them is enough."""
    is_rewritten = bool(peer.subnet) and peer.as_number == speaker.as_number
    if not (is_rewritten or peer.exports or peer.marks):
        return
    yield from bird_filters.statements(peer.exports)
    yield f"if !({_exported(speaker, peer, version)}) then reject;"
    if is_rewritten:
        yield f"if bgp_next_hop !~ {peer.subnet} then bgp_next_hop = {peer.source};"
    yield from bird_filters.marks(peer.marks)


def _exported(speaker: Speaker, peer: Peer, version: int) -> str:
    """Return the condition for routes that the speaker exports to a peer."""
    sources = "RTS_STATIC, RTS_BGP" if peer.gets_learned or peer.is_client else "RTS_STATIC"
    condition = f"source ~ [ {sources} ]"
    if peer.is_node and any(_version(prefix) == version for prefix in speaker.services):
        condition += f' && !(proto = "services{version}")'
    return condition


def _local(speaker: Speaker, peer: Peer, version: int) -> str:
    """Return the own end of a session if it is not that of the template; else an empty text."""
    unset = "::" if version == 6 else "0.0.0.0"
    address = peer.source if peer.has_source else unset
    if not address and not peer.local_as:
        return ""
    return f"{address} as {peer.local_as or speaker.as_number}".lstrip()


def _version(address: str) -> int:
    """Return the IP version of an address or a prefix."""
    return 6 if ":" in address else 4
