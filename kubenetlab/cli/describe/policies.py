"""describe of network policies: rules as kubectl prints them, with the pods and hosts they mean.

Source: k8s.io/kubectl pkg/describe/describe.go describeNetworkPolicySpec (1.33).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from kubenetlab.api.json_types import JsonMapping
from kubenetlab.api.meta import LabelSelector
from kubenetlab.cli.describe.fields import print_field, print_heading
from kubenetlab.cli.describe.policy_cells import subject
from kubenetlab.cli.terminal.printing import echo, print_data
from kubenetlab.cli.terminal.theme import MUTED, WARNING, paint

if TYPE_CHECKING:
    from kubenetlab.api.pods import Pod
    from kubenetlab.api.policies.cilium_network_policy import CiliumRule
    from kubenetlab.api.policies.cilium_rules import AnyCiliumRule
    from kubenetlab.api.policies.network_policy import (
        NetworkPolicy,
        NetworkPolicyPeer,
        NetworkPolicyPort,
    )
    from kubenetlab.api.store import Cluster
    from kubenetlab.lab.client import Client
    from kubenetlab.observe.inspection import Inspection
    from kubenetlab.observe.policies.peers import NamedHost, PolicyMembers
    from kubenetlab.observe.policies.rule_peers import RulePeers

_MAX_HOSTS: Final = 20
"""Maximum number of pods and hosts that are printed for a selector or range."""


def describe_network_policy(client: Client, document: JsonMapping) -> None:
    """Print the part between a NetworkPolicy's metadata and its events."""
    from kubenetlab.api.policies.network_policy import NetworkPolicy
    from kubenetlab.cli.policies import policy_objects
    from kubenetlab.observe.policies.peers import PolicyMembers, named

    meta = document["metadata"]
    inspected = client.inspect()
    _print_engine(client, document, inspected)
    objects = policy_objects(client)
    policy = objects.cluster.get(NetworkPolicy, meta["namespace"], meta["name"])
    if policy is None:
        return  # deleted in the meantime
    members = PolicyMembers(objects.cluster, inspected)
    selected = members.selected(policy)
    print_heading("Selected Pods")
    _print_hosts(named(selected), 1)
    print_heading("Spec")
    selector = str(policy.spec.pod_selector)
    everything = " (Allowing the specific traffic to all pods in this namespace)"
    print_field("PodSelector", selector or f"<none>{everything}", 1)
    rules = _Rules(policy, members, selected)
    rules.print_ingress()
    rules.print_egress()
    print_field("Policy Types", ", ".join(policy.directions), 1)


def describe_tier_policy(client: Client, document: JsonMapping) -> None:
    """Print the part between the metadata and the events of a policy of a tier."""
    from kubenetlab.api.policies.tiers import TIER_KINDS, tier_policy
    from kubenetlab.cli.policies import policy_objects
    from kubenetlab.observe.policies.peers import PolicyMembers, named
    from kubenetlab.observe.policies.rule_peers import RulePeersOfLab

    inspected = client.inspect()
    _print_engine(client, document, inspected)
    objects = policy_objects(client)
    key = document["kind"], document["metadata"]["name"]
    policies = (policy for kind in TIER_KINDS for policy in objects.cluster.all(kind))
    policy = next((each for each in policies if (each.kind, each.name) == key), None)
    if policy is None:
        return  # deleted in the meantime
    in_tier = tier_policy(policy)
    print_field("Tier", in_tier.spec.tier)
    print_field("Subject", subject(document))
    print_heading("Selected Pods")
    members = PolicyMembers(objects.cluster, inspected)
    _print_hosts(named(members.subjects_of(in_tier)), 1)
    print_heading("Spec")
    rules = {key: document["spec"][key] for key in ("ingress", "egress") if key in document["spec"]}
    priority = {"priority": document["spec"]["priority"]} if "priority" in document["spec"] else {}
    print_data({**priority, **rules}, "yaml")
    _print_rule_peers(RulePeersOfLab(objects.cluster, inspected).of_tier(in_tier))


