"""Internal objects of the lab: allocations, observations and decisions.

Kubernetes keeps this state elsewhere: attachments in the CNI plugin's result cache, observations in
the kubelet and the container runtime, counters in allocators. In the lab they are objects of the
store, so that one value holds the whole state. The API never serves them.
"""

from collections.abc import Mapping
from typing import Literal

from kubenetlab.api.core import Service, Taint
from kubenetlab.api.discovery import EndpointSlice
from kubenetlab.api.internal import Internal
from kubenetlab.api.json_types import JsonMapping
from kubenetlab.api.meta import ObjectMeta, Record
from kubenetlab.api.plugins.cni_agents import CniAgent
from kubenetlab.api.plugins.node_range_pools import NodeRangePools

SYNC_PERIOD_S = 5
"""Period in which a kube-proxy checks its rules without being notified of a change, in seconds.

Rules that are older than two periods make it unhealthy. Upstream's period is 30 s, which is too
long for a demonstration.
"""


class Attachment(Internal, frozen=True):
    """Network attachment of a pod, as CNI ADD would return it. Has the name of the pod."""

    kind = "Attachment"
    plural = "attachments"

    metadata: ObjectMeta
    pod_uid: str
    """UID of the pod."""
    node: str
    """Name of the node."""
    host_ifname: str
    """Name of the link at the node's end."""
    addresses: tuple[str, ...]
    """Addresses without prefix length, at most one per IP family, the primary family first.

    Empty while CNI plugins that are programs have not attached the pod.
    """
    sandbox_id: str = ""
    """Identifier of the sandbox that such plugins have attached."""
    is_stale: bool = False
    """True if the pod gets a new sandbox, because of another CNI mode or of a fault."""
    duplicate_of: str = ""
    """Pod that has the addresses, too, and had them first, as `namespace/name`; by a fault."""
    superseded_by: str = ""
    """Pod that has got the addresses, too, as `namespace/name`; by a fault."""


class ContainerReport(Record, frozen=True):
    """Latest state of one run of a container."""

    attempt: int
    """Number of the run, from 0."""
    state: Literal["running", "failed", "exited"]
    """State of the run; failed if it could not start, for example because a port was in use."""
    exit_code: int = 0
    """Exit status."""
    message: str = ""
    """Human-readable description of the state."""
    at: float = 0.0
    """Time of the report, in seconds since 1970."""
    is_process: bool = False
    """True for a real command: a process of its own, whose exit the agent waits for."""
    ends_later: bool = False
    """True for a built-in program that keeps serving after SIGTERM; the agent waits for its end."""
    reason: str = ""
    """Reason of the exit, if it is neither Completed nor Error."""


HookKind = Literal["postStart", "preStop"]
ProbeKind = Literal["startup", "readiness", "liveness"]


class ProbeReport(Record, frozen=True):
    """Result of the latest probe, or of a lifecycle hook, of one container."""

    attempt: int
    """Number of the container's run, from 0."""
    kind: ProbeKind | HookKind
    """Kind of the probe or hook."""
    ok: bool
    """True if it succeeded."""
    message: str = ""
    """Cause of a failure."""
    at: float = 0.0
    """Time of the result, in seconds since 1970."""
    failures: int = 0
    """Number of consecutive failures up to now."""
    is_settled: bool = False
    """True if a further probe is unlikely to change the result."""


class PodRuntimeStatus(Internal, frozen=True):
    """Observed runtime state of a pod on its node. Has the name of the pod."""

    kind = "PodRuntimeStatus"
    plural = "observed"

    metadata: ObjectMeta
    pod_uid: str
    """UID of the pod."""
    sandbox_pid: int = 0
    """Pid of the pause process in the lab's PID namespace; 0 while there is none."""
    sandbox_error: str = ""
    """Cause of the failure to create the sandbox; empty if there was none."""
    is_detached: bool = False
    """True if a terminating pod's endpoints have been removed from the rules of every node."""
    containers: Mapping[str, ContainerReport] = {}
    """Latest state of each container, by name."""
    probes: Mapping[str, ProbeReport] = {}
    """Latest result of each probe and hook, by `container/kind`."""

    def hook(self, container: str, kind: HookKind, attempt: int) -> ProbeReport | None:
        """Return the result of a hook of a container's run; None if the hook has not ended."""
        report = self.probes.get(f"{container}/{kind}")
        return report if report is not None and report.attempt == attempt else None


