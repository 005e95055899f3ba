"""ping from one place to another: by address, by Service, or by a name that the source itself resolves."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from kubenetlab.api.core import Service
from kubenetlab.cli.describe.services import explain_no_endpoints
from kubenetlab.cli.input.options import Output
from kubenetlab.cli.labs.diagnostics import (
    AssessedDiagnostic,
    abbreviate,
    assess,
    unenforced_objects,
)
from kubenetlab.cli.terminal.printing import BAD, DIM, GOOD, echo, hint, note, paint, print_data
from kubenetlab.diagnostics.model import Connection
from kubenetlab.errors import RequirementError
from kubenetlab.kernel.features.detection import has_sctp
from kubenetlab.kernel.namespaces.enter import enter_lab
from kubenetlab.kernel.syscalls import open_namespace
from kubenetlab.lab.client import Client
from kubenetlab.lab.paths import object_path
from kubenetlab.lab.runtime.pod_network import NetnsSocketFactory, PodSockets
from kubenetlab.names import socket_address
from kubenetlab.observe.connections import Ends
from kubenetlab.observe.destinations import ResolvedDestination, find
from kubenetlab.observe.expect import ServiceTarget, expect, world
from kubenetlab.observe.grammar import Target, pod_title
from kubenetlab.observe.locations import Location
from kubenetlab.observe.lookups import service_named
from kubenetlab.observe.matrix import FITS
from kubenetlab.observe.meanings import meaning, service_of
from kubenetlab.observe.prober import ProbeRequest, Result, run
from kubenetlab.observe.request import HTTP_ERROR, ProbeSpecification
from kubenetlab.programs.resolver import parse as parse_resolver

VERBS = {"ICMP": "ping", "TCP": "connect", "UDP": "datagram", "SCTP": "associate"}


def find_destination(
    network: PodSockets,
    seen: Mapping[str, Any],
    source: Location,
    target: Target,
    request: ProbeSpecification,
) -> ResolvedDestination:
    """Return where a request goes, and print which object was chosen for a bare name. Raises RequirementError without SCTP."""
    where = asyncio.run(find(network, seen, source, target, request))
    if where.choice:
        note(where.choice)
    if where.protocol == "SCTP" and not where.unresolved and not has_sctp():
        raise RequirementError(
            "this kernel has no SCTP: sudo modprobe sctp, or see kubenetlab doctor"
        )
    return where


def ping_once(
    client: Client,
    seen: Mapping[str, Any],
    source: Location,
    target: Target,
    request: ProbeSpecification,
    *,
    deadline_s: float,
    allowed: Sequence[str] | None = None,
    output: Output,
) -> bool:
    """Send one probe and print its result; return True when it is as promised (or an answer, where nothing is promised).

    An HTTP answer with a status of 400 or above is a failure, as for many requests and in tables.

    An object that the lab does not enforce, whose kind is not in `allowed`, and that could change this result makes it False.
    """
    service = service_of(target, seen, source)
    why = explain_empty(client, seen, service)
    unenforced = unenforced_objects(client)
    network = source_network(client, source)
    where = find_destination(network, seen, source, target, request)
    if where.unresolved:
        return print_not_resolved(source, where, output)
    who, status = "", 0
    if request.http is not None:
        result, body, who, status = asyncio.run(_get(network, where, request.http, deadline_s))
    else:
        probe = ProbeRequest(source, where.protocol, where.address, where.port)  # type: ignore[arg-type]
        (result,), body = run([probe], deadline_s=deadline_s), ""
    expected = expect(source, where.known, world(seen)) if where.known is not None else None
    is_as_promised = result.outcome in FITS[expected or "answer"] and status < HTTP_ERROR
    judged = assess(unenforced, [connection_of(seen, source, target, where)], kinds=allowed)
    doubts = [
        ping_once.diagnostic.title
        for ping_once in judged
        if ping_once.affected and not ping_once.is_accepted
    ]
    is_fine = is_as_promised and not doubts
    if output.is_data:
        print_data(
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
    how = "GET " + request.http if request.http is not None else VERBS[where.protocol]
    words = {
        "answer": "answered",
        "refused": "refused",
        "unreachable": "no way there",
        "silence": "silence",
    }
    verdict = (
        paint(words[result.outcome], GOOD if is_as_promised else BAD)
        + (f" in {result.ms:.2f} ms" if result.outcome == "answer" else "")
        + (f", HTTP {status}" if status >= HTTP_ERROR else "")
        + describe_promise(where, expected, why, is_fine=is_as_promised)
    )
    echo(f"{source.title} ({source.address}) → {where.title} ({at}) {paint(how, DIM)}: {verdict}")
    for line in body.splitlines():
        echo(f"  {line}")
    if doubts:
        echo(
            f"{paint('✗', BAD)} not enforced by this lab, and could change this: {abbreviate(doubts)}"
        )
        if is_as_promised:
            hint(
                f"kubenetlab ping {source.title} {target} --allow-unmodelled {first_unaccepted_kind(judged)}"
            )
            return is_fine
    is_pod = "/" in who
    if why and is_fine and result.outcome != "answer":
        namespace, name = service or ("default", target.name)
        hint(
            f"kubenetlab describe svc {name}"
            + (f" -n {namespace}" if namespace != "default" else "")
        )
        return is_fine
    if not is_fine:
        hint(
            "kubenetlab diff"
            if expected not in (None, "any")
            else _about_destination(seen, source, where)
        )
    else:
        hint(f"kubenetlab logs {who}" if is_pod else "kubenetlab ping")
    return is_fine


def connection_of(
    seen: Mapping[str, Any], source: Location, target: Target, where: ResolvedDestination
) -> Connection:
    """Return the objects at both ends of a request: by the target's name, and by the address to which that leads."""
    return Ends(seen).of_row(
        source, meaning(target, seen, source).target.bare, where.port, where.address, where.protocol
    )


