"""Diagnostics of objects that Kubernetes accepts, from the store alone: nothing is probed.

There are three kinds: objects that the lab stores without enforcing them, so that a probe may have
another result in a cluster; misconfigurations that lead to refused connections, names that do not
resolve, or pods that never become ready; and advice about objects that have no effect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from kubenetlab.api.store import Cluster
from kubenetlab.diagnostics.bgp import check_bgp
from kubenetlab.diagnostics.calico_lints import check_calico_lints
from kubenetlab.diagnostics.calico_policies import check_calico_policies
from kubenetlab.diagnostics.cilium_lints import check_cilium_lints
from kubenetlab.diagnostics.cilium_policies import check_cilium_policies
from kubenetlab.diagnostics.cni_agents import check_cni_agents, check_plugins
from kubenetlab.diagnostics.domain_names import check_domain_names
from kubenetlab.diagnostics.duplicates import check_duplicates
from kubenetlab.diagnostics.kube_router import check_kube_router
from kubenetlab.diagnostics.model import (
    ADVICE,
    AGENT_STOPPED,
    BGP_PASSWORD_MISSING,
    BGP_PEER_ABSENT,
    BGP_PEER_UNUSED,
    BGP_ROUTE_MISSING,
    BGP_SETTING_UNUSED,
    CREDENTIAL_MISSING,
    DUPLICATE_ADDRESS,
    GATEWAY_UNREACHABLE,
    NOT_ENFORCED,
    ORDER_UNDEFINED,
    PLUGINS_NOT_READY,
    POOL_NOT_ROUTED,
    PORT_NOT_SERVED,
    Connection,
    Diagnostic,
    Scope,
)
from kubenetlab.diagnostics.passwords import check_password
from kubenetlab.diagnostics.pods import check_pods
from kubenetlab.diagnostics.policies import check_policies
from kubenetlab.diagnostics.priorities import check_priorities
from kubenetlab.diagnostics.ranges import check_ranges
from kubenetlab.diagnostics.routes import check_gateways, check_ip_pools
from kubenetlab.diagnostics.services import check_services
from kubenetlab.diagnostics.templates import Templates
from kubenetlab.diagnostics.unenforced import check_unenforced
from kubenetlab.diagnostics.unenforced_fields import check_fields

CHECKS: Final[tuple[Callable[[Cluster, Templates], Iterator[Diagnostic]], ...]] = (
    check_unenforced,
    check_fields,
    check_services,
    check_pods,
    check_gateways,
    check_ip_pools,
    check_duplicates,
    check_cni_agents,
    check_plugins,
    check_bgp,
    check_kube_router,
    check_password,
    check_priorities,
    check_domain_names,
    check_calico_policies,
    check_cilium_policies,
    check_policies,
    check_calico_lints,
    check_cilium_lints,
    check_ranges,
)

MISCONFIGURATIONS: Final = (
    "selector-matches-no-pod",
    "port-name-unknown",
    PORT_NOT_SERVED,
    "no-selector-no-endpoints",
    "external-name-is-address",
    "probe-cannot-succeed",
    "no-such-node",
    "no-node-fits",
    ORDER_UNDEFINED,
    GATEWAY_UNREACHABLE,
    POOL_NOT_ROUTED,
    DUPLICATE_ADDRESS,
    AGENT_STOPPED,
    PLUGINS_NOT_READY,
    BGP_PEER_UNUSED,
    BGP_PEER_ABSENT,
    BGP_PASSWORD_MISSING,
    BGP_ROUTE_MISSING,
    BGP_SETTING_UNUSED,
    CREDENTIAL_MISSING,
)
"""Codes of misconfigurations: all codes except NOT_ENFORCED and those of advice."""

UNREACHABLE_PODS: Final = (
    GATEWAY_UNREACHABLE,
    POOL_NOT_ROUTED,
    DUPLICATE_ADDRESS,
    AGENT_STOPPED,
    PLUGINS_NOT_READY,
    BGP_PEER_UNUSED,
    BGP_PASSWORD_MISSING,
    BGP_ROUTE_MISSING,
    BGP_SETTING_UNUSED,
    CREDENTIAL_MISSING,
)
"""Codes of networks in which some pods cannot be reached, or in which BGP sessions are missing.

Commands end with status 1.
"""
DOUBTFUL: Final = (NOT_ENFORCED, DUPLICATE_ADDRESS)
"""Codes of diagnostics because of which the answer to a probe proves nothing."""

__all__ = [
    "ADVICE",
    "AGENT_STOPPED",
    "CHECKS",
    "CREDENTIAL_MISSING",
    "DOUBTFUL",
    "DUPLICATE_ADDRESS",
    "GATEWAY_UNREACHABLE",
    "MISCONFIGURATIONS",
    "NOT_ENFORCED",
    "PLUGINS_NOT_READY",
    "POOL_NOT_ROUTED",
    "PORT_NOT_SERVED",
    "UNREACHABLE_PODS",
    "Connection",
    "Diagnostic",
    "Scope",
    "diagnose",
    "refused_codes",
]


def diagnose(cluster: Cluster, real_commands: Sequence[str] = ()) -> tuple[Diagnostic, ...]:
    """Return all diagnostics of a store, in the order of the checks and of the objects.

    real_commands: commands that the lab runs as programs of this machine. Their ports are unknown.
    """
    templates = Templates(cluster, real_commands)
    return tuple(diagnostic for check in CHECKS for diagnostic in check(cluster, templates))


def refused_codes(*, allow_undeclared: bool) -> list[str]:
    """Return the codes that count as errors when misconfigurations are refused.

    allow_undeclared: accept numeric target ports that no container declares.
    """
    return [
        code for code in MISCONFIGURATIONS if not (allow_undeclared and code == PORT_NOT_SERVED)
    ]
