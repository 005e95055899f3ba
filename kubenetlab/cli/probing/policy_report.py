"""Report of explain-policy: endpoints, directions, policies, and rules in the kernel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from kubenetlab.api.json_types import JsonObject
from kubenetlab.cli.policies import (
    PolicyPlaces,
    nodes_with_former_policies,
    policy_engine,
    policy_objects,
)
from kubenetlab.cli.probing.policy_limits import (
    PolicyLimits,
    difference,
    limits_data,
    show_limits,
)
from kubenetlab.cli.terminal.printing import echo
from kubenetlab.cli.terminal.theme import BAD, GOOD, MUTED, PLACE, WARNING, paint
from kubenetlab.lab.paths import LAB_API

if TYPE_CHECKING:
    from kubenetlab.cli.labs.diagnostics import AssessedDiagnostic
    from kubenetlab.lab.client import Client
    from kubenetlab.observe.destination_lookup import StatedDestination
    from kubenetlab.observe.inspection import Inspection
    from kubenetlab.observe.policies.explanation import EndpointExplanation, PathExplanation
    from kubenetlab.observe.policies.kernel_rules import KernelRule
    from kubenetlab.observe.policies.model import DirectionVerdict, Party, RuleReference, Traffic
    from kubenetlab.observe.policies.objects import PolicyObjects
    from kubenetlab.observe.policies.verdicts import Decision
    from kubenetlab.observe.targets.locations import Location

_DECISIONS: Mapping[Decision, tuple[str, str]] = {
    "allowed": ("allowed", GOOD),
    "denied": ("denied", BAD),
    "either": ("allowed or denied, see below", WARNING),
}
"""Decision → its text and style."""

_MAX_KERNEL_RULES = 4
"""Maximum number of rules in the kernel that are printed for one end."""


class PolicyReport:
    """Explanations of the connections of one source."""

    def __init__(self, client: Client, inspected: Inspection, source: Location) -> None:
        from kubenetlab.observe.policies.verdicts import PolicyVerdicts

        self._client = client
        self._engine = policy_engine(inspected)
        self._outdated = nodes_with_former_policies(inspected)
        self._nodes = {node["name"]: node["sandbox"] for node in inspected["nodes"]}
        self._hosts = {
            address: f"ext:{host['name']}"
            for host in inspected["external"]
            for address in host["addresses"]
        }
        self._source = source
        self._objects: PolicyObjects = policy_objects(client, always=True)
        self._place_of = PolicyPlaces(self._objects)
        enforced = self._objects.only_enforced() if self._engine != "none" else self._objects
        if not enforced.policies:
            enforced = self._objects
        self._verdicts = PolicyVerdicts(enforced, inspected)
        self._unenforced = [
            policy
            for policy in self._objects.policies
            if self._engine == "none" or policy.kind not in self._objects.enforced
        ]
        self._is_hypothetical = len(self._unenforced) == len(self._objects.policies) > 0
        """True if this lab enforces none of its policies."""
        omitted = (policy.title for policy in self._unenforced)
        self._limits = PolicyLimits(client, inspected, omitted)
        self._listings: dict[str, Mapping[str, str]] = {}
        self._differing: dict[str, bool] = {}
        """Node of an explained connection → True if its rules are not the desired ones."""

    @property
    def has_differences(self) -> bool:
        """True if a node of an explained connection does not have the desired rules."""
        return any(self._differing.values())

    def as_data(self, destinations: Sequence[StatedDestination]) -> JsonObject:
        from kubenetlab.observe.policies.verdicts import combined

        explained = [(each, self._explain(each)) for each in destinations]
        endpoints = [endpoint for _, own in explained for endpoint in own]
        limits = {
            (each.name, each.message): each
            for destination, own in explained
            for each in self._limits_of(destination, own)
        }
        return {
            "from": self._source.title,
            "to": destinations[0].title,
            "address": destinations[0].address,
            "port": destinations[0].port,
            "protocol": destinations[0].protocol,
            "engine": self._engine,
            "decision": combined(endpoint.decision for endpoint in endpoints),
            "unenforced": [policy.title for policy in self._unenforced],
            "could_differ": list(limits_data(limits.values())),
            "endpoints": [self._endpoint_data(endpoint) for endpoint in endpoints],
        }

    def show(self, destinations: Sequence[StatedDestination]) -> None:
        from kubenetlab.names import socket_address
        from kubenetlab.observe.policies.verdicts import combined

        for destination in destinations:
            endpoints = self._explain(destination)
            decision = combined(endpoint.decision for endpoint in endpoints)
            limits = self._limits_of(destination, endpoints)
            text, style = _DECISIONS[decision]
            if self._is_hypothetical:
                text, style = f"would be {text}", WARNING
            elif limits:
                text, style = f"{text}; {difference(limits, decision)}", WARNING
            address = destination.address
            if destination.port:
                address = socket_address(address, destination.port)
            own = self._verdicts.paths.party(self._source, destination.address)
            echo(
                f"{self._source.title} ({own.address}) → {destination.title} ({address}) "
                f"{paint(destination.protocol, MUTED)}: {paint(text, style)}"
            )
            if not self._verdicts.paths.to(
                self._source, destination.address, destination.port, destination.protocol
            ):
                echo("  the Service has no ready endpoint; its address itself is explained")
            for endpoint in endpoints:
                self._show_endpoint(endpoint, destination)
            show_limits(limits, decision)
        self._show_unenforced()
        differing = [node for node, differs in self._differing.items() if differs]
        if differing:
            nodes = ", ".join(f"node:{node}" for node in sorted(differing))
            text = "not the desired ones, and may decide otherwise (kubenetlab diff)"
            echo(paint(f"rules in the kernel of {nodes} are {text}", BAD))

    def _show_unenforced(self) -> None:
        """Print the policies that have no effect in this lab."""
        if not self._unenforced:
            return
        if self._is_hypothetical:
            reason = f"the policy engine of this lab is {self._engine}"
            if self._engine != "none":
                reason = "kubenetlab describe says why"
            echo(paint(f"no policy is enforced: {reason}", WARNING))
            return
        titles = ", ".join(policy.title for policy in self._unenforced)
        echo(paint(f"left out, because this lab does not enforce them: {titles}", WARNING))

    def _explain(self, destination: StatedDestination) -> list[EndpointExplanation]:
        from kubenetlab.observe.policies.explanation import explain

        return explain(
            self._verdicts,
            self._source,
            destination.address,
            destination.port,
            destination.protocol,
        )

    def _limits_of(
        self, destination: StatedDestination, endpoints: Sequence[EndpointExplanation]
    ) -> list[AssessedDiagnostic]:
        from kubenetlab.observe.policies.verdicts import combined

        decision = combined(endpoint.decision for endpoint in endpoints)
        return self._limits.of(self._source, destination, decision)

    def _show_endpoint(self, endpoint: EndpointExplanation, destination: StatedDestination) -> None:
        from kubenetlab.names import socket_address

        indent = "  "
        if endpoint.address != destination.address:
            text, style = _DECISIONS[endpoint.decision]
            address = socket_address(endpoint.address, endpoint.port)
            echo(f"  endpoint {self._name(endpoint.party)} ({address}): {paint(text, style)}")
            indent = "    "
        for path in endpoint.paths:
            own = indent
            if len(endpoint.paths) > 1 or path.sources != (path.source,):
                text, style = _DECISIONS["allowed" if path.is_allowed else "denied"]
                seen = " or ".join(self._names(path.sources))
                echo(f"{indent}the destination sees {seen}: {paint(text, style)}", indent=8)
                own = indent + "  "
            for line in self._path_lines(path):
                echo(f"{own}{line}", indent=len(own) + 4)

    def _path_lines(self, path: PathExplanation) -> Iterator[str]:
        if path.exemption and not (path.egress.decided_by or path.ingress.decided_by):
            yield path.exemption
            return
        if path.exemption:
            yield f"NetworkPolicies do not apply: {path.exemption}"
        for verdict, subject, traffic, peers in (
            (path.egress, path.source, path.leaving, (path.target,)),
            (path.ingress, path.destination, path.arriving, path.sources),
        ):
            yield from self._direction_lines(verdict, subject, traffic, peers)

    def _direction_lines(
        self, verdict: DirectionVerdict, subject: Party, traffic: Traffic, peers: Sequence[Party]
    ) -> Iterator[str]:
        from kubenetlab.observe.policies.model import named_policy

        direction = verdict.direction.lower()
        if not self._verdicts.paths.is_subject(subject):
            return
        start = f"{direction} of {self._name(subject)}: "
        if verdict.isolated_by and verdict.decided_in in ("NetworkPolicy", verdict.isolated_in):
            isolating = (self._policy(*named_policy(each)) for each in verdict.isolated_by)
            yield f"{start}isolated by {', '.join(isolating)}"
        elif verdict.decided_by:
            rule = verdict.decided_by[0]
            yield f"{start}decided by {self._policy(rule.kind, rule.policy)}"
        else:
            yield f"{start}no policy isolates it"
            self._differs(subject)
            yield from self._outdated_lines(subject)
            return
        for rule in verdict.decided_by:
            yield f"  {paint(_rule_text(rule), GOOD if verdict.is_allowed else BAD)}" + (
                f" ({paint(place, PLACE)})" if (place := self._place(rule, verdict)) else ""
            )
        if not verdict.decided_by:
            denied = " or ".join(self._names(peers))
            yield f"  {paint(f'no rule allows {denied}', BAD)}"
        lines = self._kernel_rules(verdict, subject, traffic, peers)
        for line in lines[:_MAX_KERNEL_RULES]:
            yield f"  {paint(f'{line.node}: {line.chain}:', MUTED)} {line.rule}"
        if len(lines) > _MAX_KERNEL_RULES:
            yield f"  … and {len(lines) - _MAX_KERNEL_RULES} more rules in the kernel"
        if self._differs(subject) and not lines:
            yield "  " + paint(f"{subject.node}: the rule is not in the kernel", BAD)
        yield from self._outdated_lines(subject)

    def _outdated_lines(self, subject: Party) -> Iterator[str]:
        if subject.node in self._outdated:
            yield "  " + paint(
                f"{subject.node}: no agent of the CNI plugin runs there, so the rules of this node "
                "are those of former policies, and decide instead",
                WARNING,
            )

    def _endpoint_data(self, endpoint: EndpointExplanation) -> JsonObject:
        return {
            "address": endpoint.address,
            "port": endpoint.port,
            "name": self._name(endpoint.party),
            "decision": endpoint.decision,
            "paths": [
                {
                    "allowed": path.is_allowed,
                    "exemption": path.exemption,
                    "sources": [self._party_data(each) for each in path.sources],
                    "egress": self._direction_data(
                        path.egress, path.source, path.leaving, (path.target,)
                    ),
                    "ingress": self._direction_data(
                        path.ingress, path.destination, path.arriving, path.sources
                    ),
                }
                for path in endpoint.paths
            ],
        }

    def _direction_data(
        self, verdict: DirectionVerdict, subject: Party, traffic: Traffic, peers: Sequence[Party]
    ) -> JsonObject:
        from kubenetlab.observe.policies.model import named_policy

        lines = self._kernel_rules(verdict, subject, traffic, peers)
        is_decided = bool(verdict.isolated_by or verdict.decided_by)
        return {
            "end": self._party_data(subject),
            "allowed": verdict.is_allowed,
            "outdated": subject.node in self._outdated,
            "differs": self._differs(subject),
            "missing": is_decided and not lines and self._differs(subject),
            "stage": verdict.decided_in,
            "isolated_by": [
                {
                    "kind": kind,
                    "policy": name,
                    "place": self._place_of(kind, name),
                    "enforced": kind in self._enforced,
                }
                for kind, name in map(named_policy, verdict.isolated_by)
            ],
            "decided_by": [
                {
                    "kind": rule.kind,
                    "policy": rule.policy,
                    "index": rule.index,
                    "name": rule.name,
                    "action": rule.action,
                    "place": self._place(rule, verdict),
                    "enforced": rule.kind in self._enforced,
                }
                for rule in verdict.decided_by
            ],
            "kernel": [
                {"node": line.node, "chain": line.chain, "rule": line.rule} for line in lines
            ],
        }

    def _party_data(self, party: Party) -> JsonObject:
        return {"address": party.address, "name": self._name(party), "node": party.node}

    @property
    def _enforced(self) -> frozenset[str]:
        return self._objects.enforced if self._engine != "none" else frozenset()

    def _name(self, party: Party) -> str:
        """Return the name of a party; its address for hosts that the lab does not know."""
        if party.pod:
            return party.pod
        if party.node:
            return f"node:{party.node}"
        return self._hosts.get(party.address, party.address)

    def _names(self, parties: Sequence[Party]) -> Iterator[str]:
        """Yield each name with its addresses, such as `node:worker (172.18.0.3, 10.244.1.1)`."""
        addresses: dict[str, list[str]] = {}
        for party in parties:
            addresses.setdefault(self._name(party), []).append(party.address)
        for name, own in addresses.items():
            yield name if own == [name] else f"{name} ({', '.join(own)})"

    def _policy(self, kind: str, name: str) -> str:
        """Return a policy with the place of its document."""
        title = f"{kind} {name}"
        remark = "" if kind in self._enforced else paint(", not enforced", WARNING)
        place = self._place_of(kind, name)
        return title + (f" ({paint(place, PLACE)}{remark})" if place or remark else "")

    def _place(self, rule: RuleReference, verdict: DirectionVerdict) -> str:
        """Return the file and line of a rule."""
        return self._place_of(rule.kind, rule.policy, rule.path(verdict.direction))

    def _kernel_rules(
        self, verdict: DirectionVerdict, subject: Party, traffic: Traffic, peers: Sequence[Party]
    ) -> list[KernelRule]:
        """Return the rules on the subject's node; none for nodes and hosts."""
        from kubenetlab.observe.policies.kernel_rules import kernel_rules

        sandbox = self._nodes.get(subject.node)
        is_decided = bool(verdict.isolated_by or verdict.decided_by)
        if not is_decided or not self._enforced or sandbox is None:
            return []
        if subject.node not in self._listings:
            detail = self._client.get(f"{LAB_API}/detail", netns=sandbox)
            self._listings[subject.node] = detail["listings"]
        listings = self._listings[subject.node]
        return kernel_rules(listings, subject.node, verdict, subject, traffic, peers)

    def _differs(self, subject: Party) -> bool:
        """Return True if the rules of a pod's node are not the desired ones."""
        node = subject.node
        if not self._enforced or node in self._outdated or node not in self._nodes:
            return False
        if self._is_hypothetical or not self._verdicts.paths.is_subject(subject):
            return False
        if node not in self._differing:
            report = self._client.get(f"{LAB_API}/rule-differences", netns=self._nodes[node])
            self._differing[node] = bool(report["changes"])
        return self._differing[node]


def _rule_text(rule: RuleReference) -> str:
    """Return a rule and its action: `AdminNetworkPolicy x rule 1 (name) denies it`."""
    verb = "allows" if rule.kind == "NetworkPolicy" or rule.action == "Accept" else "denies"
    name = f" ({rule.name})" if rule.name else ""
    return f"{rule.kind} {rule.policy} rule {rule.index}{name} {verb} it"
