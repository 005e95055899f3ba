"""What the lab remembers beside Kubernetes' own objects: what was handed out, what was seen, what was decided.

Kubernetes keeps these too, elsewhere: attachments in the CNI plugin's result cache, observations in the kubelet and the
container runtime, counters in allocators. Here they are objects of the store, so that everything is in one value.
They are never served by the API.
"""

from typing import Any, Literal

from kubenetlab.api.core import Service, Taint
from kubenetlab.api.discovery import EndpointSlice
from kubenetlab.api.meta import ObjectMeta, Record, Resource

SYNC_PERIOD_S = 5
"""How often a kube-proxy looks at its rules although it has heard of no change; whose rules are older than two periods is not healthy.
Upstream it is 30 s: nobody shall wait a minute for what is to be shown."""


class Internal(Resource, frozen=True):
    """The base of the kinds that only the lab itself sees."""

    api_version = "internal.kubenetlab.dev/v1"


class Attachment(Internal, frozen=True):
    """A pod's connection to its node, as CNI ADD would return it; named after the pod."""

    kind = "Attachment"
    plural = "attachments"

    metadata: ObjectMeta
    pod_uid: str
    node: str
    host_ifname: str
    addresses: tuple[str, ...]
    """At most one per family, the primary family first, without prefix length."""


class ContainerReport(Record, frozen=True):
    """The latest news of one run of one container."""

    attempt: int
    """Which start this is about: 0 is the first."""
    state: Literal["running", "failed", "exited"]
    """failed: it could not start (a port was taken)."""
    exit_code: int = 0
    message: str = ""
    at: float = 0.0
    """When, in seconds since 1970."""
    is_process: bool = False
    """True for a process of its own, which takes its time to end."""
    ends_later: bool = False
    """True for a built-in program that serves on for a while after SIGTERM; its end is waited for."""
    reason: str = ""
    """Reason of the exit, where it is neither Completed nor Error."""


HookKind = Literal["postStart", "preStop"]
ProbeKind = Literal["startup", "readiness", "liveness"]


class ProbeReport(Record, frozen=True):
    """Result of the latest probe, or of a lifecycle hook, of one container."""

    attempt: int
    kind: ProbeKind | HookKind
    ok: bool
    message: str = ""
    at: float = 0.0
    failures: int = 0
    """In a row, up to now."""
    is_settled: bool = False
    """True when it failed so often that asking again will hardly change the answer."""


class PodRuntimeStatus(Internal, frozen=True):
    """What was seen of one pod on its node; named after the pod."""

    kind = "PodRuntimeStatus"
    plural = "observed"

    metadata: ObjectMeta
    pod_uid: str
    sandbox_pid: int = 0
    """The pause process, in the lab's PID namespace; 0 while there is none."""
    sandbox_error: str = ""
    is_detached: bool = False
    """True when a terminating pod's endpoints have left the rules of every node, so that nobody is sent to it any more."""
    containers: dict[str, ContainerReport] = {}
    probes: dict[str, ProbeReport] = {}
    """By `container/kind`."""

    def hook(self, container: str, kind: HookKind, attempt: int) -> ProbeReport | None:
        """Return how a hook of a container's run ended; None while it has not."""
        report = self.probes.get(f"{container}/{kind}")
        return report if report is not None and report.attempt == attempt else None


class Kill(Record, frozen=True):
    """Why one run of a container is killed although its pod goes on."""

    attempt: int
    message: str
    """Such as `Liveness probe failed: connection refused`."""
    at: float
    """When the kill was decided, in seconds of Unix time."""


class Termination(Internal, frozen=True):
    """Progress of the termination of a pod's containers. Has the name of the pod."""

    kind = "Termination"
    plural = "terminations"

    metadata: ObjectMeta
    pod_uid: str
    signalled: tuple[str, ...] = ()
    """Containers whose preStop hook is over, and which have been sent SIGTERM. Those without a hook get it at once."""
    killed: dict[str, Kill] = {}
    """Container → the run that is killed when its preStop hook is over, and then started again as restartPolicy says."""


