"""ping from one place to another: by address, by Service, or by a name that the source itself resolves."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import Any

from msgspec import Struct, structs

from kubenetlab.api.core import Service
from kubenetlab.cli.describing_services import why_without
from kubenetlab.cli.diagnosing import Judged, few, judge, unenforced_objects
from kubenetlab.cli.options import Output
from kubenetlab.cli.screen import BAD, DIM, GOOD, data, hint, paint, say
from kubenetlab.errors import RequirementError, UsageError
from kubenetlab.kernel.enter import enter_lab
from kubenetlab.kernel.features import has_sctp
from kubenetlab.kernel.syscalls import open_namespace
from kubenetlab.lab.client import Client
from kubenetlab.lab.paths import object_path
from kubenetlab.lab.podnet import Namespace, PodNetwork
from kubenetlab.names import socket_address
from kubenetlab.observe.connections import Ends
from kubenetlab.observe.expect import Destination, Expectation, ServicePort, expect, service_ports, world
from kubenetlab.observe.matrix import FITS
from kubenetlab.observe.prober import Probe, Result, run
from kubenetlab.observe.targets import Place, Target, node_ports, resolve, service_named
from kubenetlab.programs.resolver import parse as parse_resolver

DEFAULT_HTTP_PORT = 80
_VERBS = {"ICMP": "ping", "TCP": "connect", "UDP": "datagram", "SCTP": "associate"}


class Question(Struct, frozen=True):
    """What is asked: a path, or a port, by a protocol; a ping by ICMP."""

    protocol: str = "ICMP"
    port: int | None = None
    http: str | None = None


class Where(Struct, frozen=True):
    """Where to send: an address and, when it is known, what stands behind it."""

    title: str
    address: str
    port: int = 0
    protocol: str = "ICMP"
    known: Destination | None = None
    lacking: str = ""
    """What the Service has instead, where it has no such port."""


def one(
    client: Client,
    seen: Mapping[str, Any],
    source: Place,
    target: Target,
    question: Question,
    *,
    deadline_s: float,
    allowed: Sequence[str] | None = None,
    output: Output,
) -> bool:
    """Sends one probe and says what came of it; True when that is as promised (or an answer, where nothing is promised).

    An object that the lab does not enforce, whose kind is not in `allowed`, and that could change this result makes it False.
    """
    why = _why_empty(client, seen, target)
    unenforced = unenforced_objects(client)
    network = _network(client, source, seen["init_pid"])
    where = asyncio.run(_find(network, seen, source, target, question))
    who = ""
    if question.http is not None:
        result, body, who = asyncio.run(_get(network, where, question.http, deadline_s))
    elif where.protocol == "SCTP" and not has_sctp():
        raise RequirementError("this kernel has no SCTP: sudo modprobe sctp, or see kubenetlab doctor")
    else:
        (result,), body = run([Probe(source, where.protocol, where.address, where.port)], deadline_s=deadline_s), ""  # type: ignore[arg-type]
    expected = expect(source, where.known, world(seen)) if where.known is not None else None
    is_as_promised = result.outcome in FITS[expected or "answer"]
    judged = judge(unenforced, [Ends(seen).of_row(source, target, where.port)], kinds=allowed)
    doubts = [one.diagnostic.title for one in judged if one.affected and not one.is_accepted]
    is_fine = is_as_promised and not doubts
    if output.is_data:
        data(
            {
                "from": source.title,
                "to": where.title,
                "address": where.address,
                "port": where.port,
                "protocol": where.protocol,
                "expected": expected,
                "found": result.outcome,
                "ms": round(result.ms, 3),
                "body": body,
                "unenforced": doubts,
                "ok": is_fine,
            },
            output,
        )
        return is_fine
    at = socket_address(where.address, where.port) if where.port else where.address
    how = "GET " + question.http if question.http is not None else _VERBS[where.protocol]
    words = {"answer": "answered", "refused": "refused", "unreachable": "no way there", "silence": "silence"}
    verdict = (
        paint(words[result.outcome], GOOD if is_as_promised else BAD)
        + (f" in {result.ms:.2f} ms" if result.outcome == "answer" else "")
        + _promise(where, expected, why, is_fine=is_as_promised)
    )
    say(f"{source.title} ({source.address}) → {where.title} ({at}) {paint(how, DIM)}: {verdict}")
    for line in body.splitlines():
        say(f"  {line}")
    if doubts:
        say(f"{paint('✗', BAD)} not enforced by this lab, and could change this: {few(doubts)}")
        if is_as_promised:
            hint(f"kubenetlab ping {source.title} {target} --allow-unmodelled {_first_kind(judged)}")
            return is_fine
    is_pod = "/" in who
    if why and is_fine and result.outcome != "answer":
        hint(f"kubenetlab describe svc {target.name}" + (f" -n {target.namespace}" if target.namespace != "default" else ""))
        return is_fine
    hint(f"kubenetlab logs {who}" if is_fine and is_pod else "kubenetlab ping" if is_fine else "kubenetlab diff")
    return is_fine


def _why_empty(client: Client, seen: Mapping[str, Any], target: Target) -> str:
    """Why the Service that is meant has no endpoint that is ready; nothing where it has some, or is none."""
    entry = service_named(seen, target.namespace, target.name) if target.kind in ("svc", "lb") else None
    if entry is None or any(endpoint["ready"] for endpoint in entry["endpoints"]):
        return ""
    return why_without(client, client.get(object_path(Service, target.namespace, target.name)))


def _first_kind(judged: Sequence[Judged]) -> str:
    """Return the kind of the first object that is neither enforced nor accepted and that could change the result."""
    return next(one.diagnostic.kind.partition(".")[0] for one in judged if one.affected and not one.is_accepted)


def _promise(where: Where, expected: Expectation | None, empty: str, *, is_fine: bool) -> str:
    """What was promised, where that is not plain from the outcome; `empty` says why a Service has no endpoint."""
    has_none = isinstance(where.known, ServicePort) and not where.known.endpoints
    none = f"the Service has no ready endpoint{f': {empty}' if empty else ''}"
    why = where.lacking or (none if has_none else "")
    because = f": {why}" if why else ""
    if expected is None or expected == "any":
        return f" (nothing is promised of it{because})" if expected == "any" or not is_fine else ""
    if not is_fine:
        return f", promised: {expected}"
    return "" if expected == "answer" else f", as promised{because}"


async def _find(network: PodNetwork, seen: Mapping[str, Any], source: Place, target: Target, question: Question) -> Where:
    """What the target means; a name is resolved by the source's own files and DNS."""
    protocol = question.protocol
    port = question.port or (DEFAULT_HTTP_PORT if question.http is not None else 0)
    if target.kind in ("svc", "lb"):
        return service_port(seen, source, target, protocol if protocol != "ICMP" else "", question.port)
    if target.kind == "ip":
        return Where(target.name, target.name, port, protocol)
    if target.kind == "nodeport":
        protocol = "TCP" if protocol == "ICMP" else protocol
        (first, *_) = node_ports(target, seen, question.port, protocol)
        return Where(first.title, _common(source, first.title, first.addresses)[0], first.port, protocol)
    if target.kind == "name":
        try:
            address = await network.resolve(target.name, source.versions)
        except OSError as error:
            raise UsageError(f"{source.title}: {error.strerror or error}") from None
        return Where(target.name, address, port, protocol)
    place = resolve(target, seen, is_destination=True)
    place = structs.replace(place, addresses=_common(source, place.title, place.addresses))
    return Where(place.title, place.address, port, protocol, place if protocol == "ICMP" else None)


