"""CiliumCIDRGroup: ranges of addresses to which policies of the CNI plugin Cilium refer.

Source: cilium/cilium pkg/k8s/apis/cilium.io/v2/cidrgroups_types.go, pkg/policy/api/cidr.go,
pkg/policy/k8s/cilium_cidr_group.go (1.19).
"""

from __future__ import annotations

from typing import Final

from kubenetlab.api.meta import Labels, Record, Resource
from kubenetlab.api.policies.cilium_network_policy import CiliumCIDRRule

NAME_LABEL_PREFIX: Final = "io.cilium.policy.cidrgroupname/"
"""Prefix of the label that each group has besides its own: its name follows."""
_CILIUM_PREFIX: Final = "io.cilium.k8s"
"""Prefix of the labels of a group that selectors do not see."""


class CiliumCIDRGroupSpec(Record, frozen=True):
    """Desired state of a group of ranges."""

    external_cidrs: tuple[str, ...]
    """Ranges of addresses outside of the cluster. Addresses of pods and nodes do not count."""


class CiliumCIDRGroup(Resource, frozen=True):
    """Ranges of addresses to which `cidrGroupRef` and `cidrGroupSelector` of policies refer."""

    api_version = "cilium.io/v2"
    other_api_versions = ("cilium.io/v2alpha1",)
    kind = "CiliumCIDRGroup"
    plural = "ciliumcidrgroups"
    short_names = ("ccg",)
    is_namespaced = False

    spec: CiliumCIDRGroupSpec
    """Desired state of the group."""


def refers_to(rule: CiliumCIDRRule, name: str, labels: Labels) -> bool:
    """Return True if an entry of a policy refers to a group with this name and these labels.

    Selectors see the label with the name as well.
    """
    if rule.cidr_group_ref:
        return rule.cidr_group_ref == name
    seen = {key: value for key, value in labels.items() if not key.startswith(_CILIUM_PREFIX)}
    seen[f"{NAME_LABEL_PREFIX}{name}"] = ""
    return rule.cidr_group_selector is not None and rule.cidr_group_selector.matches(seen)
