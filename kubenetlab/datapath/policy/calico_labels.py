"""Calico's selectors, and the labels by which they match pods and network sets.

A selector of namespaces or of service accounts becomes one of pods: a pod inherits the labels of
its namespace and of its service account, with a prefix. What belongs to no namespace inherits none.

Source: projectcalico/calico libcalico-go/lib/backend/{k8s/conversion,syncersv1/updateprocessors}
(3.30).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import structs

from kubenetlab.api.calico.policies import CalicoEntityRule, CalicoPolicy, GlobalNetworkPolicy
from kubenetlab.api.calico.selectors import (
    All,
    And,
    Comparison,
    Expression,
    Global,
    Has,
    Membership,
    Not,
    Or,
    parse_selector,
)
from kubenetlab.api.core import Namespace
from kubenetlab.api.meta import Labels
from kubenetlab.api.pods import Pod

NAMESPACE: Final = "projectcalico.org/namespace"
SERVICE_ACCOUNT: Final = "projectcalico.org/serviceaccount"
OF_NAMESPACE: Final = "pcns."
"""Prefix of the labels of namespaces."""
OF_SERVICE_ACCOUNT: Final = "pcsa."
"""Prefix of the labels of service accounts."""
_NAME: Final = "projectcalico.org/name"


def namespace_labels(namespaces: tuple[Namespace, ...]) -> Mapping[str, Labels]:
    """Return the labels that the pods and network sets of each namespace inherit."""
    return {
        namespace.name: {
            NAMESPACE: namespace.name,
            f"{OF_NAMESPACE}{_NAME}": namespace.name,
            **{f"{OF_NAMESPACE}{key}": value for key, value in namespace.labels.items()},
        }
        for namespace in namespaces
    }


def network_set_labels(own: Labels, namespace: str, of_namespaces: Mapping[str, Labels]) -> Labels:
    """Return the labels of a NetworkSet."""
    return {**own, **of_namespaces.get(namespace, {}), NAMESPACE: namespace}


def service_account(pod: Pod) -> str:
    """Return the name of a pod's service account."""
    return pod.spec.service_account_name or pod.spec.service_account or "default"


def pod_labels(own: Labels, namespace: str, inherited: Labels, service_account: str) -> Labels:
    """Return the labels of a pod.

    inherited: labels of its namespace.
    """
    return {
        **own,
        **inherited,
        NAMESPACE: namespace,
        "projectcalico.org/orchestrator": "k8s",
        SERVICE_ACCOUNT: service_account,
        f"{OF_SERVICE_ACCOUNT}{_NAME}": service_account,
    }


def labels_of(pod: Pod, of_namespaces: Mapping[str, Labels]) -> Labels:
    """Return the labels of a pod, with those that it inherits.

    of_namespaces: labels that the pods of each namespace inherit.
    """
    inherited = of_namespaces.get(pod.namespace, {})
    return pod_labels(pod.labels, pod.namespace, inherited, service_account(pod))


def subject_selector(policy: CalicoPolicy) -> Expression:
    """Return the selector of the pods to which a policy applies."""
    spec = policy.spec
    parts: list[Expression] = []
    if policy.namespace:
        parts.append(Comparison(NAMESPACE, "==", policy.namespace))
    elif isinstance(policy, GlobalNetworkPolicy) and policy.spec.namespace_selector:
        parts.append(_of_namespaces(policy.spec.namespace_selector))
    if spec.service_account_selector:
        parts.append(_of_service_accounts(spec.service_account_selector))
    if spec.selector:
        parts.append(parse_selector(spec.selector))
    return _all_of(parts) or All()


def entity_selector(entity: CalicoEntityRule, namespace: str) -> Expression | None:
    """Return the selector of the pods and network sets at one end; None if any host matches.

    namespace: that of the policy; empty for a GlobalNetworkPolicy.
    """
    parts: list[Expression] = []
    if (accounts := entity.service_accounts) is not None:
        if accounts.selector:
            parts.append(_of_service_accounts(accounts.selector))
        if accounts.names:
            parts.append(Membership(SERVICE_ACCOUNT, tuple(sorted(set(accounts.names)))))
    if entity.selector:
        parts.append(parse_selector(entity.selector))
    if entity.namespace_selector:
        parts.insert(0, _of_namespaces(entity.namespace_selector))
    elif namespace and (parts or entity.not_selector):
        parts.insert(0, Comparison(NAMESPACE, "==", namespace))
    return _all_of(parts)


def _all_of(parts: Sequence[Expression]) -> Expression | None:
    if len(parts) > 1:
        return And(tuple(parts))
    return parts[0] if parts else None


def _of_namespaces(selector: str) -> Expression:
    """Return a selector of namespaces as one of pods and network sets."""
    return _inherited(parse_selector(selector), OF_NAMESPACE)


def _of_service_accounts(selector: str) -> Expression:
    """Return a selector of service accounts as one of pods."""
    return _inherited(parse_selector(selector), OF_SERVICE_ACCOUNT)


def _inherited(expression: Expression, prefix: str) -> Expression:
    """Return a selector of inherited labels. all() means what has a namespace or an account."""
    owner = Has(NAMESPACE if prefix == OF_NAMESPACE else SERVICE_ACCOUNT)
    match expression:
        case All():
            return owner
        case Global():
            return Not(owner)
        case Has() | Comparison() | Membership():
            return structs.replace(expression, label=f"{prefix}{expression.label}")
        case Not(operand):
            return Not(_inherited(operand, prefix))
        case And(operands):
            return And(tuple(_inherited(each, prefix) for each in operands))
        case Or(operands):
            return Or(tuple(_inherited(each, prefix) for each in operands))
