"""Probes that the kubelet of a node runs: startup, readiness and liveness of each container.

Every container that should run has at least a readiness probe. If the manifest has none, it is a
ping: a built-in program reports itself when it listens, so that the ping only checks that packets
get there. A built-in program that is a process of its own is checked by a TCP connect to its first
TCP port. The same connect replaces an exec probe of any built-in program, which does not have the
probe's command.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Literal, get_args

from msgspec import Struct, structs

from kubenetlab.api.containers import Container, Probe
from kubenetlab.api.lab import HookKind, ProbeKind
from kubenetlab.api.pods import ContainerStatus, Pod
from kubenetlab.controllers.kubelet.containers import should_run
from kubenetlab.controllers.kubelet.killing import KILLING_PROBES
from kubenetlab.datapath.agents.health import AgentHealth
from kubenetlab.datapath.containers import Setups
from kubenetlab.datapath.pod_view import PodView
from kubenetlab.datapath.view import NodeView
from kubenetlab.programs import COMMAND, Setup, is_process

USER_AGENT = "kube-probe/1.33"
"""User-Agent header of HTTP probes."""
FIRST_STEPS_S = 0.2
"""Time that a real command without a readiness probe must run before it is Ready, in seconds.

Many commands that fail do so at once.
"""

FINAL_AFTER_S = 3.0
"""Time after which a failing probe of a built-in program is final, in seconds.

Programs of app workers listen from the beginning, and packets need milliseconds.
"""
FINAL_AFTER_START_S = 20.0
"""The same for a built-in program that is a process of its own, in seconds.

On a busy machine it may wait some seconds for a processor before it listens.
"""


class ProbeSpec(Struct, frozen=True):
    """A probe from a node to a pod, which is repeated, or a lifecycle hook, which runs once."""

    netns: str
    """Sandbox of the pod."""
    container: str
    attempt: int
    kind: ProbeKind | HookKind
    node_netns: str
    """Sandbox of the node that sends the probe."""
    address: str
    method: Literal["tcp", "http", "grpc", "exec", "ping", "agent", "sleep", "none"]
    """`agent`: the check of `health`. `sleep`: a hook that waits `delay_s`. `none`: a hook that
    Kubernetes cannot run."""
    port: int = 0
    path: str = "/"
    is_tls: bool = False
    """True for HTTPS. The certificate is not verified."""
    headers: tuple[tuple[str, str], ...] = ()
    service: str = ""
    """Service name in gRPC's health protocol."""
    command: tuple[str, ...] = ()
    """Command that runs inside a container whose own command is a real one."""
    period_s: float = 10.0
    timeout_s: float = 1.0
    failure_threshold: int = 3
    success_threshold: int = 1
    delay_s: float = 0.0
    """Time before the first probe of a real command; duration of the method `sleep`."""
    final_after_s: float = FINAL_AFTER_S
    """Time after which failures are final, in seconds: more probes are not expected to succeed.

    The failure threshold must be reached, too.
    """
    health: AgentHealth | None = None
    """State of the node that the method `agent` checks."""
    is_implied: bool = False
    """True for the probe that no manifest has: it is repeated until it succeeds, and then ends."""

    @property
    def key(self) -> tuple[str, str, str]:
        return self.netns, self.container, self.kind

    @property
    def is_hook(self) -> bool:
        """True for a lifecycle hook."""
        return self.kind in get_args(HookKind)


def probes(
    node: NodeView,
    view: PodView,
    pod: Pod,
    setups: Setups,
    killed: Collection[str],
    health: AgentHealth | None = None,
) -> Iterator[ProbeSpec]:
    """Yield the probes of one pod.

    initialDelaySeconds applies only where a probe could kill a real command too early.
    killed: containers that are killed when their preStop hook has finished.
    health: state of the node that is checked for an agent of the CNI plugin; None for other pods.
    """
    for container in pod.spec.long_running_containers:
        status = pod.container_status(container.name)
        if status is None or not should_run(status):
            continue
        setup_ = setups[container.name]
        for kind in _asked(pod, container, status):
            if kind in KILLING_PROBES and container.name in killed:
                continue
            spec = _spec(
                node, view, container, status.restart_count, kind, container.probe(kind), setup_
            )
            is_checked = health is not None and kind == "readiness" and not spec.is_implied
            yield _checking(spec, health) if is_checked else spec