def describe_cilium_policy(client: Client, document: JsonMapping) -> None:
    """Print the part between the metadata and the events of a policy of Cilium."""
    from kubenetlab.api.policies.cilium_rules import CILIUM_KINDS, specifications
    from kubenetlab.cli.policies import policy_objects
    from kubenetlab.observe.policies.peers import PolicyMembers, named
    from kubenetlab.observe.policies.rule_peers import RulePeersOfLab

    inspected = client.inspect()
    _print_engine(client, document, inspected)
    objects = policy_objects(client)
    meta = document["metadata"]
    key = document["kind"], meta.get("namespace", ""), meta["name"]
    policies = (policy for kind in CILIUM_KINDS for policy in objects.cluster.all(kind))
    policy = next((each for each in policies if (each.kind, *each.key) == key), None)
    if policy is None:
        return  # deleted in the meantime
    members = PolicyMembers(objects.cluster, inspected)
    for path, rule in specifications(policy):
        title = "Spec" if len(path) == 1 else f"Specs[{path[1]}]"
        given = document["spec"] if len(path) == 1 else document["specs"][path[1]]
        print_heading(f"Selected Pods of {title}" if policy.specs else "Selected Pods")
        _print_hosts(named(members.selected_by_cilium(policy, rule)), 1)
        _print_cidr_groups(rule, objects.cluster)
        print_heading(title)
        print_data(given, "yaml")
    _print_rule_peers(RulePeersOfLab(objects.cluster, inspected).of_cilium(policy))


def _print_cidr_groups(rule: CiliumRule, cluster: Cluster) -> None:
    """Print the ranges of the groups to which the rules of a specification refer."""
    from kubenetlab.api.policies.cilium_cidr_group import CiliumCIDRGroup, refers_to
    from kubenetlab.api.policies.cilium_rules import cidr_rules

    groups: dict[str, str] = {}
    rules: tuple[AnyCiliumRule, ...]
    rules = (*rule.ingress, *rule.ingress_deny, *rule.egress, *rule.egress_deny)
    for entry in (entry for each in rules for entry in cidr_rules(each)[1] if not entry.cidr):
        found = [
            group
            for group in cluster.all(CiliumCIDRGroup)
            if refers_to(entry, group.name, group.labels)
        ]
        for group in found:
            ranges = ", ".join(group.spec.external_cidrs)
            groups[group.name] = ranges or paint("<none>", WARNING)
        if not found:
            selector = entry.cidr_group_selector or LabelSelector()
            name = entry.cidr_group_ref or f"selector {str(selector) or '<none>'}"
            groups[name] = paint("no such group, so it matches nothing", WARNING)
    if groups:
        print_heading("CIDR Groups")
    for name, text in groups.items():
        echo(f"  {name}: {text}")


def describe_calico_policy(client: Client, document: JsonMapping) -> None:
    """Print the part between the metadata and the events of a policy of Calico."""
    from kubenetlab.api.calico.policies import CALICO_POLICY_KINDS
    from kubenetlab.api.kinds import writable
    from kubenetlab.cli.policies import policy_objects
    from kubenetlab.observe.policies.peers import PolicyMembers, named
    from kubenetlab.observe.policies.rule_peers import RulePeersOfLab

    inspected = client.inspect()
    _print_engine(client, document, inspected)
    objects = policy_objects(client)
    meta = document["metadata"]
    kind = next(each for each in CALICO_POLICY_KINDS if each is writable(document))
    policy = objects.cluster.get(kind, meta.get("namespace", ""), meta["name"])
    if policy is None:
        return  # deleted in the meantime
    spec = policy.spec
    print_field("Tier", spec.tier)
    print_field("Order", "last" if spec.order is None else f"{spec.order:g}")
    print_field("Selector", spec.selector or "all()")
    print_field("Policy Types", ", ".join(policy.directions))
    print_heading("Selected Pods")
    members = PolicyMembers(objects.cluster, inspected)
    _print_hosts(named(members.selected_by_calico(policy)), 1)
    print_heading("Spec")
    print_data({key: each for key, each in document["spec"].items() if key != "selector"}, "yaml")
    _print_rule_peers(RulePeersOfLab(objects.cluster, inspected).of_calico(policy))


def _print_rule_peers(rules: Sequence[RulePeers]) -> None:
    """Print the pods and hosts that each rule means."""
    from kubenetlab.api.text.decode import format_path

    if rules:
        print_heading("Peers of Rules")
    for rule in rules:
        echo(f"  {format_path(rule.path)}:")
        if rule.hosts is None:
            echo("    <any>")
        else:
            _print_hosts(rule.hosts, 2)


def _print_engine(client: Client, document: JsonMapping, inspected: Inspection) -> None:
    """Print the engine that enforces a policy, and the parts of it that none enforces."""
    from kubenetlab.api.kinds import qualified_kind, writable
    from kubenetlab.api.text.decode import format_path
    from kubenetlab.diagnostics import NOT_ENFORCED

    meta, kind = document["metadata"], writable(document)
    kinds = (qualified_kind(document), kind.kind if kind is not None else "")
    own = [
        each
        for each in client.diagnostics()
        if each["code"] == NOT_ENFORCED
        and each["kind"] in kinds
        and (each["namespace"] or "default", each["name"])
        == (meta.get("namespace", "default"), meta["name"])
    ]
    hints = next((each["hints"] for each in own if not each["path"]), None)
    print_field("Enforced By", _engine(hints, inspected))
    parts = [
        f"{format_path(tuple(each['path']))}: {each['message']}" for each in own if each["path"]
    ]
    if hints is None and parts:
        print_heading("Not Enforced")
        for part in parts:
            echo(f"  {paint(part, WARNING)}")


