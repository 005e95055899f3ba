"""ping of one destination: by address, by Service, or by a name that the source resolves."""

from __future__ import annotations

import asyncio
import os
import shlex
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import structs

from kubenetlab.api.core import Service
from kubenetlab.cli.describe.services import explain_no_endpoints
from kubenetlab.cli.input.options import Output
from kubenetlab.cli.labs.diagnostics import assess
from kubenetlab.cli.policies import enforced_policies
from kubenetlab.cli.probing.doubts import Doubts, doubtful_objects
from kubenetlab.cli.terminal.output_documents import print_document
from kubenetlab.cli.terminal.printing import echo, hint, note, print_faults
from kubenetlab.cli.terminal.theme import BAD, GOOD, MUTED, paint
from kubenetlab.diagnostics.model import Connection
from kubenetlab.errors import RequirementError, UsageError
from kubenetlab.kernel.features.detection import has_sctp
from kubenetlab.kernel.namespaces.enter import enter_lab
from kubenetlab.kernel.syscalls import open_namespace
from kubenetlab.lab.client import Client
from kubenetlab.lab.paths import object_path
from kubenetlab.lab.runtime.pod_network import NetnsSocketFactory, PodSockets
from kubenetlab.names import socket_address
from kubenetlab.observe.connections import Ends
from kubenetlab.observe.destinations import (
    ResolvedDestination,
    expected_outcome,
    find,
    policy_reasons,
)
from kubenetlab.observe.drop_logs import logging_nodes
from kubenetlab.observe.expect import ServiceTarget, facts_of
from kubenetlab.observe.matrix import EXPECTED_OUTCOMES
from kubenetlab.observe.policies.reasons import lookup_denials
from kubenetlab.observe.probe_sockets import NO_SCTP
from kubenetlab.observe.prober import ProbeRequest, Result, run
from kubenetlab.observe.request import HTTP_ERROR, ProbeSpecification
from kubenetlab.observe.targets.grammar import Target, pod_title
from kubenetlab.observe.targets.locations import Location
from kubenetlab.observe.targets.lookups import service_named
from kubenetlab.observe.targets.meanings import resolve_name, service_of
from kubenetlab.programs.dns.resolver import parse as parse_resolver

if TYPE_CHECKING:
    from kubenetlab.observe.inspection import Inspection
    from kubenetlab.observe.policies.verdicts import PolicyVerdicts

VERBS = {"ICMP": "ping", "TCP": "connect", "UDP": "datagram", "SCTP": "associate"}
"""Word for a probe of each protocol."""
_RESULTS = {
    "answer": "answered",
    "refused": "refused",
    "unreachable": "unreachable",
    "silence": "no answer",
    "not testable": "not testable",
}
"""Text for each outcome of a probe."""


def find_destination(
    network: PodSockets,
    inspected: Inspection,
    source: Location,
    target: Target,
    request: ProbeSpecification,
    policies: PolicyVerdicts | None,
) -> ResolvedDestination:
    """Resolve the destination of a request, and print the object chosen for a bare name.

    Policies that deny the query of a failed lookup are part of the error.
    Raises RequirementError for SCTP if the kernel does not support it.
    """
    try:
        destination = asyncio.run(find(network, inspected, source, target, request))
    except UsageError as error:
        if denying := lookup_denials(policies, source, str(error)):
            raise UsageError("; ".join((str(error), *denying))) from None
        raise
    if denying := lookup_denials(policies, source, destination.unresolved):
        destination = structs.replace(destination, lookup_denials=tuple(denying))
    if destination.choice:
        note(destination.choice)
    if destination.protocol == "SCTP" and not destination.unresolved and not has_sctp():
        raise RequirementError(NO_SCTP)
    return destination


