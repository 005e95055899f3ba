"""Protocol of the node agents: rules of nodes, and probes of their pods."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from kubenetlab.api.lab import ProbeReport
from kubenetlab.cni.calls import AttachedPod, NodePlugins
from kubenetlab.cni.capabilities import PodSandbox
from kubenetlab.datapath.probes import ProbeSpec
from kubenetlab.hoststate.rules.rulesets import OwnedName
from kubenetlab.hoststate.rules.transactions import Transaction
from kubenetlab.kernel.processes.identity import ProcessId
from kubenetlab.kernel.rules.comparison import Compared
from kubenetlab.lab.transport.protocol import BatchRequest, Done, Message, Request


class Node(Struct, frozen=True):
    """A node, identified by its namespace and the process that holds it now."""

    netns: str
    pause: ProcessId


class RulesLoaded(Message, frozen=True):
    """All transactions were carried out."""

    generation: int
    """Generation of the node's nftables ruleset."""
    duration_ms: float


class RulesRefused(Message, frozen=True):
    """A transaction was refused; those before it are in force."""

    error: str
    backend: str
    """Rule backend of the transaction."""


class LoadRules(BatchRequest[Node, RulesLoaded | RulesRefused], frozen=True):
    """Carry out the same transactions on several nodes."""

    transactions: tuple[Transaction, ...]
    nodes: tuple[Node, ...]

    @property
    def parts(self) -> Sequence[Node]:
        return self.nodes


class Generation(Struct, frozen=True):
    """State of a node's rules."""

    generation: int
    """Generation of its nftables ruleset."""
    backends: tuple[str, ...]
    """Rule backends whose loaders are open, and which are therefore watched."""


class Generations(Message, frozen=True):
    """States of the rules of nodes."""

    by_netns: dict[str, Generation]
    """Nodes that have exited are left out."""


class ReadGenerations(Request[Generations], frozen=True):
    """Return the generations of the rulesets of nodes."""

    nodes: tuple[Node, ...]


class RuleListing(Message, frozen=True):
    """Loaded objects of one rule backend."""

    objects: object
    """Return value of the loader's `listed`."""


class ListRules(Request[RuleListing], frozen=True):
    """List the objects of a rule backend with these names."""

    node: Node
    backend: str
    names: tuple[OwnedName, ...]


class RulesText(Message, frozen=True):
    """All rules of a backend, as the backend's own program prints them."""

    text: str


class PrintRules(Request[RulesText], frozen=True):
    """Return the rules of a backend as text."""

    node: Node
    backend: str


class Comparison(Message, frozen=True):
    """Result of CompareRules, by the namespace of the node."""

    nodes: dict[str, Compared]


class CompareRules(Request[Comparison], frozen=True):
    """Compare the rules of nodes with those that the transactions load."""

    transactions: tuple[Transaction, ...]
    names: dict[str, tuple[OwnedName, ...]]
    """Rule backend → names in a namespace that belong to the lab."""
    nodes: dict[str, ProcessId]


class ReplaceProbes(Request[Done], frozen=True):
    """Replace the probes and hooks of some sandboxes; those that are equal continue."""

    sandboxes: tuple[str, ...]
    probes: tuple[ProbeSpec, ...]
    nodes: dict[str, ProcessId]
    """Namespace of a node → its pause process."""


class ProbeResult(Struct, frozen=True):
    """Result of a probe or hook."""

    netns: str
    """Sandbox of the pod."""
    container: str
    outcome: ProbeReport


class ProbeResults(Message, frozen=True):
    """Event: probes have new results."""

    results: tuple[ProbeResult, ...]


class RulesEdited(Message, frozen=True):
    """Event: another process has changed the rules of a node."""

    netns: str


class PodAttached(Message, frozen=True):
    """CNI plugins have attached a pod."""

    pod: AttachedPod


class PluginsFailed(Message, frozen=True):
    """A CNI plugin has failed."""

    message: str
    """Message of the kubelet for an ADD, else of libcni."""


class AttachPod(Request[PodAttached | PluginsFailed], frozen=True):
    """Call ADD of a node's CNI plugins for a sandbox."""

    node: Node
    plugins: NodePlugins
    sandbox: PodSandbox
    pause: ProcessId
    """Pause process of the sandbox."""
    is_retry: bool
    """True if an earlier call may have done a part of the work."""


class DetachPod(Request[Done | PluginsFailed], frozen=True):
    """Call DEL of a node's CNI plugins for a sandbox."""

    node: Node
    plugins: NodePlugins
    sandbox: PodSandbox
    pause: ProcessId


class CheckPod(Request[Done | PluginsFailed], frozen=True):
    """Call CHECK of a node's CNI plugins for a sandbox, unless the list does not support it."""

    node: Node
    plugins: NodePlugins
    sandbox: PodSandbox
    pause: ProcessId


class CollectGarbage(Request[Done | PluginsFailed], frozen=True):
    """Call DEL for all sandboxes of a node but those with these identifiers, and then GC."""

    node: Node
    plugins: NodePlugins
    valid: tuple[str, ...]


class AskStatus(Request[Done | PluginsFailed], frozen=True):
    """Call STATUS of a node's CNI plugins."""

    node: Node
    plugins: NodePlugins


NodeAgentRequest = (
    LoadRules
    | ReadGenerations
    | ListRules
    | PrintRules
    | CompareRules
    | ReplaceProbes
    | AttachPod
    | DetachPod
    | CheckPod
    | CollectGarbage
    | AskStatus
)
NodeAgentEvent = ProbeResults | RulesEdited
