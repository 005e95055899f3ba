"""Parts of changed policies that a comparison cannot judge, so that it is not reliable.

No lab enforces them, or they name hosts that the manifests do not declare.
Without a Cluster document, policies are judged as with the CNI plugin that knows their kind.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from msgspec import structs

from kubenetlab.api.kinds import qualified_kind, writable
from kubenetlab.api.lab import Decisions
from kubenetlab.api.manifests.unenforced import effect_of
from kubenetlab.api.store import Cluster, Document
from kubenetlab.diagnostics import NOT_ENFORCED, Diagnostic, diagnose
from kubenetlab.diagnostics.model import POLICY_PEER_UNMATCHED

_PLUGINS: Final = ("calico", "cilium")
"""CNI modes whose plugins have policies of their own."""
_NAMES_OF_HOSTS: Final = frozenset({"toFQDNs", "domainNames"})
"""Fields of policies with domain names."""
_Key = tuple[str, str, str]
"""Kind, namespace and name, as diagnostics have them."""


def unenforced_changes(old: Cluster, new: Cluster, *, has_modes: bool) -> list[str]:
    """Return messages about the parts of changed policies that the comparison cannot judge.

    A policy that is the same in both versions has the same effect in both.

    has_modes: True if a Cluster document says which CNI mode the lab has.
    """
    before, after = _findings(old, has_modes=has_modes), _findings(new, has_modes=has_modes)
    former, present = _policies(old), _policies(new)
    changed = [
        each
        for key in dict.fromkeys((*before, *after))
        if before.get(key) != after.get(key) or former.get(key) != present.get(key)
        for each in (*before.get(key, ()), *after.get(key, ()))
    ]
    return list(dict.fromkeys(f"{each.subject}: {each.message}" for each in changed))


def _findings(cluster: Cluster, *, has_modes: bool) -> Mapping[_Key, list[Diagnostic]]:
    """Return the diagnostics about parts without a verdict, by policy."""
    policies = _policies(cluster)
    findings: dict[_Key, list[Diagnostic]] = {}
    for variant in (cluster,) if has_modes else (cluster, *_with_plugins(cluster)):
        for each in diagnose(variant):
            key = each.kind, each.namespace, each.name
            if not _prevents_verdicts(each) or key not in policies:
                continue
            is_certain = has_modes or bool(each.path) or writable(policies[key]) is None
            own = findings.setdefault(key, []) if is_certain else [each]
            if each not in own:
                own.append(each)
    return findings


def _prevents_verdicts(diagnostic: Diagnostic) -> bool:
    """Return True if connections depend on something that the lab does not have."""
    if diagnostic.code == POLICY_PEER_UNMATCHED:
        return not _NAMES_OF_HOSTS.isdisjoint(diagnostic.path)
    return diagnostic.code == NOT_ENFORCED


def _policies(cluster: Cluster) -> dict[_Key, Document]:
    """Return the documents of policies and of service meshes."""
    documents: dict[_Key, Document] = {}
    for key, given in cluster.given.items():
        document = given.document
        if effect_of(document) in ("policy", "mesh"):
            meta, kind = document["metadata"], writable(document)
            # Diagnostics of a whole document have its own words for the namespace.
            names = {qualified_kind(document), *(() if kind is None else (kind.kind,))}
            own = str(meta.get("namespace") or ""), str(meta["name"])
            documents |= {key: document, **{(name, *own): document for name in names}}
    return documents


def _with_plugins(cluster: Cluster) -> Iterator[Cluster]:
    """Yield the cluster with each CNI mode whose plugin has policies of its own."""
    decisions = [structs.replace(each, policy_engine="") for each in cluster.all(Decisions)]
    for plugin in _PLUGINS:
        networking = structs.replace(cluster.config.networking, cni=plugin, policy_engine=None)
        config = structs.replace(cluster.config, networking=networking)
        yield cluster.with_changes((config, *decisions))
