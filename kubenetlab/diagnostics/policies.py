"""Advice about NetworkPolicies with no effect, or another one than their author may expect.

Nothing here is an error in a cluster: an API server accepts such a policy, and nothing breaks. It
often is a mistake nevertheless, such as a label that no pod has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import TypeVar

import msgspec

from kubenetlab.api.core import Namespace
from kubenetlab.api.json_types import JsonMapping
from kubenetlab.api.meta import Labels, LabelSelector
from kubenetlab.api.pods import PodSpec
from kubenetlab.api.policies.network_policy import (
    DIRECTIONS,
    Direction,
    NetworkPolicy,
    NetworkPolicyPeer,
    NetworkPolicyPort,
)
from kubenetlab.api.store import Cluster
from kubenetlab.api.text.documents import Path
from kubenetlab.diagnostics.model import (
    POLICY_PEER_UNMATCHED,
    POLICY_PEERS_EMPTY,
    POLICY_PORT_UNKNOWN,
    POLICY_RULE_REDUNDANT,
    POLICY_SELECTS_NOTHING,
    POLICY_SHADOWED,
    POLICY_SPEC_MISSING,
    Diagnostic,
)
from kubenetlab.diagnostics.policy_pods import is_given, listed, named_ports, unknown_port
from kubenetlab.diagnostics.policy_shadows import (
    covering_rule,
    covers,
    shadowing_policies,
)
from kubenetlab.diagnostics.service_ports import translated_port
from kubenetlab.diagnostics.templates import PodTemplate, Templates
from kubenetlab.errors import did_you_mean

T = TypeVar("T")


def check_policies(cluster: Cluster, templates: Templates) -> Iterator[Diagnostic]:
    """Yield advice about every NetworkPolicy that a user created."""
    policies = [policy for policy in cluster.all(NetworkPolicy) if is_given(cluster, policy)]
    if not policies:
        return
    selection = _Selection(cluster, templates)
    shadows = shadowing_policies(policies)
    for policy in policies:
        spec = cluster.given[policy.kind, *policy.key].document.get("spec")
        if not spec:
            yield _no_spec(policy)
        else:
            yield from _check_subject(policy, selection)
            yield from _check_peers(policy, spec)
        for direction in DIRECTIONS:
            yield from _check_rules(policy, direction, selection)
        if policy.key in shadows:
            names = [f"{other.namespace}/{other.name}" for other in shadows[policy.key]]
            message = (
                "it allows nothing that other policies of the same pods do not allow: "
                f"{listed(names)}"
            )
            yield Diagnostic.of(
                policy, POLICY_SHADOWED, (), message, "delete it, or restrict the others"
            )


class _Selection:
    """Pods that selectors match: existing pods, and those that workloads would create."""

    def __init__(self, cluster: Cluster, templates: Templates) -> None:
        self._cluster = cluster
        self._templates = templates
        self._matches: dict[tuple[str, bytes], tuple[PodSpec, ...]] = {}

    def pods(self, namespace: str, selector: LabelSelector) -> tuple[PodSpec, ...]:
        """Return the specs of the templates and the pods that a selector matches."""
        key = (namespace, msgspec.json.encode(selector))
        if key not in self._matches:
            templates = self._templates.matching(namespace, selector)
            # Pods have labels that their template lacks, such as the name of a StatefulSet's pod.
            self._matches[key] = (
                *(template.spec for template in templates),
                *(pod.spec for pod in self._cluster.select(namespace, selector)),
            )
        return self._matches[key]

    def templates(self, namespace: str, selector: LabelSelector) -> Sequence[PodTemplate]:
        """Return the templates that a selector matches."""
        return list(self._templates.matching(namespace, selector))

    def namespaces(self, selector: LabelSelector) -> list[str]:
        """Return the names of the namespaces that a selector matches."""
        return [
            namespace.name for namespace in self._namespaces if selector.matches(namespace.labels)
        ]

    @cached_property
    def _namespaces(self) -> Sequence[Namespace]:
        return self._cluster.all(Namespace)

    def guess_namespace(self, selector: LabelSelector) -> str:
        """Return `; did you mean X?` for the label of a namespace that is most similar."""
        return _guess(selector, [namespace.labels for namespace in self._namespaces])

    def guess_pod(self, namespace: str, selector: LabelSelector) -> str:
        """Return `; did you mean X?` for the label of a pod that is most similar."""
        labels = [
            template.labels for template in self._templates if template.owner.namespace == namespace
        ]
        return _guess(selector, labels)

    def homes_of(self, selector: LabelSelector) -> list[str]:
        """Return the namespaces in which a selector matches pods, sorted."""
        if not (selector.match_labels or selector.match_expressions):
            return []
        return sorted(
            {
                template.owner.namespace
                for template in self._templates
                if selector.matches(template.labels)
            }
        )


def _no_spec(policy: NetworkPolicy) -> Diagnostic:
    message = f"it has no spec: it isolates all pods of namespace {policy.namespace} for ingress"
    hint = "write `spec: {podSelector: {}}` if this is meant"
    return Diagnostic.of(policy, POLICY_SPEC_MISSING, (), message, hint)


def _check_peers(policy: NetworkPolicy, spec: JsonMapping) -> Iterator[Diagnostic]:
    """Check that no rule has a list of peers that is written and empty, such as `from:`.

    spec: as the policy's document has it. Rules without the field are meant for all peers.
    """
    for direction in policy.directions:
        field, peers_field = _fields(direction)
        for index, rule in enumerate(spec.get(field) or ()):
            if rule and peers_field in rule and not rule[peers_field]:
                ends = "sources" if direction == "Ingress" else "destinations"
                message = f"it is empty, which means all {ends}, also outside of the cluster"
                hint = (
                    f"leave out `{peers_field}` if this is meant; "
                    f"`{peers_field}: [{{podSelector: {{}}}}]` means the pods of the namespace"
                )
                path = ("spec", field, index, peers_field)
                yield Diagnostic.of(policy, POLICY_PEERS_EMPTY, path, message, hint)


def _fields(direction: Direction) -> tuple[str, str]:
    """Return the names of the fields with the rules of a direction, and with their peers."""
    return direction.lower(), "from" if direction == "Ingress" else "to"


def _check_subject(policy: NetworkPolicy, selection: _Selection) -> Iterator[Diagnostic]:
    """Check that the policy selects a pod that it can isolate."""
    selector = policy.spec.pod_selector
    path: Path = ("spec", "podSelector")
    pods = selection.pods(policy.namespace, selector)
    if not pods:
        homes = selection.homes_of(selector)
        hints = (f"namespaces with such pods: {listed(homes)}",) if homes else ()
        message = (
            f"{_no_pod(policy.namespace, selector)}"
            f"{'' if homes else selection.guess_pod(policy.namespace, selector)}"
        )
        yield Diagnostic.of(policy, POLICY_SELECTS_NOTHING, path, message, *hints)
    elif all(spec.host_network for spec in pods):
        message = "it selects only pods with hostNetwork, which policies do not isolate"
        yield Diagnostic.of(policy, POLICY_SELECTS_NOTHING, path, message)


def _check_rules(
    policy: NetworkPolicy, direction: Direction, selection: _Selection
) -> Iterator[Diagnostic]:
    """Check the rules of one direction."""
    field, peers_field = _fields(direction)
    rules = list(policy.spec.rules(direction))
    if rules and direction not in policy.directions:
        message = f"these rules have no effect: policyTypes does not contain {direction}"
        yield Diagnostic.of(policy, POLICY_RULE_REDUNDANT, ("spec", field), message)
        return
    for index, (peers, ports) in enumerate(rules):
        path: Path = ("spec", field, index)
        for number, peer in enumerate(peers):
            if message := _unmatched(policy, peer, selection):
                peer_path = (*path, peers_field, number)
                yield Diagnostic.of(policy, POLICY_PEER_UNMATCHED, peer_path, message)
        yield from _check_ports(policy, direction, peers, ports, path, selection)
        other = covering_rule(rules, index, covers)
        if other is not None:
            message = f"it allows nothing that spec.{field}[{other}] does not allow"
            yield Diagnostic.of(policy, POLICY_RULE_REDUNDANT, path, message)


def _unmatched(policy: NetworkPolicy, peer: NetworkPolicyPeer, selection: _Selection) -> str:
    """Return the reason why a peer matches no pod; empty if it does, or is an ipBlock."""
    if peer.ip_block is not None:
        return ""
    pod_selector = peer.pod_selector or LabelSelector()
    if peer.namespace_selector is None:
        namespaces = [policy.namespace]
    else:
        namespaces = selection.namespaces(peer.namespace_selector)
        if not namespaces:
            guess = selection.guess_namespace(peer.namespace_selector)
            return f"no namespace has the labels {peer.namespace_selector}{guess}"
    pods = [spec for name in namespaces for spec in selection.pods(name, pod_selector)]
    if any(not spec.host_network for spec in pods):
        return ""
    if pods:
        return "it matches only pods with hostNetwork, whose packets come from their node"
    if len(namespaces) == 1:
        guess = selection.guess_pod(namespaces[0], pod_selector)
        return f"{_no_pod(namespaces[0], pod_selector)}{guess}"
    return f"{_no_pod(listed(namespaces), pod_selector)}"


def _check_ports(
    policy: NetworkPolicy,
    direction: Direction,
    peers: Sequence[NetworkPolicyPeer],
    ports: Iterable[NetworkPolicyPort],
    path: Path,
    selection: _Selection,
) -> Iterator[Diagnostic]:
    """Check that a destination of a rule has the ports that the rule allows.

    Numbers are checked only if a Service has such a port: pods need not declare theirs. Hosts
    outside may have any port.
    """
    is_to_pods = direction == "Ingress" or (peers and all(peer.ip_block is None for peer in peers))
    for number, port in enumerate(ports):
        found = None
        if isinstance(port.port, str):
            pods = _destinations(policy, direction, peers, selection, selection.pods)
            found = unknown_port(port.port, [port.protocol], [*map(named_ports, pods)])
        elif is_to_pods and port.port is not None and port.end_port is None:
            templates = _destinations(policy, direction, peers, selection, selection.templates)
            found = translated_port([*templates], port.port, port.protocol)
        if found is not None:
            port_path = (*path, "ports", number, "port")
            yield Diagnostic.of(policy, POLICY_PORT_UNKNOWN, port_path, *found)


def _destinations(
    policy: NetworkPolicy,
    direction: Direction,
    peers: Sequence[NetworkPolicyPeer],
    selection: _Selection,
    matching: Callable[[str, LabelSelector], Iterable[T]],
) -> Iterator[T]:
    """Yield the pods to which a rule can allow connections.

    matching: returns what a selector matches in a namespace.
    """
    if direction == "Ingress":
        yield from matching(policy.namespace, policy.spec.pod_selector)
        return
    for peer in peers or (NetworkPolicyPeer(namespace_selector=LabelSelector()),):
        if peer.ip_block is None:
            namespaces = (
                [policy.namespace]
                if peer.namespace_selector is None
                else selection.namespaces(peer.namespace_selector)
            )
            for name in namespaces:
                yield from matching(name, peer.pod_selector or LabelSelector())


def _no_pod(namespace: str, selector: LabelSelector) -> str:
    """Return the message that no pod of a namespace is selected."""
    if not str(selector):
        return f"namespace {namespace} has no pod"
    return f"no pod and no workload in namespace {namespace} has the labels {selector}"


def _guess(selector: LabelSelector, candidates: Sequence[Labels]) -> str:
    """Return `; did you mean X?` for the existing label that is most similar to a required one."""
    pairs = {f"{key}={value}" for labels in candidates for key, value in labels.items()}
    for key, value in selector.match_labels.items():
        if f"{key}={value}" not in pairs and (
            guess := did_you_mean(f"{key}={value}", sorted(pairs))
        ):
            return guess
    return ""