class Kill(Record, frozen=True):
    """Decision to kill one run of a container while its pod continues."""

    attempt: int
    """Number of the run, from 0."""
    message: str
    """Reason, such as `Liveness probe failed: connection refused`."""
    at: float
    """Time of the decision, in seconds since 1970."""


class Termination(Internal, frozen=True):
    """Progress of the termination of a pod's containers. Has the name of the pod."""

    kind = "Termination"
    plural = "terminations"

    metadata: ObjectMeta
    pod_uid: str
    """UID of the pod."""
    signalled: tuple[str, ...] = ()
    """Containers whose preStop hook has ended and that have been sent SIGTERM.

    Containers without a hook are sent it at once and are not listed.
    """
    killed: Mapping[str, Kill] = {}
    """Container → run to kill after its preStop hook. restartPolicy decides about a restart."""


class JobTracking(Internal, frozen=True):
    """Pods that a Job has counted, so that each counts once, even after its deletion.

    Has the name of the Job. Kubernetes uses a finalizer on each pod for this.
    """

    kind = "JobTracking"
    plural = "jobtrackings"

    metadata: ObjectMeta
    job_uid: str
    succeeded: Mapping[str, str] = {}
    """Pod UID → completion index; in a Job that is not indexed the pod's name."""
    failed: Mapping[str, float] = {}
    """Pod UID → time of the failure, in seconds of Unix time. A deleted pod has failed, too."""
    last_success: float = 0.0
    """Time of the latest success, in seconds of Unix time; 0 before the first."""
    released: tuple[str, ...] = ()
    """UIDs of pods that the Job has deleted itself; they do not count."""


class NodeReport(Internal, frozen=True):
    """Observed state of a node. Has the name of the node."""

    kind = "NodeReport"
    plural = "nodereports"
    is_namespaced = False

    metadata: ObjectMeta
    sandbox_pid: int = 0
    """Pid of the node's pause process in the lab's PID namespace; 0 while there is none."""
    network_error: str = ""
    """Error with which the node's CNI plugins have answered STATUS; empty if they are ready."""


class NodeSettings(Internal, frozen=True):
    """Settings of a manifest for a node of the Cluster document. Has the name of the node."""

    kind = "NodeSettings"
    plural = "nodesettings"
    is_namespaced = False

    metadata: ObjectMeta
    """Metadata with the labels and annotations that the manifest adds."""
    taints: tuple[Taint, ...] | None = None
    """Taints that replace the node's own; None keeps those."""
    unschedulable: bool = False
    """True if the scheduler must not bind new pods to the node."""
    pod_cidrs: tuple[str, ...] = ()
    """Ranges of pod addresses, one per IP family; empty for allocated ones."""


class ProxySnapshot(Internal, kw_only=True, frozen=True):
    """State of the cluster last seen by a kube-proxy with a fault. Has the name of the node."""

    kind = "ProxySnapshot"
    plural = "lastviews"
    is_namespaced = False

    metadata: ObjectMeta
    fault: str
    """Name of the fault that cuts the kube-proxy off. The snapshot is deleted with the fault."""
    services: tuple[Service, ...]
    """Services at that time."""
    slices: tuple[EndpointSlice, ...]
    """EndpointSlices at that time."""
    proxy_mode: str
    """Name of the proxy mode at that time."""
    proxy_options: JsonMapping
    """Options of the proxy mode at that time."""
    overdue_at: float
    """Time from which the rules count as stale, in seconds since 1970."""
    is_overdue: bool = False
    """True if that time has passed."""


class AllocationState(Internal, frozen=True):
    """Counters that allocate names and interface numbers. They never decrease."""

    kind = "AllocationState"
    plural = "ledgers"
    is_namespaced = False

    metadata: ObjectMeta = ObjectMeta(name="ledger")
    serials: Mapping[str, int] = {}
    """Owner's uid → number of objects it has created, so that names and uids are never reused."""
    next_veth: Mapping[str, int] = {}
    """Node → number of the next `veth` link."""