def ping_once(
    client: Client,
    inspected: Inspection,
    source: Location,
    target: Target,
    request: ProbeSpecification,
    *,
    deadline_s: float,
    allowed: Sequence[str] | None = None,
    output: Output,
) -> bool:
    """Send one probe and print its result; return True if it is as promised.

    Without a promise, any answer is a success. An HTTP status of 400 or above is a failure.
    The result is also False if an object that the lab does not enforce could change it, unless its
    kind is in `allowed`.
    """
    service = service_of(target, inspected, source)
    empty_reason = explain_empty(client, inspected, service)
    doubtful = doubtful_objects(client)
    policies = enforced_policies(client, inspected)
    facts = facts_of(inspected, policies)
    network = source_network(client, source)
    destination = find_destination(network, inspected, source, target, request, facts.policies)
    if destination.unresolved:
        return print_not_resolved(source, destination, output)
    server, status, content = "", 0, ""
    if request.http is not None:
        result, body, server, status, content = asyncio.run(
            _get(network, destination, request.http, deadline_s)
        )
    else:
        probe = ProbeRequest(source, destination.protocol, destination.address, destination.port)
        nodes = logging_nodes(inspected) if policies is not None else ()
        (result,), body = run([probe], deadline_s=deadline_s, nodes=nodes), ""
    expected = expected_outcome(source, destination, facts)
    reasons = policy_reasons(source, destination, facts)
    is_as_promised = (
        result.outcome in EXPECTED_OUTCOMES[expected or "answer"] and status < HTTP_ERROR
    )
    connection = connection_of(inspected, source, target, destination)
    doubts = Doubts(assess(doubtful, [connection], kinds=allowed))
    is_fine = is_as_promised and not doubts
    if output.is_data:
        print_document(
            {
                "from": source.title,
                "to": destination.title,
                "address": destination.address,
                "port": destination.port,
                "protocol": destination.protocol,
                "expected": expected,
                "found": result.outcome,
                "ms": round(result.ms, 3),
                "body": body,
                **(
                    {"http": {"status": status, "server": server, "body": content}}
                    if status
                    else {}
                ),
                **doubts.as_data(),
                "policies": reasons,
                "ok": is_fine,
            },
            output,
        )
        return is_fine
    address = (
        socket_address(destination.address, destination.port)
        if destination.port
        else destination.address
    )
    verb = "GET " + request.http if request.http is not None else VERBS[destination.protocol]
    verdict = (
        paint(_RESULTS[result.outcome], GOOD if is_as_promised else BAD)
        + (f" in {result.ms:.2f} ms" if result.outcome == "answer" else "")
        + (f", HTTP {status}" if status >= HTTP_ERROR else "")
        + describe_promise(destination, expected, empty_reason, reasons, is_fine=is_as_promised)
    )
    echo(
        f"{source.title} ({source.address}) → {destination.title} ({address}) "
        f"{paint(verb, MUTED)}: {verdict}"
    )
    for line in body.splitlines():
        echo(f"  {line}")
    doubts.show()
    if doubts.unenforced and is_as_promised and not doubts.duplicates:
        hint(doubts.how_to_enforce(f"kubenetlab ping {source.title} {target}"))
        return is_fine
    if not is_fine:
        print_faults(inspected["faults"])
    is_pod = "/" in server
    if empty_reason and is_fine and result.outcome != "answer":
        namespace, name = service or ("default", target.name)
        hint(
            f"kubenetlab describe svc {name}"
            + (f" -n {namespace}" if namespace != "default" else "")
        )
        return is_fine
    if not is_fine:
        hint(
            f"kubenetlab explain-policy {source.title} {shlex.quote(_explained(destination))}"
            if reasons
            else "kubenetlab diff"
            if expected not in (None, "any")
            else _about_destination(inspected, source, destination)
        )
    else:
        hint(f"kubenetlab logs {server}" if is_pod else "kubenetlab ping")
    return is_fine


def _explained(destination: ResolvedDestination) -> str:
    """Return a destination as `explain-policy` reads it."""
    address = socket_address(destination.address, destination.port)
    return (
        f"{address}/{destination.protocol}"
        if destination.port
        else f"{destination.address}/{destination.protocol}"
    )


def connection_of(
    inspected: Inspection, source: Location, target: Target, destination: ResolvedDestination
) -> Connection:
    """Return the objects at both ends of a request.

    The destination is identified by the target's name and by the resolved address.
    """
    return Ends(inspected).of_row(
        source,
        resolve_name(target, inspected, source).target.bare,
        destination.port,
        destination.address,
        destination.protocol,
    )


def _about_destination(
    inspected: Inspection, source: Location, destination: ResolvedDestination
) -> str:
    """Return a command that explains why a destination without a promise does not answer."""
    if destination.service is not None:
        kind, (namespace, name) = "svc", destination.service
    else:
        pods = {
            pod_title(pod["namespace"], pod["name"]): (pod["namespace"], pod["name"])
            for pod in inspected["pods"]
        }
        if destination.title not in pods:
            return f"kubenetlab exec {source.title} -- ip route get {destination.address}"
        kind, (namespace, name) = "pod", pods[destination.title]
    return f"kubenetlab describe {kind} {name}" + (
        f" -n {namespace}" if namespace != "default" else ""
    )


