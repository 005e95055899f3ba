"""Labels of pods as Cilium's policies see them, and the selectors of these policies.

A label has a source: `k8s:app` is a label of Kubernetes, and a key without source, or with the
source `any`, matches labels of all sources. The labels of a pod's identity are those of the pod,
without some that differ between the pods of a workload, and those of its namespace.

Source: cilium/cilium pkg/labelsfilter/filter.go, pkg/k8s/labels.go, pkg/policy/api/selector.go,
pkg/k8s/apis/cilium.io/utils/utils.go (1.18).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Final

from kubenetlab.api.meta import Labels, LabelSelector, LabelSelectorRequirement
from kubenetlab.api.pods import Pod

NAMESPACE_KEY: Final = "io.kubernetes.pod.namespace"
NAMESPACE_LABEL_PREFIX: Final = "io.cilium.k8s.namespace.labels."
CLUSTER_KEY: Final = "io.cilium.k8s.policy.cluster"
CLUSTER_NAME: Final = "default"
SERVICE_ACCOUNT_KEY: Final = "io.cilium.k8s.policy.serviceaccount"
RESERVED: Final = "reserved"
"""Source of labels of peers that are no pods, such as `reserved:host`."""
_POD_SOURCES: Final = ("any", "k8s")
"""Sources of keys that match labels of pods."""

IGNORED: Final = frozenset(
    (
        "apps.kubernetes.io/pod-index",
        "batch.kubernetes.io/controller-uid",
        "batch.kubernetes.io/job-completion-index",
        "controller-revision-hash",
        "controller-uid",
        "job-completion-index",
        "pod-template-generation",
        "pod-template-hash",
        "statefulset.kubernetes.io/pod-name",
    )
)
"""Labels that differ between pods of one workload, or between its revisions."""


def identity_labels(pod: Pod, namespace_labels: Labels) -> Labels:
    """Return the labels that determine the identity of a pod, without their source `k8s`."""
    labels = {key: value for key, value in pod.labels.items() if key not in IGNORED}
    labels |= {f"{NAMESPACE_LABEL_PREFIX}{key}": value for key, value in namespace_labels.items()}
    labels[CLUSTER_KEY] = CLUSTER_NAME
    labels[SERVICE_ACCOUNT_KEY] = service_account(pod)
    labels[NAMESPACE_KEY] = pod.namespace
    return labels


def is_inherited(key: str) -> bool:
    """Return True for a label of an identity that is not one of the pod itself."""
    return key in (CLUSTER_KEY, SERVICE_ACCOUNT_KEY, NAMESPACE_KEY) or key.startswith(
        NAMESPACE_LABEL_PREFIX
    )


def service_account(pod: Pod) -> str:
    """Return the name of a pod's service account."""
    return str(pod.spec.service_account_name or "default")


def split_key(key: str) -> tuple[str, str]:
    """Return the source and the name of a key in a selector: `k8s:app` → `("k8s", "app")`."""
    source, colon, name = key.partition(":")
    return (source, name) if colon else ("any", key)


def is_of_pods(source: str) -> bool:
    """Return True if keys of a source can match labels of pods."""
    return source in _POD_SOURCES


def requirements(selector: LabelSelector) -> Iterator[LabelSelectorRequirement]:
    """Yield all requirements of a selector, those of labels as well."""
    for key, value in selector.match_labels.items():
        yield LabelSelectorRequirement(key, "In", (value,))
    yield from selector.match_expressions


def keys_of(selector: LabelSelector) -> Iterator[tuple[str, str]]:
    """Yield the source and the name of each key of a selector."""
    return (split_key(requirement.key) for requirement in requirements(selector))


def names_namespace(selector: LabelSelector) -> bool:
    """Return True if a selector of peers says in which namespaces they are."""
    return any(
        is_of_pods(source) and (name == NAMESPACE_KEY or name.startswith(NAMESPACE_LABEL_PREFIX))
        for source, name in keys_of(selector)
    )


