"""port-forward: make TCP ports inside the lab reachable from this machine."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated, TextIO, TypeVar

import typer

from kubenetlab.cli.input.options import Lab, Namespace
from kubenetlab.cli.terminal.printing import echo, hint, note

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kubenetlab.api.json_types import JsonObject
    from kubenetlab.api.meta import Resource
    from kubenetlab.lab.client import Client
    from kubenetlab.lab.port_forwarding import ForwardedPort
    from kubenetlab.observe.forwarding import Forward, PortArgument
    from kubenetlab.observe.inspection import Inspection
    from kubenetlab.observe.targets.grammar import Target
    from kubenetlab.observe.targets.locations import Location

ResourceT = TypeVar("ResourceT", bound="Resource")


def port_forward(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help=(
                "Pod (\\[ns/]name), node:name, ext:name, or svc:\\[ns/]name, deploy:\\[ns/]name, "
                "sts:, ds:, job:, rs: for one of their pods. May end with :PORT."
            ),
            show_default=False,
        ),
    ],
    ports: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[LOCAL:]PORT…",
            help="TCP ports by number or name; `:80` takes any free local port.",
            show_default=False,
        ),
    ] = None,
    address: Annotated[
        str,
        typer.Option(
            "--address",
            metavar="ADDRESS,…",
            help="Local addresses to listen on; `localhost` is 127.0.0.1 and ::1.",
        ),
    ] = "127.0.0.1",
    namespace: Namespace = None,
    lab: Lab = None,
) -> None:
    """Forward TCP ports of this machine into a pod, a node or an external host.

    As with kubectl, connections go to localhost inside the target and bypass
    Services and network policies. The command runs until Ctrl-C, or until the
    pod ends.

    Example: kubenetlab port-forward svc:web 8080:80
    """
    import asyncio

    from kubenetlab.errors import LabError
    from kubenetlab.kernel.namespaces.enter import enter_lab
    from kubenetlab.lab.client import select_lab
    from kubenetlab.lab.port_forwarding import Relay, listen
    from kubenetlab.observe.forwarding import parse_addresses, parse_ports

    port_arguments, addresses = parse_ports(ports or ()), parse_addresses(address)
    client = select_lab(lab)
    inspected = client.inspect()
    location, forwards = _resolve_target(client, inspected, target, namespace, port_arguments)
    (pidfd,) = client.enter(location.sandbox).fds
    # Listen before entering the lab: an unprivileged process cannot return to this machine's
    # network.
    listeners = listen(addresses, forwards)
    enter_lab(client.open_init())

    def ready() -> None:
        for listener in listeners:
            echo(f"Forwarding from {listener.title} -> {listener.remote}")
        hint(f"curl http://{listeners[0].title}/ (Ctrl-C ends this)")

    def on_connection(listener: ForwardedPort) -> None:
        if _is_writable(sys.stdout):
            echo(f"Handling connection for {listener.local}")

    def on_failure(listener: ForwardedPort, error: OSError) -> None:
        if _is_writable(sys.stderr):
            reason = os.strerror(error.errno or 0).lower()
            note(
                f"{listener.local} -> {listener.remote}: cannot connect to "
                f"localhost:{listener.remote} in {location.title}: {reason}"
            )

    async def relay() -> bool:
        forwarding = Relay(listeners, pidfd, on_connection=on_connection, on_failure=on_failure)
        return await forwarding.run(ready)

    if not asyncio.run(relay()):
        kind = "pod " if location.kind == "pod" else ""
        raise LabError(
            f"lost connection to {kind}{location.title}: it has ended; see: kubenetlab get pods -A"
        )
    note(f"stopped forwarding to {location.title}")


def _resolve_target(
    client: Client,
    inspected: Inspection,
    target: str,
    namespace: str | None,
    port_arguments: Sequence[PortArgument],
) -> tuple[Location, list[Forward]]:
    """Return the target of the connections, and local and remote port numbers.

    Prints the pod that was chosen for a Service or a workload.
    """
    from kubenetlab.api.core import Service
    from kubenetlab.api.pods import Pod
    from kubenetlab.errors import UsageError, did_you_mean
    from kubenetlab.observe.forwarding import service_pod, to_host, to_pod, to_service
    from kubenetlab.observe.targets.grammar import WORKLOADS, Target
    from kubenetlab.observe.targets.meanings import service_of
    from kubenetlab.observe.targets.resolution import read, resolve

    parsed = read(target, inspected, namespace)
    service_name = service_of(parsed, inspected)
    if service_name is not None:
        parsed = Target("svc", *service_name, parsed.port)
    port_arguments = _with_target_port(parsed, port_arguments)
    if parsed.kind == "svc":
        known = [
            entry["name"]
            for entry in inspected["services"]
            if entry["namespace"] == parsed.namespace
        ]
        if parsed.name not in known:
            raise UsageError(
                f"there is no Service {parsed.namespace}/{parsed.name}"
                f"{did_you_mean(parsed.name, known)}"
            )
        service = _get_object(client, Service, parsed.namespace, parsed.name)
        backend = service_pod(service, _get_objects(client, Pod, parsed.namespace), inspected)
        location = resolve(Target("pod", backend.namespace, backend.name), inspected)
        forwards = [to_service(port, service, backend) for port in port_arguments]
    else:
        location = resolve(parsed, inspected, is_destination=True)
        pod = (
            _get_object(client, Pod, location.namespace, location.name)
            if location.kind == "pod"
            else None
        )
        forwards = [
            to_pod(port, pod) if pod is not None else to_host(port, location.title)
            for port in port_arguments
        ]
    if parsed.kind in ("svc", *WORKLOADS):
        note(f"{parsed.bare}: its pod {location.title}")
    return location, forwards


def _with_target_port(
    target: Target, port_arguments: Sequence[PortArgument]
) -> Sequence[PortArgument]:
    """Return the ports to forward: those given, or else the port of the target.

    Raises UsageError if neither or both are given, and for a protocol other than TCP.
    """
    from kubenetlab.errors import UsageError
    from kubenetlab.observe.forwarding import PortArgument

    if target.port is None and not port_arguments:
        raise UsageError(f"no port of {target} is given: add [LOCAL:]PORT, for example 8080:80")
    if target.port is None:
        return port_arguments
    if port_arguments:
        raise UsageError(
            f"{target} contains port {target.port}, and other ports are given; give only one"
        )
    if target.protocol not in (None, "TCP"):
        raise UsageError(f"{target}: {target.protocol} cannot be forwarded, only TCP can")
    return [PortArgument(str(target.port))]


def _get_object(client: Client, kind: type[ResourceT], namespace: str, name: str) -> ResourceT:
    from kubenetlab.lab.paths import object_path

    return _decode(client.get(object_path(kind, namespace, name)), kind)


def _get_objects(client: Client, kind: type[ResourceT], namespace: str) -> list[ResourceT]:
    from kubenetlab.lab.paths import kind_path

    return [_decode(item, kind) for item in client.get(kind_path(kind, namespace))["items"]]


def _decode(document: JsonObject, kind: type[ResourceT]) -> ResourceT:
    """Decode an object of the lab. Raises LabError if this version does not understand it."""
    from kubenetlab.api.manifests.objects import decode_object
    from kubenetlab.errors import LabError

    obj = decode_object(document, kind).value
    if not isinstance(obj, kind):
        raise LabError(
            f"{kind.kind} {document['metadata']['name']} of the lab cannot be read; "
            "use the version of kubenetlab that made the lab"
        )
    return obj


def _is_writable(stream: TextIO) -> bool:
    """Return False if writing would block: a slow reader of messages must not delay forwarding."""
    import select

    return bool(select.select([], [stream], [], 0)[1])
