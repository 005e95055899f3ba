"""Groups of pods of Cilium's selectors, as selectors of pods and of namespaces.

Some labels are no labels of pods: those of namespaces, of the cluster, and of service accounts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from kubenetlab.api.calico.selectors import And, Expression, Has, Membership, Not
from kubenetlab.api.core import NAMESPACE_NAME_LABEL
from kubenetlab.api.meta import Labels, LabelSelector, LabelSelectorRequirement
from kubenetlab.api.policies.cilium_labels import (
    CLUSTER_KEY,
    CLUSTER_NAME,
    IGNORED,
    NAMESPACE_KEY,
    NAMESPACE_LABEL_PREFIX,
    SERVICE_ACCOUNT_KEY,
    is_of_pods,
    names_namespace,
    requirements,
    split_key,
)
from kubenetlab.datapath.policy.calico_labels import OF_NAMESPACE, SERVICE_ACCOUNT
from kubenetlab.datapath.policy.members import PodGroup

ALL_PODS: Final = PodGroup.of("", None, LabelSelector())


def subjects(selector: LabelSelector, namespace: str) -> PodGroup | None:
    """Return the pods to which rules apply; None if no pod can be one.

    namespace: that of the policy; empty for all namespaces.
    """
    if not namespace:
        return peers(selector, "")
    # A label for the namespace counts as that of the policy.
    labels = {
        key: value
        for key, value in selector.match_labels.items()
        if split_key(key)[1] != NAMESPACE_KEY
    }
    return _group(LabelSelector(labels, selector.match_expressions), namespace)


def peers(selector: LabelSelector, namespace: str) -> PodGroup | None:
    """Return the pods that a selector of peers matches; None if no pod can have such labels.

    They are in the policy's namespace, unless the selector names others.
    """
    return _group(selector, "" if names_namespace(selector) else namespace)


def _group(selector: LabelSelector, namespace: str) -> PodGroup | None:
    """Return the pods of a namespace, or of all if it is empty, that a selector matches."""
    of_pods: list[LabelSelectorRequirement] = []
    of_namespaces: list[LabelSelectorRequirement] = []
    of_accounts: list[LabelSelectorRequirement] = []
    for requirement in requirements(selector):
        source, name = split_key(requirement.key)
        if not is_of_pods(source) or name in IGNORED or name == CLUSTER_KEY:
            if not _is_met(requirement, is_of_cluster=is_of_pods(source) and name == CLUSTER_KEY):
                return None
        elif name == NAMESPACE_KEY:
            of_namespaces.append(_renamed(requirement, NAMESPACE_NAME_LABEL))
        elif name.startswith(NAMESPACE_LABEL_PREFIX):
            of_namespaces.append(_renamed(requirement, name.removeprefix(NAMESPACE_LABEL_PREFIX)))
        elif name == SERVICE_ACCOUNT_KEY:
            of_accounts.append(requirement)
        else:
            of_pods.append(_renamed(requirement, name))
    if namespace and (of_namespaces or of_accounts):
        of_namespaces.append(LabelSelectorRequirement(NAMESPACE_NAME_LABEL, "In", (namespace,)))
    if of_accounts:
        return PodGroup.selected(And(tuple(_expressions(of_pods, of_namespaces, of_accounts))))
    of_group = LabelSelector(match_expressions=tuple(of_pods))
    if namespace and not of_namespaces:
        return PodGroup.of(namespace, of_group)
    return PodGroup.of("", of_group, LabelSelector(match_expressions=tuple(of_namespaces)))


def _is_met(requirement: LabelSelectorRequirement, *, is_of_cluster: bool) -> bool:
    """Return True if every pod meets a requirement of a label that is the same for all pods."""
    labels: Labels = {requirement.key: CLUSTER_NAME} if is_of_cluster else {}
    return LabelSelector(match_expressions=(requirement,)).matches(labels)


def _renamed(requirement: LabelSelectorRequirement, key: str) -> LabelSelectorRequirement:
    return LabelSelectorRequirement(key, requirement.operator, requirement.values)


def _expressions(
    of_pods: Iterable[LabelSelectorRequirement],
    of_namespaces: Iterable[LabelSelectorRequirement],
    of_accounts: Iterable[LabelSelectorRequirement],
) -> Iterator[Expression]:
    """Yield requirements as expressions of Calico, which know service accounts."""
    yield from (_expression(each, each.key) for each in of_pods)
    yield from (_expression(each, f"{OF_NAMESPACE}{each.key}") for each in of_namespaces)
    yield from (_expression(each, SERVICE_ACCOUNT) for each in of_accounts)


def _expression(requirement: LabelSelectorRequirement, label: str) -> Expression:
    match requirement.operator:
        case "In" | "NotIn":
            return Membership(label, requirement.values, requirement.operator == "NotIn")
        case "Exists":
            return Has(label)
        case "DoesNotExist":
            return Not(Has(label))