def reserved_peers(selector: LabelSelector) -> tuple[str, ...] | None:
    """Return the entities that a selector of reserved labels means; None for other selectors.

    Entities have one label each, so several different labels mean none of them.
    """
    keys = list(keys_of(selector))
    if not any(source == RESERVED for source, _ in keys):
        return None
    names = {name for _, name in keys}
    is_plain = all(
        source == RESERVED and requirement.operator in ("In", "Exists")
        for (source, _), requirement in zip(keys, requirements(selector), strict=True)
    )
    return tuple(names) if is_plain and len(names) == 1 else ()


def is_peer(selector: LabelSelector, namespace: str, labels: Labels) -> bool:
    """Return True if a selector of peers matches a pod.

    namespace: namespace of the policy; empty for a policy of all namespaces.
    labels: labels of the pod's identity.
    """
    if namespace and not names_namespace(selector) and labels[NAMESPACE_KEY] != namespace:
        return False
    return _matches(selector, labels)


def is_subject(selector: LabelSelector, namespace: str, labels: Labels) -> bool:
    """Return True if a policy applies to a pod, by the selector of its subjects."""
    if not namespace:
        return _matches(selector, labels)
    own = {
        key: namespace if split_key(key)[1] == NAMESPACE_KEY else value
        for key, value in selector.match_labels.items()
    }
    return labels[NAMESPACE_KEY] == namespace and _matches(
        LabelSelector(own, selector.match_expressions), labels
    )


def _matches(selector: LabelSelector, labels: Labels) -> bool:
    """Return True if the labels of a pod meet all requirements. Other sources have no label."""
    sourced: dict[str, str] = {}
    for requirement in requirements(selector):
        source, name = split_key(requirement.key)
        if is_of_pods(source) and name in labels:
            sourced[requirement.key] = labels[name]
    return selector.matches(sourced)


def subjects_selector(selector: LabelSelector, namespace: str) -> LabelSelector:
    """Return a selector of subjects as requirements of plain keys, with the namespace.

    namespace: that of the policy; empty for all namespaces.
    """
    found = _with_plain_keys(selector)
    if not namespace:
        return found
    own = LabelSelectorRequirement(NAMESPACE_KEY, "In", (namespace,))
    labels = {split_key(key)[1] for key in selector.match_labels}
    others = (
        each
        for each in found.match_expressions
        if not (each.key == NAMESPACE_KEY and NAMESPACE_KEY in labels)
    )
    return LabelSelector(match_expressions=(*others, own))


def peer_selector(selector: LabelSelector, namespace: str) -> LabelSelector:
    """Return a selector of peers as requirements of plain keys, with the namespace if implied."""
    found = _with_plain_keys(selector)
    if not namespace or names_namespace(selector):
        return found
    own = LabelSelectorRequirement(NAMESPACE_KEY, "In", (namespace,))
    return LabelSelector(match_expressions=(*found.match_expressions, own))


def _with_plain_keys(selector: LabelSelector) -> LabelSelector:
    """Return a selector with one key for each label of pods, whatever source its keys name."""
    return LabelSelector(
        match_expressions=tuple(
            LabelSelectorRequirement(
                split_key(each.key)[1] if is_of_pods(split_key(each.key)[0]) else each.key,
                each.operator,
                each.values,
            )
            for each in requirements(selector)
        )
    )


def matches_host_name(match_name: str, match_pattern: str, name: str) -> bool:
    """Return True if a selector of DNS names, which has one of two fields, matches a name."""
    name = _plain(name)
    if match_name:
        return _plain(match_name) == name
    return _pattern(_plain(match_pattern)).fullmatch(name) is not None


def _plain(name: str) -> str:
    return name.lower().removesuffix(".")


@lru_cache(256)
def _pattern(pattern: str) -> re.Pattern[str]:
    """Return a pattern of names: `*` is part of a label, `**.` at the start are several labels."""
    if pattern == "*":
        return re.compile(r".*")
    start = ""
    if pattern.startswith("**."):
        start, pattern = r"([-a-z0-9_]+\.)+", pattern[3:]
    return re.compile(start + r"[-a-z0-9_]*".join(map(re.escape, pattern.split("*"))))


def texts(labels: Mapping[str, str]) -> Iterable[str]:
    """Return labels of an identity as text, such as `k8s:app=web`, in alphabetical order."""
    return sorted(f"k8s:{key}={value}" for key, value in labels.items())