def print_not_resolved(source: Location, destination: ResolvedDestination, output: Output) -> bool:
    """Print that the source cannot resolve the name of one of the lab's Services; return False."""
    if output.is_data:
        print_document(
            {
                "from": source.title,
                "to": destination.title,
                "address": "",
                "port": destination.port,
                "protocol": destination.protocol,
                "expected": "answer",
                "found": "unresolved",
                "ms": 0.0,
                "body": destination.unresolved,
                "policies": list(destination.lookup_denials),
                "ok": False,
            },
            output,
        )
        return False
    echo(
        f"{source.title} ({source.address}) → {destination.title}: "
        f"{paint('not resolved', BAD)}: "
        + "; ".join((destination.unresolved, *destination.lookup_denials))
    )
    hint(
        f"kubenetlab explain-policy {source.title} svc:kube-system/kube-dns:53/UDP"
        if destination.lookup_denials
        else "kubenetlab get pods -n kube-system"
    )
    return False


def explain_empty(client: Client, inspected: Inspection, service: tuple[str, str] | None) -> str:
    """Return the reason why a Service has no ready endpoint; empty if it has one, or for None."""
    entry = service_named(inspected, *service) if service is not None else None
    if (
        entry is None
        or service is None
        or any(endpoint["ready"] for endpoint in entry["endpoints"])
    ):
        return ""
    return explain_no_endpoints(client, client.get(object_path(Service, *service)))


def describe_promise(
    destination: ResolvedDestination,
    expected: str | None,
    empty: str,
    policies: Sequence[str] = (),
    *,
    is_fine: bool,
) -> str:
    """Return the promise as text after a result; empty if the result makes it obvious.

    expected: the promised outcome; None if Kubernetes promises nothing about the destination.
    empty: reason why the Service has no ready endpoint.
    policies: effect of network policies on the connection.
    is_fine: True if the result is as promised.
    """
    has_none = isinstance(destination.known, ServiceTarget) and not destination.known.endpoints
    no_endpoint = f"the Service has no ready endpoint{f': {empty}' if empty else ''}"
    reason = destination.lacking or (no_endpoint if has_none else "") or "; ".join(policies)
    because = f": {reason}" if reason else ""
    if expected is None or expected == "any":
        if expected is None and is_fine:
            return ""
        if destination.port and destination.service is None and not reason:
            return (
                f" (Kubernetes does not promise that a program listens on port {destination.port}; "
                "to test the address alone, ping it without the port)"
            )
        return f" (Kubernetes promises nothing{because})"
    if not is_fine:
        return f", promised: {expected}" + (f": {'; '.join(policies)}" if policies else "")
    return "" if expected == "answer" else f", as promised{because}"


async def _get(
    network: PodSockets, destination: ResolvedDestination, path: str, deadline_s: float
) -> tuple[Result, str, str, int, str]:
    """Send a GET request; return the outcome, the answer as text, its server, status and body.

    The server is empty if the answer does not name it; the status is 0 without an answer.
    """
    started = time.monotonic()
    try:
        answer = await network.get(
            destination.address,
            destination.port,
            path if path.startswith("/") else f"/{path}",
            deadline_s,
        )
    except ConnectionRefusedError:
        return Result("refused"), "", "", 0, ""
    except OSError as error:
        return (
            Result("silence" if isinstance(error, TimeoutError) else "unreachable"),
            error.strerror or str(error),
            "",
            0,
            "",
        )
    ms = (time.monotonic() - started) * 1000
    headers = {name.lower(): value for name, value in answer.headers.items()}
    namespace, _, name = headers.get("x-kubenetlab-pod", "").partition("/")
    server = f"{namespace}/{name}" if namespace else f"ext:{name}" if name else ""
    seen_as = f"{server} answered and saw {headers['x-kubenetlab-client']}\n" if server else ""
    content = answer.body.decode(errors="replace")
    return (
        Result("answer", ms),
        f"{seen_as}{answer.status}: {content.strip()}",
        server,
        answer.status,
        content,
    )


def source_network(client: Client, source: Location) -> PodSockets:
    """Enter the lab and return the source's network: its sockets and its resolver.

    An unprivileged process cannot leave the lab again, so anything that needs this machine's
    namespaces must be done before.
    """
    reply = client.enter(source.sandbox)
    for fd in reply.fds:
        os.close(fd)
    enter_lab(client.open_init())
    return PodSockets(
        NetnsSocketFactory(source.netns_path, open_namespace("net")),
        parse_resolver(reply.body["hosts"], reply.body["resolv_conf"], source.versions),
    )
