"""Container: a program of a pod with its ports, probes and hooks.

Source: k8s.io/api core/v1/types.go (1.33).
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta

from kubenetlab.api.environment import EnvFromSource, EnvVar
from kubenetlab.api.meta import Record, Unmodelled
from kubenetlab.api.values.quantity import Quantity

Protocol = Literal["TCP", "UDP", "SCTP"]
MAX_PORT = 65535
Port = Annotated[int, Meta(ge=1, le=MAX_PORT, title="a port number")]
PortOrName = Port | Annotated[str, Meta(min_length=1, title="a port name")]


class ContainerPort(Record, frozen=True):
    """Port that a container declares to listen on."""

    container_port: Port
    """Port number inside the pod."""
    name: str = ""
    """Name by which Services and probes can refer to the port."""
    protocol: Protocol = "TCP"
    """IP protocol of the port."""
    host_port: Annotated[int, Meta(ge=0, le=65535, title="a port number")] = 0
    """Port of the node that leads to the container. None if it is 0."""
    host_ip: str = ""
    """Address of the node at which `hostPort` is published. All addresses if empty."""


class HTTPHeader(Record, frozen=True):
    """Header of an HTTP request."""

    name: str
    """Name of the header."""
    value: str = ""
    """Value of the header."""


class HTTPGetAction(Record, frozen=True):
    """HTTP GET request of a probe or hook. A probe succeeds with a status from 200 to 399."""

    port: PortOrName
    """Number or name of the port."""
    path: str = "/"
    """Path of the request."""
    host: str = ""
    """Host to connect to. Defaults to the address of the pod."""
    scheme: Literal["HTTP", "HTTPS"] = "HTTP"
    """Scheme of the request. The certificate is not verified."""
    http_headers: tuple[HTTPHeader, ...] = ()
    """Additional headers of the request."""


class TCPSocketAction(Record, frozen=True):
    """TCP connection of a probe. It succeeds if the connection is established."""

    port: PortOrName
    """Number or name of the port."""
    host: str = ""
    """Host to connect to. Defaults to the address of the pod."""


class GRPCAction(Record, frozen=True):
    """Call of the gRPC health checking protocol."""

    port: Port
    """Port number of the gRPC service."""
    service: str = ""
    """Service name in the health check request."""


class ExecAction(Record, frozen=True):
    """Command that is run in the container. It succeeds with exit status 0."""

    command: tuple[str, ...] = ()
    """The command and its arguments. It is not run in a shell."""


NotNegative = Annotated[int, Meta(ge=0)]


class Probe(Record, frozen=True):
    """Periodic check of a container by the kubelet of its node."""

    http_get: HTTPGetAction | None = None
    """HTTP request to send."""
    tcp_socket: TCPSocketAction | None = None
    """TCP connection to open."""
    grpc: GRPCAction | None = None
    """gRPC health check to call."""
    exec: ExecAction | None = None
    """Command to run in the container.

    For a built-in program, the probe connects to its first TCP port instead.
    """
    initial_delay_seconds: NotNegative = 0
    """Time from the start of the container to the first probe, in seconds.

    Only observed for startup and liveness probes of real commands: built-in programs serve as soon
    as they start.
    """
    period_seconds: NotNegative = 10
    """Time between two probes, in seconds."""
    timeout_seconds: NotNegative = 1
    """Time after which a probe without an answer fails, in seconds."""
    success_threshold: NotNegative = 1
    """Number of consecutive successes after which the probe counts as successful."""
    failure_threshold: NotNegative = 3
    """Number of consecutive failures after which the probe counts as failed."""
    termination_grace_period_seconds: Unmodelled = None


class SleepAction(Record, frozen=True):
    """Pause of a lifecycle hook."""

    seconds: NotNegative
    """Length of the pause, in seconds."""


class LifecycleHandler(Record, frozen=True):
    """Action of a lifecycle hook. Exactly one field must be set."""

    exec: ExecAction | None = None
    """Command to run in the container.

    A built-in program runs no commands: of a `sleep` command only the duration is observed.
    """
    http_get: HTTPGetAction | None = None
    """HTTP request that the node sends. Any response counts as success."""
    sleep: SleepAction | None = None
    """Pause to make."""
    tcp_socket: TCPSocketAction | None = None
    """Not supported as a lifecycle hook: Kubernetes accepts it, and the hook always fails."""


class Lifecycle(Record, frozen=True):
    """Actions at the start and before the end of a container."""

    post_start: LifecycleHandler | None = None
    """Action after the container has started.

    The container does not count as running until the action ends. If it fails, the container is
    killed.
    """
    pre_stop: LifecycleHandler | None = None
    """Action before the container is sent SIGTERM.

    The container keeps running meanwhile. The time counts towards terminationGracePeriodSeconds.
    """
    stop_signal: Unmodelled = None


class Capabilities(Record, frozen=True):
    """Linux capabilities to add to, or to remove from, a real command. `ALL` means all of them."""

    add: tuple[str, ...] = ()
    """Capabilities to add."""
    drop: tuple[str, ...] = ()
    """Capabilities to remove."""


class SecurityContext(Record, frozen=True):
    """Security settings of a container. They apply to real commands."""

    capabilities: Capabilities = Capabilities()
    """Capabilities of the command. NET_ADMIN and NET_BROADCAST can be added."""

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
    """Maximum amounts. Only `memory` of real commands is enforced: the kernel kills a command that
    exceeds it."""
    requests: Mapping[str, Quantity] = {}
    """Minimum amounts. Validated, but nothing is reserved."""
    claims: Unmodelled = None


class Container(Record, frozen=True):
    """Program of a pod."""

    name: str
    """Name of the container, unique in the pod."""
    image: str = ""
    """Image name. It selects the built-in program that runs. No image is pulled."""
    command: tuple[str, ...] = ()
    """Program and first arguments. Run on this machine if real commands are enabled.

    Otherwise only the built-in programs for agnhost, http-echo and coredns read it, together with
    `args` and `env`.
    """
    args: tuple[str, ...] = ()
    """Arguments of the command."""
    ports: tuple[ContainerPort, ...] = ()
    """Declared ports. The default built-in program listens on all of them."""
    env: tuple[EnvVar, ...] = ()
    """Environment variables."""
    env_from: tuple[EnvFromSource, ...] = ()
    """ConfigMaps and Secrets whose keys become environment variables."""
    readiness_probe: Probe | None = None
    """Probe that decides whether the container is ready. Without one it is ready once it listens.
    """
    liveness_probe: Probe | None = None
    """Probe that decides whether the container is restarted."""
    startup_probe: Probe | None = None
    """Probe that must succeed before the other probes start."""
    security_context: SecurityContext | None = None
    """Security settings of the container."""
    restart_policy: Literal["Always"] | None = None
    """`Always` makes an init container a sidecar."""

    lifecycle: Lifecycle = Lifecycle()
    """Actions at the start and before the end of the container."""
    resources: ResourceRequirements | None = None
    """Resource limits and requests."""

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
    """Working directory of a real command."""

    @property
    def is_sidecar(self) -> bool:
        """True for an init container that keeps running beside the app containers."""
        return self.restart_policy == "Always"

    def probe(self, kind: str) -> Probe | None:
        """Return the probe of a kind: startup, readiness or liveness."""
        probe: Probe | None = getattr(self, f"{kind}_probe")
        return probe
