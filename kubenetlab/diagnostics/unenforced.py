"""Diagnostics of objects that affect connections in a cluster and that the lab does not enforce."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import NamedTuple

from kubenetlab.api.calico.policies import CalicoNetworkPolicy, GlobalNetworkPolicy
from kubenetlab.api.config import Networking
from kubenetlab.api.json_types import JsonMapping
from kubenetlab.api.kinds import (
    PLUGIN_KINDS,
    POLICY_GROUP_KINDS,
    POLICY_KINDS,
    qualified_kind,
    writable,
)
from kubenetlab.api.lab import Decisions, NetworkFacts
from kubenetlab.api.manifests.unenforced import effect_of
from kubenetlab.api.meta import LabelSelector, Resource
from kubenetlab.api.policies.admin_network_policies import (
    AdminNetworkPolicy,
    BaselineAdminNetworkPolicy,
)
from kubenetlab.api.policies.cilium_network_policy import (
    CiliumClusterwideNetworkPolicy,
    CiliumNetworkPolicy,
)
from kubenetlab.api.policies.cluster_network_policy import ClusterNetworkPolicy
from kubenetlab.api.policies.network_policy import NetworkPolicy
from kubenetlab.api.policies.tiers import TierKind, tier_policy
from kubenetlab.api.store import Cluster
from kubenetlab.datapath import cluster_modes, modes
from kubenetlab.diagnostics.calico_policies import calico_scope
from kubenetlab.diagnostics.cilium_policies import cilium_scope
from kubenetlab.diagnostics.model import (
    NOT_ENFORCED,
    NOT_ENFORCED_ALTHOUGH,
    Diagnostic,
    Scope,
    subjects_of,
)
from kubenetlab.diagnostics.templates import Templates

_EFFECTS = {
    "policy": "it decides in a cluster which connections are allowed",
    "route": "it opens a way into the cluster",
    "addresses": "it decides in a cluster about addresses, or about the way to them",
    "mesh": "it redirects or refuses connections in a cluster",
}
"""Effect → what the object does in a cluster, for the message."""


def check_unenforced(cluster: Cluster, templates: Templates) -> Iterator[Diagnostic]:
    """Yield a diagnostic for every document that affects connections and is not enforced."""
    facts = cluster.get(NetworkFacts, "", "network") or NetworkFacts()
    decisions = cluster.get(Decisions, "", "decisions")
    engine_name, _ = cluster_modes.policy_engine(cluster.config.networking, decisions)
    enforced = cluster_modes.enforced_kinds_of(cluster)
    bypass = decisions.netfilter_bypass if decisions is not None else ""
    for given in cluster.given.values():
        document = given.document
        kind = writable(document)
        is_used = (
            kind is not None
            and PLUGIN_KINDS.get(kind, facts.plugin) == facts.plugin
            and (
                kind not in POLICY_KINDS
                or (kind in enforced and not bypass and _is_known(cluster, kind, document))
            )
        )
        effect = None if is_used else effect_of(document)
        if effect is None:
            continue
        if kind in POLICY_GROUP_KINDS and not any(_referring(cluster, kind)):
            continue  # without policies it has no effect in a cluster either
        meta = document["metadata"]
        reason = (
            _reason(cluster.config.networking, kind, facts.plugin, engine_name, bypass)
            if kind is not None and kind in (*POLICY_KINDS, *POLICY_GROUP_KINDS)
            else _Reason()
        )
        message = reason.message or f"{NOT_ENFORCED_ALTHOUGH} {_EFFECTS[effect]}"
        scope = _scope(cluster, document, effect)
        yield Diagnostic(
            NOT_ENFORCED,
            kind.kind if kind is not None else qualified_kind(document),
            meta.get("namespace", ""),
            meta["name"],
            (),
            message,
            (reason.hint,) if reason.hint else (),
            scope,
            reason.remedy,
            is_effective=not reason.message,
        )


def _is_known(cluster: Cluster, kind: type[Resource], document: JsonMapping) -> bool:
    """Return True if the policy is in the store; an older version may not have known its kind."""
    meta = document["metadata"]
    namespace = (meta.get("namespace") or "default") if kind.is_namespaced else ""
    return cluster.get(kind, namespace, meta["name"]) is not None


class _Reason(NamedTuple):
    """Reason why an object is not enforced."""

    hint: str = ""
    """The reason, and what enforces the object."""
    remedy: str = ""
    """Options of `kubenetlab up` with which the lab enforces it; empty if none do."""
    message: str = ""
    """Message in place of the one about the effect in a cluster; empty if it has the effect."""


def _reason(
    networking: Networking, kind: type[Resource], plugin: str, name: str, bypass: str
) -> _Reason:
    """Return why policies are not enforced, and how they are.

    plugin: name of the CNI plugin. name: that of the policy engine.
    """
    if (needed := PLUGIN_KINDS.get(kind, plugin)) != plugin:
        mode = _mode_of(needed)
        hint = f"only {mode} knows this kind; kubenetlab up --cni {mode} enforces it"
        return _Reason(hint, f"--cni {mode}")
    if name != "none":
        return _Reason(bypass or f"the policy engine {name} does not know this kind of policy")
    cni, _ = networking.cni_mode
    engines = modes.policy_engines(networking)
    others = [engine for engine in engines if engine != "none"]
    if not others:
        return _Reason(f"no policy engine works with cni {cni}")
    remedy = f"--policy {others[0]}"
    if engines[0] != "none":
        hint = f"the policy engine is none; kubenetlab up {remedy} enforces policies"
        return _Reason(hint, remedy)
    return _Reason(
        f"{cni} enforces no policies in a cluster either; in the lab, kubenetlab up {remedy} or "
        "another CNI mode enforces them",
        remedy,
        f"not enforced by this lab: {cni} has no network policies",
    )


def _mode_of(plugin: str) -> str:
    """Return the CNI mode that emulates a plugin: cilium for `cilium-cni`."""
    return next(
        name for name in modes.known("cni") if modes.load("cni", name, {}).facts.plugin == plugin
    )


def _scope(cluster: Cluster, document: JsonMapping, effect: str) -> Scope:
    """Return the connections that an object may affect in a cluster."""
    namespace = document["metadata"].get("namespace", "")
    spec = document.get("spec") if isinstance(document.get("spec"), Mapping) else {}
    assert isinstance(spec, Mapping)
    if effect == "route":
        return Scope(
            services=tuple(dict.fromkeys(_backends(spec, namespace or "default"))),
            is_outside_only=True,
        )
    if (kind := writable(document)) in POLICY_KINDS:
        home = (namespace or "default") if kind.is_namespaced else ""
        policy = cluster.get(kind, home, document["metadata"]["name"])
        return Scope(is_everything=True) if policy is None else _scope_of(cluster, policy)
    if kind in POLICY_GROUP_KINDS:
        return _union([_scope(cluster, each, effect) for each in _referring(cluster, kind)])
    if not namespace:
        return Scope(is_everything=True)
    pods = tuple(pod.full_name for pod in cluster.select(namespace, LabelSelector()))
    return Scope(into=pods, out_of=pods)


def _referring(cluster: Cluster, kind: type[Resource]) -> Iterator[JsonMapping]:
    """Yield the policies that may refer to objects of a kind: those of the same CNI plugin."""
    kinds = [each for each in POLICY_KINDS if PLUGIN_KINDS.get(each) == PLUGIN_KINDS[kind]]
    return (given.document for given in cluster.given.values() if writable(given.document) in kinds)


def _union(scopes: Sequence[Scope]) -> Scope:
    return Scope(
        any(scope.is_everything for scope in scopes),
        into=tuple(dict.fromkeys(pod for scope in scopes for pod in scope.into)),
        out_of=tuple(dict.fromkeys(pod for scope in scopes for pod in scope.out_of)),
    )


def _scope_of(cluster: Cluster, policy: Resource) -> Scope:
    """Return the connections of the pods to which a policy applies."""
    match policy:
        case NetworkPolicy():
            return _policy_scope(cluster, policy)
        case CalicoNetworkPolicy() | GlobalNetworkPolicy():
            return calico_scope(cluster, policy)
        case CiliumNetworkPolicy() | CiliumClusterwideNetworkPolicy():
            return cilium_scope(cluster, policy)
        case ClusterNetworkPolicy() | AdminNetworkPolicy() | BaselineAdminNetworkPolicy():
            return _tier_scope(cluster, policy)
    return Scope(is_everything=True)


def _policy_scope(cluster: Cluster, policy: NetworkPolicy) -> Scope:
    """Return the connections of the pods that a NetworkPolicy isolates."""
    selected = cluster.select(policy.namespace, policy.spec.pod_selector)
    pods = tuple(pod.full_name for pod in selected)
    return Scope(
        into=pods if "Ingress" in policy.directions else (),
        out_of=pods if "Egress" in policy.directions else (),
    )


def _tier_scope(cluster: Cluster, policy: TierKind) -> Scope:
    """Return the connections of the subjects of a policy, in the directions that have rules."""
    in_tier = tier_policy(policy)
    spec, pods = in_tier.spec, subjects_of(cluster, in_tier)
    return Scope(into=pods if spec.ingress else (), out_of=pods if spec.egress else ())


def _backends(part: object, namespace: str) -> Iterable[str]:
    """Yield the Services that an Ingress or route refers to anywhere in its spec.

    References are `service: {name: …}`, `backendRefs: [{name: …}]` and similar fields.
    """
    if isinstance(part, Mapping):
        single = [part[field] for field in ("service", "serviceRef", "to") if field in part]
        several = [
            part[field]
            for field in ("backendRefs", "services", "alternateBackends")
            if isinstance(part.get(field), list)
        ]
        for reference in chain(single, *several):
            if (
                isinstance(reference, Mapping)
                and reference.get("kind", "Service") == "Service"
                and isinstance(reference.get("name"), str)
            ):
                yield f"{reference.get('namespace') or namespace}/{reference['name']}"
        for inner in part.values():
            yield from _backends(inner, namespace)
    elif isinstance(part, list):
        for inner in part:
            yield from _backends(inner, namespace)
