"""port-forward: a browser on this machine reaches the lab."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from kubenetlab.cli.input.options import Lab, Namespace
from kubenetlab.cli.terminal.printing import echo, hint, note

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kubenetlab.lab.client import Client
    from kubenetlab.lab.port_forwarding import ForwardedPort
    from kubenetlab.observe.forwarding import Forward, PortArgument
    from kubenetlab.observe.grammar import Target
    from kubenetlab.observe.locations import Location


def port_forward(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="\\[ns/]pod, deploy:\\[ns/]name or svc:\\[ns/]name (one of its pods; sts:, ds:, job:, rs: too), node:name or ext:name; with :PORT no other port is needed.",
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
            help="Where to listen; `localhost` is 127.0.0.1 and ::1.",
        ),
    ] = "127.0.0.1",
    namespace: Namespace = None,
    lab: Lab = None,
) -> None:
    """Relay TCP ports of this machine into a pod, a node or an external host. Example: kubenetlab port-forward svc:web 8080:80

    What arrives is connected to localhost inside, past Services and policies, as by kubectl. It goes on until Ctrl-C, or until the pod ends.
    """
    import asyncio

    from kubenetlab.errors import LabError
    from kubenetlab.kernel.namespaces.enter import enter_lab
    from kubenetlab.lab.client import choose
    from kubenetlab.lab.port_forwarding import Relay, listen
    from kubenetlab.observe.forwarding import parse_addresses, parse_ports

    asked, addresses = parse_ports(ports or ()), parse_addresses(address)
    client = choose(lab)
    seen = client.inspect()
    place, forwards = _aim(client, seen, target, namespace, asked)
    (pidfd,) = client.enter(place.sandbox).fds
    listeners = listen(
        addresses, forwards
    )  # in this machine's network, so before an ordinary user's process goes into the lab
    enter_lab(client.open_init())

    def ready() -> None:
        for listener in listeners:
            echo(f"Forwarding from {listener.title} -> {listener.remote}")
        hint(f"curl http://{listeners[0].title}/ (Ctrl-C ends this)")

    def handling(listener: ForwardedPort) -> None:
        if _is_read(sys.stdout):
            echo(f"Handling connection for {listener.local}")

    def failed(listener: ForwardedPort, error: OSError) -> None:
        if _is_read(sys.stderr):
            reason = os.strerror(error.errno or 0).lower()
            note(
                f"{listener.local} -> {listener.remote}: cannot connect to localhost:{listener.remote} in {place.title}: {reason}"
            )

    async def relay() -> bool:
        return await Relay(listeners, pidfd, on_connection=handling, on_failure=failed).run(ready)

    if not asyncio.run(relay()):
        kind = "pod " if place.kind == "pod" else ""
        raise LabError(
            f"lost connection to {kind}{place.title}: it has ended; what runs now: kubenetlab get pods -A"
        )
    note(f"stopped: nothing is forwarded to {place.title} any more")


def _aim(
    client: Client, seen: Any, target: str, namespace: str | None, asked: Sequence[PortArgument]
) -> tuple[Location, list[Forward]]:
    """Into what the ports lead, and to which numbers there. Says which pod stands for a Service or a workload."""
    from kubenetlab.api.core import Service
    from kubenetlab.api.pods import Pod
    from kubenetlab.errors import UsageError, did_you_mean
    from kubenetlab.observe.forwarding import service_pod, to_host, to_pod, to_service
    from kubenetlab.observe.grammar import WORKLOADS, Target
    from kubenetlab.observe.meanings import service_of
    from kubenetlab.observe.targets import read, resolve

    wanted = read(target, seen, namespace)
    service_name = service_of(wanted, seen)
    if service_name is not None:
        wanted = Target("svc", *service_name, wanted.port)
    asked = _with_target_port(wanted, asked)
    if wanted.kind == "svc":
        known = [
            entry["name"] for entry in seen["services"] if entry["namespace"] == wanted.namespace
        ]
        if wanted.name not in known:
            raise UsageError(
                f"there is no Service {wanted.namespace}/{wanted.name}{did_you_mean(wanted.name, known)}"
            )
        service = _one(client, Service, wanted.namespace, wanted.name)
        backend = service_pod(service, _all(client, Pod, wanted.namespace), seen)
        place = resolve(Target("pod", backend.namespace, backend.name), seen)
        forwards = [to_service(port, service, backend) for port in asked]
    else:
        place = resolve(wanted, seen, is_destination=True)
        pod = _one(client, Pod, place.namespace, place.name) if place.kind == "pod" else None
        forwards = [
            to_pod(port, pod) if pod is not None else to_host(port, place.title) for port in asked
        ]
    if wanted.kind in ("svc", *WORKLOADS):
        note(f"{wanted.bare}: its pod {place.title}")
    return place, forwards


def _with_target_port(target: Target, asked: Sequence[PortArgument]) -> Sequence[PortArgument]:
    """Return the ports to forward; the target's own port where no port is given. Raises UsageError for none, and for both."""
    from kubenetlab.errors import UsageError
    from kubenetlab.observe.forwarding import PortArgument

    if target.port is None and not asked:
        raise UsageError(f"which port of {target}? Give [LOCAL:]PORT, such as 8080:80")
    if target.port is None:
        return asked
    if asked:
        raise UsageError(
            f"{target} has the port {target.port}, and other ports are given; give one of them"
        )
    if target.protocol not in (None, "TCP"):
        raise UsageError(f"{target}: {target.protocol} cannot be forwarded, only TCP can")
    return [PortArgument(str(target.port))]


def _one(client: Client, kind: Any, namespace: str, name: str) -> Any:
    from kubenetlab.api.load import decode_object
    from kubenetlab.lab.paths import object_path

    return decode_object(client.get(object_path(kind, namespace, name)), kind).value


def _all(client: Client, kind: Any, namespace: str) -> list[Any]:
    from kubenetlab.api.load import decode_object
    from kubenetlab.lab.paths import kind_path

    return [
        decode_object(item, kind).value for item in client.get(kind_path(kind, namespace))["items"]
    ]


def _is_read(stream: TextIO) -> bool:
    """False while whoever reads our words lags behind: what is relayed does not wait for them."""
    import select

    return bool(select.select([], [stream], [], 0)[1])