class NetworkFacts(Internal, frozen=True):
    """Properties of the CNI and proxy modes that controllers depend on."""

    kind = "NetworkFacts"
    plural = "networkfacts"
    is_namespaced = False

    metadata: ObjectMeta = ObjectMeta(name="network")
    has_network: bool = True
    """False while no CNI plugin is installed: nodes are not ready, and pods stay pending."""
    plugin: str = "bridge"
    """Name of the CNI plugin, as the container runtime knows it."""
    mode: tuple[str, JsonMapping] = ("bridge", {})
    """Name and options of the CNI mode."""
    installed: tuple[tuple[str, str, str], ...] = ()
    """(kind, namespace, name) of the objects that the CNI plugin has installed."""
    host_ifname: str = "veth{number}"
    """Template for the name of the node's end of a pod's link, as in `names.host_link`."""
    ipam: str = "host-local"
    """Name of the allocator of pod addresses (controllers/nodes/ipam)."""
    node_range_pools: tuple[NodeRangePools, ...] = ()
    """Pools of each IP version from which the allocator `cluster-pool` assigns ranges to nodes."""
    has_requests_of_ranges: bool = False
    """True if programs that assign addresses get those that pods request, and assign only addresses
    of the node's podCIDR."""
    bridge: str = ""
    """Name of the bridge that connects the pods of a node; empty if there is none."""
    has_gateway: bool = True
    """True if each node has an address of its pod range, as the gateway of its pods."""
    has_proxy: bool = True
    """False in a cluster without kube-proxy."""
    implied_proxy_mode: str = "nftables"
    """kube-proxy mode if the Cluster document names none."""
    implied_policy_engine: str = "nftables"
    """Policy engine if the Cluster document names none."""
    agent: CniAgent | None = None
    """Agent of the CNI plugin on each node; None for a plugin without agents."""
    encryption_option: str = ""
    """Option of the CNI mode with which nodes have addresses for encrypted tunnels; empty for a
    mode without."""
    credential: tuple[str, str] = ("", "")
    """(option, key): option of the CNI mode that names a Secret with its password, and the key of
    the password in the Secret; empty for a mode without passwords."""

    @property
    def has_encrypted_tunnels(self) -> bool:
        """True if each node has an address for its end of encrypted tunnels."""
        return self.mode[1].get(self.encryption_option) is True

    @property
    def credential_name(self) -> str:
        """Name of the Secret with the password of the CNI mode; empty without one."""
        return str(self.mode[1].get(self.credential[0], ""))


class LabSecret(Internal, frozen=True):
    """Random bytes from which the private keys of nodes are derived, made when the lab is made."""

    kind = "LabSecret"
    plural = "labsecrets"
    is_namespaced = False

    metadata: ObjectMeta = ObjectMeta(name="secret")
    seed: str = ""
    """The bytes in hexadecimal."""

    def __repr__(self) -> str:
        return "LabSecret(…)"


class Uplink(Internal, frozen=True):
    """Link between the lab's router and the machine's network, while there is one."""

    kind = "Uplink"
    plural = "uplinks"
    is_namespaced = False

    metadata: ObjectMeta = ObjectMeta(name="uplink")
    machine: tuple[str, ...] = ()
    """Addresses of the machine's end, one per IP family, without prefix length."""
    router: tuple[str, ...] = ()
    """Addresses of the router's end, in the same order."""


class Decisions(Internal, kw_only=True, frozen=True):
    """Choices that `up` makes for this machine and that hold until `down`."""

    kind = "Decisions"
    plural = "decisions"
    is_namespaced = False

    metadata: ObjectMeta = ObjectMeta(name="decisions")
    cni_mode: str
    """Name of the CNI mode for which the choices were made."""
    cni_options: JsonMapping
    """Its options, with a choice for every `auto`."""
    requested_options: JsonMapping = {}
    """Its options as the Cluster document has them; other options need other choices."""
    neighbors: Literal["dynamic", "permanent"]
    """Neighbor entries: dynamic ones are learned by ARP, permanent ones are installed."""
    is_final: bool = False
    """True once pods have been attached: choices of the CNI mode do not change any more."""
    reasons: tuple[str, ...] = ()
    """Reasons for the choices, for users."""
    netfilter_bypass: str = ""
    """Reason why packets between some pods do not pass netfilter; empty if all do."""
    policy_engine: str = ""
    """Policy engine in place of the CNI mode's default one; empty if this machine can run that."""
    policy_engine_reason: str = ""
    """Requirement of the default engine that this machine lacks."""
    real_commands: tuple[str, ...] = ()
    """Commands of containers that are run as programs of this machine, with `realCommands`."""