def _common(source: Place, title: str, addresses: Sequence[str]) -> tuple[str, ...]:
    """The addresses of the families that the source has, too, its primary one first. Raises UsageError when there is none."""
    found = tuple(address for version in source.versions for address in addresses if ip_address(address).version == version)
    if not found:
        raise UsageError(f"{source.title} ({', '.join(source.addresses)}) and {title} ({', '.join(addresses)}) have no family in common")
    return found


def service_port(seen: Mapping[str, Any], source: Place, target: Target, protocol: str, port: int | None) -> Where:
    """A Service's port: the one named, else the first of the protocol; at its address of the source's first family that it has."""
    of_kind = [entry for entry in service_ports(seen) if entry.is_outside == (target.kind == "lb")]
    all_ports = [entry for entry in of_kind if (entry.namespace, entry.name) == (target.namespace, target.name)]
    ports = [entry for version in source.versions for entry in all_ports if ip_address(entry.address).version == version]
    if all_ports and not ports:
        raise UsageError(f"{source.title} and svc:{target.namespace}/{target.name} ({all_ports[0].address}) have no family in common")
    if not ports:
        _refuse_nameless(seen, target)
        known = sorted({f"{target.kind}:{entry.namespace}/{entry.name}" for entry in of_kind})
        what = "cluster IP" if target.kind == "svc" else "load balancer's address"
        raise UsageError(f"there is no Service {target.namespace}/{target.name} with a {what}; known: {', '.join(known) or 'none'}")
    fitting = [entry for entry in ports if (not protocol or entry.protocol == protocol) and (port is None or entry.port == port)]
    if fitting:
        return Where(fitting[0].title, fitting[0].address, fitting[0].port, fitting[0].protocol, fitting[0])
    missing = structs.replace(ports[0], port=port or ports[0].port, protocol=protocol or "TCP", endpoints=(), nodes=())
    has = ", ".join(dict.fromkeys(f"{entry.port}/{entry.protocol}" for entry in ports))
    lacking = f"the Service has no port {missing.port}/{missing.protocol}; it has {has}"
    behind = None if missing.is_outside else missing  # a load balancer's address is nobody's at other ports
    return Where(missing.title, missing.address, missing.port, missing.protocol, behind, lacking)


