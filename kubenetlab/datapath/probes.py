"""Which questions the kubelet of a node asks its pods: startup, readiness and liveness of every container that should be running.

Every container is asked at least whether it is there. One without a readiness probe of its own is pinged: it says itself when it listens,
being one of the lab's own programs, and what is asked is whether packets get there. One that is a process of its own is asked by a TCP
connect to its first TCP port, and so is a built-in program in place of an exec probe, whose command it does not have.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Literal, get_args

from msgspec import Struct, structs

from kubenetlab.api.containers import Container, Probe
from kubenetlab.api.lab import HookKind, ProbeKind
from kubenetlab.api.pods import ContainerStatus, Pod
from kubenetlab.controllers.containers import should_run
from kubenetlab.controllers.killing import KILLING_PROBES
from kubenetlab.datapath.containers import Setups
from kubenetlab.datapath.view import NodeView, PodView
from kubenetlab.programs import COMMAND, Setup, is_process

USER_AGENT = "kube-probe/1.33"
FIRST_STEPS_S = 0.2
"""A real command without a probe of its own is Ready when it has lived so long: many that fail do so at once."""

FINAL_AFTER_S = 3.0
"""Programs of app workers listen from the beginning, and packets need milliseconds."""
FINAL_AFTER_START_S = 20.0
"""A program of the lab that is a process of its own will become ready. On a busy machine it waits some seconds for a processor."""


class ProbeSpec(Struct, frozen=True):
    """One question, asked again and again from the node to the pod's address; or a lifecycle hook, which is run once."""

    netns: str
    """The pod's sandbox."""
    container: str
    attempt: int
    kind: ProbeKind | HookKind
    node_netns: str
    """From where it is asked."""
    address: str
    method: Literal["tcp", "http", "grpc", "exec", "ping", "sleep", "none"]
    """sleep: of a hook, for `delay_s`. none: of a hook that Kubernetes cannot run."""
    port: int = 0
    path: str = "/"
    is_tls: bool = False
    """Of HTTP: HTTPS, with whatever certificate."""
    headers: tuple[tuple[str, str], ...] = ()
    service: str = ""
    """Of gRPC's health protocol."""
    command: tuple[str, ...] = ()
    """What is run inside a container whose own command is a real one."""
    period_s: float = 10.0
    timeout_s: float = 1.0
    failure_threshold: int = 3
    success_threshold: int = 1
    delay_s: float = 0.0
    """How long a real command is left alone first; stand-ins are there at once. Of the method `sleep` its length."""
    final_after_s: float = FINAL_AFTER_S
    """When it has failed for so long, and so often as its threshold says, more of the same is not expected to help."""
    is_implied: bool = False
    """True for the question that no manifest asks: it is asked until the answer is yes, and then no more."""

    @property
    def key(self) -> tuple[str, str, str]:
        return self.netns, self.container, self.kind

    @property
    def is_hook(self) -> bool:
        """True for a lifecycle hook."""
        return self.kind in get_args(HookKind)


def probes(
    node: NodeView, view: PodView, pod: Pod, setups: Setups, killed: Collection[str]
) -> Iterator[ProbeSpec]:
    """Yield the probes of one pod. initialDelaySeconds is waited for only where a real command could be ended too early.

    killed: containers that are killed when their preStop hook is over.
    """
    for container in pod.spec.long_running_containers:
        status = pod.container_status(container.name)
        if status is None or not should_run(status):
            continue
        what = setups[container.name]
        for kind in _asked(pod, container, status):
            if kind in KILLING_PROBES and container.name in killed:
                continue
            yield _spec(
                node, view, container, status.restart_count, kind, container.probe(kind), what
            )


def _asked(pod: Pod, container: Container, status: ContainerStatus) -> Iterator[ProbeKind]:
    """The kinds of probes that are asked now: none while a postStart hook runs, none but startup until that has been answered well.

    A pod that terminates is asked on whether it is ready. Source: k8s.io/kubernetes pkg/kubelet/prober/worker.go doProbe().
    """
    if pod.is_terminating:
        if container.readiness_probe is not None and status.state.running is not None:
            yield "readiness"
        return
    if container.lifecycle.post_start is not None and status.state.running is None:
        return
    if container.startup_probe is not None and not status.started:
        yield "startup"
        return
    yield "readiness"
    if container.liveness_probe is not None and status.state.running is not None:
        yield "liveness"


