"""Container: one program of a pod, its ports and probes.

Source: k8s.io/api core/v1/types.go (1.33).
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta

from kubenetlab.api.environment import EnvFromSource, EnvVar
from kubenetlab.api.meta import Record, Unmodelled
from kubenetlab.api.quantity import Quantity

Protocol = Literal["TCP", "UDP", "SCTP"]
MAX_PORT = 65535
Port = Annotated[int, Meta(ge=1, le=MAX_PORT, title="a port number")]
PortOrName = Port | Annotated[str, Meta(min_length=1, title="a port name")]


class ContainerPort(Record, frozen=True):
    """A port on which a container says it listens."""

    container_port: Port
    name: str = ""
    """What Services and probes may call it."""
    protocol: Protocol = "TCP"
    host_port: Annotated[int, Meta(ge=0, le=65535, title="a port number")] = 0
    """The port of its node that it takes."""
    host_ip: str = ""
    """The address of its node at which it takes `hostPort`; all without it."""


class HTTPHeader(Record, frozen=True):
    """One header that a probe sends."""

    name: str
    value: str = ""


class HTTPGetAction(Record, frozen=True):
    """A probe that wants an answer from 200 to 399."""

    port: PortOrName
    path: str = "/"
    host: str = ""
    scheme: Literal["HTTP", "HTTPS"] = "HTTP"
    http_headers: tuple[HTTPHeader, ...] = ()


class TCPSocketAction(Record, frozen=True):
    """A probe that wants a connection."""

    port: PortOrName
    host: str = ""


class GRPCAction(Record, frozen=True):
    """A probe by gRPC's health protocol."""

    port: Port
    service: str = ""


class ExecAction(Record, frozen=True):
    """A probe by a command in the container."""

    command: tuple[str, ...] = ()


NotNegative = Annotated[int, Meta(ge=0)]


class Probe(Record, frozen=True):
    """A question that the node's kubelet asks a container, again and again."""

    http_get: HTTPGetAction | None = None
    tcp_socket: TCPSocketAction | None = None
    grpc: GRPCAction | None = None
    exec: ExecAction | None = None
    initial_delay_seconds: NotNegative = 0
    """Not waited for: programs start at once here."""
    period_seconds: NotNegative = 10
    timeout_seconds: NotNegative = 1
    success_threshold: NotNegative = 1
    failure_threshold: NotNegative = 3
    termination_grace_period_seconds: Unmodelled = None


class SleepAction(Record, frozen=True):
    """A pause."""

    seconds: NotNegative


class LifecycleHandler(Record, frozen=True):
    """Action of a lifecycle hook. Exactly one field is set."""

    exec: ExecAction | None = None
    """A command in the container. Of a built-in program, which has no command, only `sleep` is waited for."""
    http_get: HTTPGetAction | None = None
    """A request from the node; any answer will do."""
    sleep: SleepAction | None = None
    tcp_socket: TCPSocketAction | None = None
    """Accepted by Kubernetes, and fails when it is run."""


class Lifecycle(Record, frozen=True):
    """Hooks after a container has started, and before it is told to end."""

    post_start: LifecycleHandler | None = None
    """Until it is done the container does not count as running; when it fails the container is killed."""
    pre_stop: LifecycleHandler | None = None
    """The container runs on meanwhile, within terminationGracePeriodSeconds."""
    stop_signal: Unmodelled = None


class Capabilities(Record, frozen=True):
    """What a real command may do more, or less, than others; `ALL` stands for every one."""

    add: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()


class SecurityContext(Record, frozen=True):
    """How a real command is confined."""

    capabilities: Capabilities = Capabilities()
    """Of the network's can be added: NET_ADMIN, NET_BROADCAST."""

    allow_privilege_escalation: Unmodelled = None
    app_armor_profile: Unmodelled = None
    privileged: Unmodelled = None
    proc_mount: Unmodelled = None
    read_only_root_filesystem: Unmodelled = None
    run_as_group: Unmodelled = None
    run_as_non_root: Unmodelled = None
    run_as_user: Unmodelled = None
    se_linux_options: Unmodelled = None
    seccomp_profile: Unmodelled = None
    windows_options: Unmodelled = None


class ResourceRequirements(Record, frozen=True):
    """Resource limits and requests of a container."""

    limits: Mapping[str, Quantity] = {}
    """The lab enforces `memory` for real commands: a command that exceeds it is killed."""
    requests: Mapping[str, Quantity] = {}
    """Validated; nothing is reserved."""
    claims: Unmodelled = None


class Container(Record, frozen=True):
    """One program of a pod: an image, arguments, ports, probes."""

    name: str
    image: str = ""
    """Decides which built-in program stands in; nothing is pulled."""
    command: tuple[str, ...] = ()
    """Run as it stands where real commands are asked for; else read, with `args` and `env`, by those that stand in for agnhost,
    http-echo and coredns."""
    args: tuple[str, ...] = ()
    ports: tuple[ContainerPort, ...] = ()
    """Any image without a stand-in of its own serves these."""
    env: tuple[EnvVar, ...] = ()
    env_from: tuple[EnvFromSource, ...] = ()
    readiness_probe: Probe | None = None
    """Without one a container is ready once it listens."""
    liveness_probe: Probe | None = None
    """A container that fails it is started again."""
    startup_probe: Probe | None = None
    security_context: SecurityContext | None = None
    restart_policy: Literal["Always"] | None = None
    """Of an init container: `Always` makes it a sidecar."""

    lifecycle: Lifecycle = Lifecycle()
    resources: ResourceRequirements | None = None

    image_pull_policy: Unmodelled = None
    resize_policy: Unmodelled = None
    restart_policy_rules: Unmodelled = None
    stdin: Unmodelled = None
    stdin_once: Unmodelled = None
    termination_message_path: Unmodelled = None
    termination_message_policy: Unmodelled = None
    tty: Unmodelled = None
    volume_devices: Unmodelled = None
    volume_mounts: Unmodelled = None
    working_dir: str = ""
    """Of a real command."""

    @property
    def is_sidecar(self) -> bool:
        """True for an init container that goes on running beside the others."""
        return self.restart_policy == "Always"

    def probe(self, kind: str) -> Probe | None:
        """Its probe of a kind: startup, readiness or liveness."""
        found: Probe | None = getattr(self, f"{kind}_probe")
        return found
