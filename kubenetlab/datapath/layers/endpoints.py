"""Layer `endpoints`: what every node knows of the pods of all nodes, in CNI modes that need it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

from kubenetlab.api.object_map import ObjectKey
from kubenetlab.api.plugins.cni_agents import StoppedAgent
from kubenetlab.api.pods import Pod
from kubenetlab.datapath.identities import ClusterPod, cluster_pods, numbers_by_labels
from kubenetlab.datapath.layers.layer import (
    DesiredObjects,
    Inputs,
    Layer,
    PlanContext,
    by_namespace,
    mode_name,
)
from kubenetlab.datapath.modes import CNI
from kubenetlab.hoststate.object import Origin
from kubenetlab.hoststate.rules.rulesets import (
    NodeRules,
    RuleObject,
    RuleSet,
    Subject,
    SubjectRules,
)
from kubenetlab.versioned import ChangedEntries, VersionedMap

_Numbered = tuple[ClusterPod, int]
"""A pod, and the number of its set of labels."""


def _inputs(context: PlanContext) -> Iterator[tuple[str, Inputs]]:
    if not context.cni.knows_all_pods:
        return
    cache = context.cache
    pods = cluster_pods(context.cluster, cache)
    numbers = numbers_by_labels(context.cluster, cache)
    current = {key: (pod, numbers[pod.labels]) for key, pod in pods.items()}
    numbered = cache.from_former("numbered pods", partial(_numbered, current), current)
    rules = cache.each("endpoint rules", _pod_rules, numbered, context.cni)
    rule_set = cache.follow("endpoint rule set", _rule_set, rules)
    component = mode_name("cni", context.cni)
    for node in context.nodes:
        stopped = context.cluster.get(StoppedAgent, "", node.name)
        known = rule_set
        if stopped is not None:
            former = context.policies_of(node).rules.identities
            known = _last_rule_set(context, stopped, rules, former)
        yield node.name, (node.netns, node.name, known, component)


def _numbered(
    current: Mapping[ObjectKey, _Numbered],
    former: tuple[Mapping[ObjectKey, _Numbered], VersionedMap[ObjectKey, _Numbered]] | None,
) -> VersionedMap[ObjectKey, _Numbered]:
    """Return pods with their identities; unchanged ones are the same values as before."""
    known = former[1] if former is not None else VersionedMap[ObjectKey, _Numbered]()
    return known.replaced_by(current)


def _last_rule_set(
    context: PlanContext,
    stopped: StoppedAgent,
    rules: VersionedMap[ObjectKey, SubjectRules[RuleObject] | None],
    former: Mapping[ObjectKey, int],
) -> RuleSet[RuleObject]:
    """Return the rules about the pods that a stopped agent knew and that still exist.

    former: identities of pods when the agent was stopped; missing pods have the present one.
    """
    all_pods = cluster_pods(context.cluster, context.cache)
    pods, uids = context.cluster.by_key(Pod), frozenset(stopped.pods)

    def build() -> RuleSet[RuleObject]:
        known = [
            entry
            for key, current in rules.items()
            if current is not None and pods[key].uid in uids
            for entry in (
                context.cni.cluster_pod(all_pods[key], former[key]) if key in former else current,
            )
            if entry is not None
        ]
        changes: dict[Subject, SubjectRules[RuleObject] | None] = {e.key: e for e in known}
        backend = known[0].backend if known else ""
        return RuleSet[RuleObject](backend, VersionedMap()).with_changes(changes)

    return context.cache.by_identity(
        ("last endpoint rules", stopped.name), build, rules, pods, stopped, former
    )


def _pod_rules(numbered: _Numbered, cni: CNI) -> SubjectRules[RuleObject] | None:
    return cni.cluster_pod(*numbered)


def _rule_set(
    former: RuleSet[RuleObject] | None, news: ChangedEntries[ObjectKey, SubjectRules[RuleObject]]
) -> RuleSet[RuleObject] | None:
    changes: dict[Subject, SubjectRules[RuleObject] | None] = {}
    backend = former.backend if former is not None else ""
    for before, after in news.values():
        if before is not None:
            changes.setdefault(before.key, None)
        if after is not None:
            changes[after.key] = after
            backend = after.backend
    return (former or RuleSet(backend, VersionedMap())).with_changes(changes)


def _objects(
    netns: str, node: str, rules: RuleSet[RuleObject], component: str
) -> tuple[DesiredObjects, ...]:
    objects = (NodeRules(netns, rules),) if rules.by_subject else ()
    return tuple(by_namespace(objects, Origin(component, f"Node {node}")))


LAYER = Layer("endpoints", _inputs, _objects)