def describe(probe: Probe, *, is_real: bool) -> str:
    """A probe in a line, as `kubectl describe` has it, and what the lab makes of it where that differs: for all but real commands."""
    tail = f"timeout={probe.timeout_seconds}s period={probe.period_seconds}s #success={probe.success_threshold} #failure={probe.failure_threshold}"
    if probe.http_get is not None:
        return f"http-get {probe.http_get.scheme.lower()}://{probe.http_get.host}:{probe.http_get.port}{probe.http_get.path} {tail}"
    if probe.tcp_socket is not None:
        return f"tcp-socket {probe.tcp_socket.host}:{probe.tcp_socket.port} {tail}"
    if probe.grpc is not None:
        return f"grpc <pod>:{probe.grpc.port} {probe.grpc.service} {tail}".replace("  ", " ")
    note = (
        "" if is_real else " (of a built-in program: is it serving? by a connect to its first port)"
    )
    return f"exec {list(probe.exec.command) if probe.exec else []} {tail}{note}"


def describe_implied(program: str) -> str:
    """What is asked of a container without a readiness probe, in words."""
    return f"a {'connect to its first port' if _is_asked_by_connect(program) else 'ping'}: the lab's own question"


def _is_asked_by_connect(program: str) -> bool:
    """True for a program of the lab that does not say by itself when it listens."""
    return program != COMMAND and is_process(program)


def _spec(
    node: NodeView,
    view: PodView,
    container: Container,
    attempt: int,
    kind: ProbeKind,
    probe: Probe | None,
    what: Setup,
) -> ProbeSpec:
    address = view.addresses[0]
    base = ProbeSpec(
        view.netns,
        container.name,
        attempt,
        kind,
        node.netns,
        address,
        "ping",
        is_implied=probe is None,
    )
    first = next((listener.port for listener in what.listeners if listener.protocol == "TCP"), 0)
    asked: dict[str, object] = (
        {"method": "tcp", "port": first}
        if first and (probe is not None or _is_asked_by_connect(what.program))
        else {}
    )
    if _is_asked_by_connect(what.program):
        asked["final_after_s"] = FINAL_AFTER_START_S
    if probe is None and what.program == COMMAND:
        asked["delay_s"] = FIRST_STEPS_S
    if probe is not None:
        asked |= {
            "period_s": float(probe.period_seconds or 10),
            "timeout_s": float(probe.timeout_seconds or 1),
            "failure_threshold": probe.failure_threshold or 3,
            "success_threshold": probe.success_threshold or 1,
            "delay_s": float(probe.initial_delay_seconds)
            if what.program == COMMAND and kind != "readiness"
            else 0.0,
        }
        if probe.http_get is not None:
            action = probe.http_get
            headers = tuple((header.name, header.value) for header in action.http_headers)
            asked |= {
                "method": "http",
                "port": port_number(container, action.port),
                "path": action.path or "/",
                "headers": headers,
                "is_tls": action.scheme == "HTTPS",
                "address": action.host or address,
            }
        elif probe.tcp_socket is not None:
            asked |= {
                "method": "tcp",
                "port": port_number(container, probe.tcp_socket.port),
                "address": probe.tcp_socket.host or address,
            }
        elif probe.grpc is not None:
            asked |= {"method": "grpc", "port": probe.grpc.port, "service": probe.grpc.service}
        elif probe.exec is not None and what.program == COMMAND:
            asked |= {"method": "exec", "command": probe.exec.command}
    return structs.replace(base, **asked)


def port_number(container: Container, port: int | str) -> int:
    """Return the port of a probe or a hook; 0, which nobody can reach, for a name the container does not have."""
    if isinstance(port, int):
        return port
    return next((known.container_port for known in container.ports if known.name == port), 0)