def _engine(hints: Sequence[str] | None, inspected: Inspection) -> str:
    """Return the engine that enforces a policy, or that none does.

    hints: reasons why no engine enforces it; None if one does.
    """
    from kubenetlab.cli.policies import nodes_with_former_policies

    if hints is not None:
        return paint("; ".join(("nothing", *hints)), WARNING)
    engine = inspected.get("policy_engine", "none")
    if outdated := nodes_with_former_policies(inspected):
        nodes = f"nodes without agent have former policies: {', '.join(outdated)}"
        return f"{engine}; {paint(nodes, WARNING)}"
    return engine


class _Rules:
    """Rules of one policy."""

    def __init__(
        self, policy: NetworkPolicy, members: PolicyMembers, selected: Sequence[Pod]
    ) -> None:
        self._policy = policy
        self._members = members
        self._selected = selected

    def print_ingress(self) -> None:
        if "Ingress" not in self._policy.directions:
            echo("  Not affecting ingress traffic")
            return
        print_heading("Allowing ingress traffic", 1)
        rules = self._policy.spec.ingress
        if not rules:
            echo("    <none> (Selected pods are isolated for ingress connectivity)")
        for index, rule in enumerate(rules):
            _print_separator(index)
            self._print_ports(rule.ports, self._selected)
            self._print_peers("From", rule.from_, "source")

    def print_egress(self) -> None:
        if "Egress" not in self._policy.directions:
            echo("  Not affecting egress traffic")
            return
        print_heading("Allowing egress traffic", 1)
        rules = self._policy.spec.egress
        if not rules:
            echo("    <none> (Selected pods are isolated for egress connectivity)")
        for index, rule in enumerate(rules):
            _print_separator(index)
            peers = [
                pod
                for peer in rule.to
                if peer.ip_block is None
                for pod in self._members.pods_of(self._policy, peer)
            ]
            self._print_ports(rule.ports, peers)
            self._print_peers("To", rule.to, "destination")

    def _print_ports(self, ports: Sequence[NetworkPolicyPort], pods: Sequence[Pod]) -> None:
        """Print the ports of a rule.

        pods: destinations, in which ports with names are looked up.
        """
        if not ports:
            echo("    To Port: <any> (traffic allowed to all ports)")
        for port in ports:
            text = str(port.port) if port.port is not None else "<any>"
            if port.end_port is not None:
                text += f"-{port.end_port}"
            meaning = ""
            if isinstance(port.port, str):
                numbers = self._members.ports_named(port, pods)
                meaning = f"  {', '.join(map(str, numbers)) or 'no pod has a port of this name'}"
            echo(f"    To Port: {text}/{port.protocol}{paint(meaning, MUTED)}")

    def _print_peers(self, word: str, peers: Sequence[NetworkPolicyPeer], restricted: str) -> None:
        if not peers:
            echo(f"    {word}: <any> (traffic not restricted by {restricted})")
        for peer in peers:
            echo(f"    {word}:")
            self._print_peer(peer)

    def _print_peer(self, peer: NetworkPolicyPeer) -> None:
        from kubenetlab.observe.policies.peers import named

        if peer.ip_block is not None:
            echo("      IPBlock:")
            echo(f"        CIDR: {peer.ip_block.cidr}")
            echo(f"        Except: {', '.join(peer.ip_block.except_)}".rstrip())
            _print_hosts(self._members.hosts_in(peer.ip_block), 4)
            return
        if peer.namespace_selector is not None:
            echo(f"      NamespaceSelector: {str(peer.namespace_selector) or '<none>'}")
        if peer.pod_selector is not None:
            echo(f"      PodSelector: {str(peer.pod_selector) or '<none>'}")
        _print_hosts(named(self._members.pods_of(self._policy, peer)), 4)


def _print_separator(index: int) -> None:
    if index:
        echo("    ----------")


def _print_hosts(hosts: Sequence[NamedHost], depth: int) -> None:
    """Print names and addresses, one per line."""
    indent = "  " * depth
    if not hosts:
        echo(f"{indent}{paint('<none>', WARNING)}")
    for host in hosts[:_MAX_HOSTS]:
        echo(f"{indent}{host}")
    if len(hosts) > _MAX_HOSTS:
        echo(f"{indent}… and {len(hosts) - _MAX_HOSTS} more")
