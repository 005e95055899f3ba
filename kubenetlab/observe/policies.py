"""Network policies that a lab keeps without modelling them: traffic goes through that they would forbid."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_NAMED = 3
"""So many are told by name."""


def kept_policies(given: Iterable[Mapping[str, Any]]) -> list[str]:
    """The titles of the policies, of every plugin's kind, among the documents that the lab keeps: `NetworkPolicy default/deny-all`."""
    policies = [document for document in given if "NetworkPolicy" in document["kind"]]
    return [f"{document['kind']} {_full_name(document['metadata'])}" for document in policies]


def count(policies: Sequence[str]) -> str:
    """`1 NetworkPolicy`, `3 NetworkPolicies`."""
    return f"{len(policies)} NetworkPolic{'ies' if len(policies) > 1 else 'y'}"


def cause(policies: Sequence[str]) -> str:
    """Why traffic may go through that should not."""
    names = ", ".join(policies[:_NAMED]) + (f" and {len(policies) - _NAMED} more" if len(policies) > _NAMED else "")
    return f"kept, but not modelled yet: {names}"


def _full_name(meta: Mapping[str, Any]) -> str:
    return f"{meta['namespace']}/{meta['name']}" if meta.get("namespace") else str(meta["name"])