def _about_destination(
    seen: Mapping[str, Any], source: Location, where: ResolvedDestination
) -> str:
    """Return the command that shows why a destination does not answer of which nothing is promised."""
    if where.service is not None:
        kind, (namespace, name) = "svc", where.service
    else:
        pods = {
            pod_title(pod["namespace"], pod["name"]): (pod["namespace"], pod["name"])
            for pod in seen["pods"]
        }
        if where.title not in pods:
            return f"kubenetlab exec {source.title} -- ip route get {where.address}"
        kind, (namespace, name) = "pod", pods[where.title]
    return f"kubenetlab describe {kind} {name}" + (
        f" -n {namespace}" if namespace != "default" else ""
    )


def print_not_resolved(source: Location, where: ResolvedDestination, output: Output) -> bool:
    """Print that DNS does not give the address of a Service of the lab; return False."""
    if output.is_data:
        found = {
            "from": source.title,
            "to": where.title,
            "address": "",
            "port": where.port,
            "protocol": where.protocol,
        }
        print_data(
            {
                **found,
                "expected": "answer",
                "found": "unresolved",
                "ms": 0.0,
                "body": where.unresolved,
                "ok": False,
            },
            output,
        )
        return False
    echo(
        f"{source.title} ({source.address}) → {where.title}: {paint('not resolved', BAD)}: {where.unresolved}"
    )
    hint("kubenetlab get pods -n kube-system")
    return False


def explain_empty(client: Client, seen: Mapping[str, Any], service: tuple[str, str] | None) -> str:
    """Say why a Service has no ready endpoint; empty where it has some, or where there is no Service."""
    entry = service_named(seen, *service) if service is not None else None
    if (
        entry is None
        or service is None
        or any(endpoint["ready"] for endpoint in entry["endpoints"])
    ):
        return ""
    return explain_no_endpoints(client, client.get(object_path(Service, *service)))


def first_unaccepted_kind(judged: Sequence[AssessedDiagnostic]) -> str:
    """Return the kind of the first object that is neither enforced nor accepted and that could change the result."""
    return next(
        ping_once.diagnostic.kind.partition(".")[0]
        for ping_once in judged
        if ping_once.affected and not ping_once.is_accepted
    )


def describe_promise(
    where: ResolvedDestination, expected: str | None, empty: str, *, is_fine: bool
) -> str:
    """Return the promised outcome, where it is not plain from the result; `empty` is why a Service has no endpoint."""
    has_none = isinstance(where.known, ServiceTarget) and not where.known.endpoints
    none = f"the Service has no ready endpoint{f': {empty}' if empty else ''}"
    why = where.lacking or (none if has_none else "")
    because = f": {why}" if why else ""
    if expected is None or expected == "any":
        return f" (nothing is promised of it{because})" if expected == "any" or not is_fine else ""
    if not is_fine:
        return f", promised: {expected}"
    return "" if expected == "answer" else f", as promised{because}"


async def _get(
    network: PodSockets, where: ResolvedDestination, path: str, deadline_s: float
) -> tuple[Result, str, str, int]:
    """Return the outcome of a GET, its answer as text, the server that names itself, and the HTTP status; 0 without an answer."""
    begun = time.monotonic()
    try:
        answer = await network.get(
            where.address, where.port, path if path.startswith("/") else f"/{path}", deadline_s
        )
    except ConnectionRefusedError:
        return Result("refused"), "", "", 0
    except OSError as error:
        return (
            Result("silence" if isinstance(error, TimeoutError) else "unreachable"),
            error.strerror or str(error),
            "",
            0,
        )
    ms = (time.monotonic() - begun) * 1000
    said = {name.lower(): value for name, value in answer.headers.items()}
    namespace, _, name = said.get("x-kubenetlab-pod", "").partition("/")
    who = f"{namespace}/{name}" if namespace else f"ext:{name}" if name else ""
    seen_as = f"{who} answered and saw {said['x-kubenetlab-client']}\n" if who else ""
    return (
        Result("answer", ms),
        f"{seen_as}{answer.status}: {answer.body.decode(errors='replace').strip()}",
        who,
        answer.status,
    )


def source_network(client: Client, source: Location) -> PodSockets:
    """Enter the lab and return the source's network: sockets of its namespace, names resolved by its files.

    An unprivileged process cannot leave the lab again: call everything that needs the machine before.
    """
    reply = client.enter(source.sandbox)
    for fd in reply.fds:
        os.close(fd)
    enter_lab(client.open_init())
    return PodSockets(
        NetnsSocketFactory(source.netns, open_namespace("net")),
        parse_resolver(reply.body["hosts"], reply.body["resolv_conf"], source.versions),
    )
