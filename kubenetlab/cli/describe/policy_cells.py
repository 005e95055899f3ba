"""Cells of network policies in the tables of `get`.

Source: k8s.io/kubernetes pkg/printers/internalversion/printers.go (1.33), and the printer columns
of kubernetes-sigs/network-policy-api apis/v1alpha2 (0.2.0).
"""

from __future__ import annotations

import msgspec

from kubenetlab.api.json_types import JsonMapping
from kubenetlab.api.meta import LabelSelector
from kubenetlab.cli.describe.cells import Document, spec_field


def pod_selector(policy: Document) -> str:
    """Return the selector of a NetworkPolicy as in kubectl."""
    return _selector_text(spec_field(policy, "podSelector", {}))


def subject(policy: Document) -> str:
    """Return the subject of a policy of a tier: `pods app=web in namespaces team=ops`."""
    selection = spec_field(policy, "subject", {})
    pods = selection.get("pods")
    if pods is None:
        return f"namespaces {_selector_text(selection.get('namespaces') or {}, empty='all')}"
    return (
        f"pods {_selector_text(pods['podSelector'], empty='all')} in namespaces "
        f"{_selector_text(pods.get('namespaceSelector') or {}, empty='all')}"
    )


def order(item: Document) -> str:
    """Return the place of a policy or tier of Calico."""
    value = spec_field(item, "order", None)
    return "last" if value is None else f"{value:g}"


def endpoints(policy: Document) -> str:
    """Return the selectors of the specifications of a policy of Cilium: `app=web; all`."""
    rules = [*filter(None, (policy.get("spec"),)), *policy.get("specs", ())]
    return "; ".join(
        _selector_text(rule["endpointSelector"], empty="all")
        if "endpointSelector" in rule
        else f"nodes {_selector_text(rule.get('nodeSelector', {}), empty='all')}"
        for rule in rules
    )


def _selector_text(selector: JsonMapping, *, empty: str = "<none>") -> str:
    """Return a selector as in kubectl, such as `app=web,tier in (a,b),!canary`."""
    return str(msgspec.convert(selector, LabelSelector)) or empty
