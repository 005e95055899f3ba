"""Suggestions for names that the lab does not know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kubenetlab.observe.targets.grammar import PREFIX_OF, pod_title

if TYPE_CHECKING:
    from kubenetlab.observe.inspection import Inspection

_NEAR_NAMES: Final = 5
"""Maximum number of targets that a message suggests."""

_WORKLOADS: Final = tuple(f"{prefix}:" for prefix in PREFIX_OF.values())


def suggest_similar(name: str, seen: Inspection, *, with_services: bool = False) -> str:
    """Return `; did you mean …?` with targets of the same or a similar name; empty without any.

    Targets of the same name in other namespaces take precedence over similar names, and these over
    names that begin with this one, of which only workloads are suggested if they have any.
    """
    from difflib import get_close_matches  # only errors need it

    named = _named_targets(seen, with_services=with_services)
    candidates = [target for each, target in named if each == name]
    if not candidates:
        close = get_close_matches(name, dict.fromkeys(each for each, _ in named), _NEAR_NAMES)
        candidates = [target for similar in close for each, target in named if each == similar]
    if not candidates and name:
        longer = [target for each, target in named if each.startswith(f"{name}-")]
        candidates = [target for target in longer if target.startswith(_WORKLOADS)] or longer
    return f"; did you mean {' or '.join(candidates[:_NEAR_NAMES])}?" if candidates else ""


def _named_targets(seen: Inspection, *, with_services: bool) -> list[tuple[str, str]]:
    """Return (name, target) of every pod, Service, workload, node and external host."""
    services = [
        (entry["name"], f"svc:{entry['namespace']}/{entry['name']}")
        for entry in seen["services"]
        if with_services
    ]
    workloads = {
        (pod["namespace"], *str(pod["workload"]).split("/", 1))
        for pod in seen["pods"]
        if pod["workload"]
    }
    return [
        *((pod["name"], pod_title(pod["namespace"], pod["name"])) for pod in seen["pods"]),
        *services,
        *(
            (name, f"{PREFIX_OF[kind]}:{namespace}/{name}")
            for namespace, kind, name in sorted(workloads)
            if kind in PREFIX_OF
        ),
        *((node["name"], f"node:{node['name']}") for node in seen["nodes"]),
        *((host["name"], f"ext:{host['name']}") for host in seen["external"]),
    ]