class JobTracking(Internal, frozen=True):
    """Pods that a Job has counted, so that each counts once, even after its deletion.

    Has the name of the Job. Kubernetes uses a finalizer on each pod for this.
    """

    kind = "JobTracking"
    plural = "jobtrackings"

    metadata: ObjectMeta
    job_uid: str
    succeeded: dict[str, str] = {}
    """Pod UID → completion index; in a Job that is not indexed the pod's name."""
    failed: dict[str, float] = {}
    """Pod UID → time of the failure, in seconds of Unix time. A deleted pod has failed, too."""
    last_success: float = 0.0
    """Time of the latest success, in seconds of Unix time; 0 before the first."""
    released: tuple[str, ...] = ()
    """UIDs of pods that the Job has deleted itself; they do not count."""


class NodeReport(Internal, frozen=True):
    """What was seen of one node; named after it."""

    kind = "NodeReport"
    plural = "nodereports"
    is_namespaced = False

    metadata: ObjectMeta
    sandbox_pid: int = 0
    """The pause process that holds the node's namespaces, in the lab's PID namespace; 0 while there is none."""


class NodeSettings(Internal, frozen=True):
    """What a manifest says of a node that the Cluster document makes; named after it."""

    kind = "NodeSettings"
    plural = "nodesettings"
    is_namespaced = False

    metadata: ObjectMeta
    """With the labels and annotations that the manifest adds."""
    taints: tuple[Taint, ...] | None = None
    """In place of the node's own; None leaves those."""
    unschedulable: bool = False
    pod_cidrs: tuple[str, ...] = ()


class ProxySnapshot(Internal, kw_only=True, frozen=True):
    """What a node's kube-proxy knew when it heard of the cluster for the last time; named after the node."""

    kind = "ProxySnapshot"
    plural = "lastviews"
    is_namespaced = False

    metadata: ObjectMeta
    fault: str
    """For which it hears of nothing; healed, this is forgotten."""
    services: tuple[Service, ...]
    slices: tuple[EndpointSlice, ...]
    proxy_mode: str
    proxy_options: dict[str, Any]
    overdue_at: float
    """From when on its rules count as stale."""
    is_overdue: bool = False


class AllocationState(Internal, frozen=True):
    """The counters from which names, addresses and interface numbers are handed out; never turned back."""

    kind = "AllocationState"
    plural = "ledgers"
    is_namespaced = False

    metadata: ObjectMeta = ObjectMeta(name="ledger")
    serials: dict[str, int] = {}
    """How many objects each owner has made, by its uid: no two of its children are named, or identified, alike."""
    last_addresses: dict[str, tuple[str, ...]] = {}
    """The address given out last on each node, per family."""
    next_veth: dict[str, int] = {}
    """The next number behind `veth` on each node."""


class NetworkFacts(Internal, frozen=True):
    """What the cluster's controllers must know of its network; the CNI mode says it."""

    kind = "NetworkFacts"
    plural = "networkfacts"
    is_namespaced = False

    metadata: ObjectMeta = ObjectMeta(name="network")
    has_network: bool = True
    """False while no plugin is installed: nodes are not ready, and pods wait."""
    plugin: str = "bridge"
    """By what name the runtime knows it."""
    host_ifname: str = "veth{number}"
    """What the node's end of a pod's link is called; `number` counts per node."""
    bridge: str = ""
    """The bridge of each node that has all its pods as ports, where there is one."""
    has_proxy: bool = True
    """False in a cluster without kube-proxy; the proxy mode says it."""


class Uplink(Internal, frozen=True):
    """The lab's link to the machine's own network, while there is one."""

    kind = "Uplink"
    plural = "uplinks"
    is_namespaced = False

    metadata: ObjectMeta = ObjectMeta(name="uplink")
    machine: tuple[str, ...] = ()
    """The addresses of the machine's end, one per family, without prefix length."""
    router: tuple[str, ...] = ()
    """Those of the router's end, in the same order."""


class Decisions(Internal, kw_only=True, frozen=True):
    """What `up` chose for this machine and keeps as long as the lab lives."""

    kind = "Decisions"
    plural = "decisions"
    is_namespaced = False

    metadata: ObjectMeta = ObjectMeta(name="decisions")
    pod_layout: Literal["onlink", "routed"]
    """onlink: pods share their node's subnet, the bridge switches between them; routed: each pod is a /32 behind its node."""
    neighbors: Literal["dynamic", "permanent"]
    """dynamic: ARP finds them; permanent: entries with the deterministic MACs are installed."""
    is_final: bool = False
    """True once pods have been wired by it: from then on the layout stays."""
    reasons: tuple[str, ...] = ()
    real_commands: tuple[str, ...] = ()
    """Which of the containers' commands are run as programs of this machine, where the lab is to run what it can."""