def _checking(spec: ProbeSpec, health: AgentHealth | None) -> ProbeSpec:
    """Return the probe of an agent of the CNI plugin: a check of the state of its node."""
    return structs.replace(spec, method="agent", health=health, final_after_s=FINAL_AFTER_START_S)


def _asked(pod: Pod, container: Container, status: ContainerStatus) -> Iterator[ProbeKind]:
    """Yield the kinds of probes that run now.

    None runs while a postStart hook runs, and only the startup probe until it has succeeded. A pod
    that terminates keeps its readiness probe.
    Source: k8s.io/kubernetes pkg/kubelet/prober/worker.go doProbe().
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


def describe(probe: Probe, *, is_real: bool, is_agent: bool = False) -> str:
    """Return a probe as one line, as `kubectl describe` prints it.

    is_real: False adds a note where the lab runs something else, for an exec probe.
    is_agent: True for an agent of a CNI plugin.
    """
    tail = (
        f"timeout={probe.timeout_seconds}s period={probe.period_seconds}s "
        f"#success={probe.success_threshold} #failure={probe.failure_threshold}"
    )
    if (http := probe.http_get) is not None:
        return f"http-get {http.scheme.lower()}://{http.host}:{http.port}{http.path} {tail}"
    if probe.tcp_socket is not None:
        return f"tcp-socket {probe.tcp_socket.host}:{probe.tcp_socket.port} {tail}"
    if probe.grpc is not None:
        return f"grpc <pod>:{probe.grpc.port} {probe.grpc.service} {tail}".replace("  ", " ")
    note = ""
    if is_agent:
        note = " (the lab checks BGP sessions, VTEPs, keys and routes of the node)"
    elif not is_real:
        note = " (of a built-in program: is it serving? by a connect to its first port)"
    return f"exec {list(probe.exec.command) if probe.exec else []} {tail}{note}"


def describe_implied(program: str) -> str:
    """Describe the probe of a container without a readiness probe."""
    method = "connect to its first port" if _is_asked_by_connect(program) else "ping"
    return f"a {method}, added by the lab"


def _is_asked_by_connect(program: str) -> bool:
    """Return True for a program of the lab that does not report itself when it listens."""
    return program != COMMAND and is_process(program)


def _spec(
    node: NodeView,
    view: PodView,
    container: Container,
    attempt: int,
    kind: ProbeKind,
    probe: Probe | None,
    setup_: Setup,
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
    first = next((listener.port for listener in setup_.listeners if listener.protocol == "TCP"), 0)
    fields: dict[str, object] = (
        {"method": "tcp", "port": first}
        if first and (probe is not None or _is_asked_by_connect(setup_.program))
        else {}
    )
    if _is_asked_by_connect(setup_.program):
        fields["final_after_s"] = FINAL_AFTER_START_S
    if probe is None and setup_.program == COMMAND:
        fields["delay_s"] = FIRST_STEPS_S
    if probe is not None:
        fields |= {
            "period_s": float(probe.period_seconds or 10),
            "timeout_s": float(probe.timeout_seconds or 1),
            "failure_threshold": probe.failure_threshold or 3,
            "success_threshold": probe.success_threshold or 1,
            "delay_s": float(probe.initial_delay_seconds)
            if setup_.program == COMMAND and kind != "readiness"
            else 0.0,
        }
        if probe.http_get is not None:
            action = probe.http_get
            headers = tuple((header.name, header.value) for header in action.http_headers)
            fields |= {
                "method": "http",
                "port": port_number(container, action.port),
                "path": action.path or "/",
                "headers": headers,
                "is_tls": action.scheme == "HTTPS",
                "address": action.host or address,
            }
        elif probe.tcp_socket is not None:
            fields |= {
                "method": "tcp",
                "port": port_number(container, probe.tcp_socket.port),
                "address": probe.tcp_socket.host or address,
            }
        elif probe.grpc is not None:
            fields |= {"method": "grpc", "port": probe.grpc.port, "service": probe.grpc.service}
        elif probe.exec is not None and setup_.program == COMMAND:
            fields |= {"method": "exec", "command": probe.exec.command}
    return structs.replace(base, **fields)


def port_number(container: Container, port: int | str) -> int:
    """Return the port of a probe or hook.

    Return 0, which is not reachable, for a name that the container does not have.
    """
    if isinstance(port, int):
        return port
    return next(
        (declared.container_port for declared in container.ports if declared.name == port), 0
    )