def _refuse_nameless(seen: Mapping[str, Any], target: Target) -> None:
    """Raises UsageError for a Service that has no address of its own and is reached by its name."""
    entry = service_named(seen, target.namespace, target.name)
    if entry is None or entry["cluster_ips"]:
        return
    what = "of type ExternalName" if entry["type"] == "ExternalName" else "headless"
    ports = [one["port"] for one in entry["endpoints"]] or [one["port"] for one in entry["ports"]]
    port = f" --{entry['ports'][0]['protocol'].lower()} {ports[0]}" if entry["ports"] else ""
    asked = f"kubenetlab ping SRC {target.name}.{target.namespace}{port}"
    raise UsageError(f"Service {target.namespace}/{target.name} is {what}, it has no address of its own; ask by its name: {asked}")


async def _get(network: PodNetwork, where: Where, path: str, deadline_s: float) -> tuple[Result, str, str]:
    """What came of it, what was said, and who said it."""
    begun = time.monotonic()
    try:
        answer = await network.get(where.address, where.port, path if path.startswith("/") else f"/{path}", deadline_s)
    except ConnectionRefusedError:
        return Result("refused"), "", ""
    except OSError as error:
        return Result("silence" if isinstance(error, TimeoutError) else "unreachable"), error.strerror or str(error), ""
    ms = (time.monotonic() - begun) * 1000
    said = {name.lower(): value for name, value in answer.headers.items()}
    namespace, _, name = said.get("x-kubenetlab-pod", "").partition("/")
    who = f"{namespace}/{name}" if namespace else f"ext:{name}" if name else ""
    seen_as = f"{who} answered and saw {said['x-kubenetlab-client']}\n" if who else ""
    return Result("answer", ms), f"{seen_as}{answer.status}: {answer.body.decode(errors='replace').strip()}", who


def _network(client: Client, source: Place, init_pid: int) -> PodNetwork:
    """The source's network, for this process: sockets made in its namespace, names by its files. For an ordinary user the way back
    from there is closed: whatever is to be asked of this machine comes before."""
    reply = client.enter(source.sandbox)
    for fd in reply.fds:
        os.close(fd)
    enter_lab(init_pid)
    return PodNetwork(
        Namespace(source.netns, open_namespace("net")), parse_resolver(reply.body["hosts"], reply.body["resolv_conf"], source.versions)
    )
