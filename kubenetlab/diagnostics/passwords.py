"""Diagnostics of CNI modes whose password is missing."""

from __future__ import annotations

from collections.abc import Iterator

from kubenetlab.api.calico.bgp import PLUGIN_NAMESPACE
from kubenetlab.api.environment import Secret
from kubenetlab.api.lab import NetworkFacts
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Cluster
from kubenetlab.diagnostics.model import CREDENTIAL_MISSING, Diagnostic, Scope
from kubenetlab.diagnostics.templates import Templates


def check_password(cluster: Cluster, templates: Templates) -> Iterator[Diagnostic]:
    """Yield a diagnostic if the Secret with the password of the CNI mode is missing or empty.

    Nodes have no tunnels then, so that nothing crosses the fabric unencrypted.
    """
    facts = cluster.get(NetworkFacts, "", "network") or NetworkFacts()
    name, (option, key) = facts.credential_name, facts.credential
    if not name:
        return
    secret = cluster.get(Secret, PLUGIN_NAMESPACE, name)
    if secret is not None and secret.decoded(key):
        return
    found = "there is none" if secret is None else "the value is missing or empty"
    pods = tuple(pod.full_name for pod in cluster.all(Pod) if not pod.spec.host_network)
    config = cluster.config
    yield Diagnostic.of(
        config,
        CREDENTIAL_MISSING,
        ("networking", "cni", option),
        f"expected a Secret {PLUGIN_NAMESPACE}/{name} with a password as {key}; {found}. Nodes "
        "have no tunnels, because packets must not cross the fabric unencrypted",
        f"kubectl -n {PLUGIN_NAMESPACE} create secret generic {name} --from-literal={key}=PASSWORD",
        scope=Scope(into=pods, out_of=pods),
    )
