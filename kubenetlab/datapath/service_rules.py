"""Rules of all Services on a node, in the backends of its kube-proxy.

Nodes share one value if no Service has rules that differ between nodes. When one Service changes,
nothing is computed for the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Final

from msgspec import Struct

from kubenetlab.api.object_map import ObjectKey
from kubenetlab.datapath.modes import PodNetwork, ServiceProxy
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.datapath.proxy.services import depends_on_node
from kubenetlab.datapath.proxy_views import ProxyView
from kubenetlab.datapath.services.view import ServiceView
from kubenetlab.datapath.view import ANYWHERE, NodePlace, NodeView
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.rules.rulesets import RuleObject, RuleSet, Subject, SubjectRules
from kubenetlab.versioned import ChangedEntries, VersionedMap

_Needs = tuple[SubjectRules[RuleObject] | Object, ...]
"""Rules of one Service, and other objects it needs."""


class _NodeByNode:
    """Marker of a Service whose rules differ between nodes."""


_NODE_BY_NODE: Final = _NodeByNode()


class _All(Struct, frozen=True):
    """Rules and other objects that the Services of a node need.

    sets: rules by backend. beside: other objects, and the number of Services that need each.
    """

    sets: Mapping[str, RuleSet[RuleObject]]
    beside: Mapping[Object, int]
    found: tuple[RuleSet[RuleObject] | Object, ...]
    """Both as one tuple, for the plan."""


def service_rules(
    cache: PlanCache,
    proxy: ServiceProxy,
    proxy_view: ProxyView,
    node: NodeView,
    network: PodNetwork,
) -> tuple[RuleSet[RuleObject] | Object, ...]:
    """Return the rules that a kube-proxy with this knowledge wants on a node."""
    owner, views = proxy_view.node, proxy_view.services
    everywhere = cache.each(("rules", owner), _anywhere, views, proxy, network)
    placed = cache.follow(("placed", owner), partial(_placed, views, everywhere), views, everywhere)
    if not placed:
        return cache.follow(("rule sets", owner), _all, everywhere).found
    place = NodePlace(node.name, node.families, node.zone)
    own_rules = cache.each(("rules here", node.name), _service, placed, proxy, network, place)
    return cache.follow(("rule sets here", node.name), _all, everywhere, own_rules).found


def _anywhere(view: ServiceView, proxy: ServiceProxy, network: PodNetwork) -> _Needs | _NodeByNode:
    is_placed = depends_on_node(view) or proxy.depends_on_node(view.service)
    return _NODE_BY_NODE if is_placed else proxy.service(view, ANYWHERE, network)


def _service(
    view: ServiceView, proxy: ServiceProxy, network: PodNetwork, place: NodePlace
) -> _Needs:
    return proxy.service(view, place, network)


def _placed(
    views: VersionedMap[ObjectKey, ServiceView],
    everywhere: VersionedMap[ObjectKey, _Needs | _NodeByNode],
    former: VersionedMap[ObjectKey, ServiceView] | None,
    *changes: ChangedEntries[ObjectKey, object],
) -> VersionedMap[ObjectKey, ServiceView]:
    """Return the Services whose rules are computed for each node."""
    updated = {
        key: views.get(key) if everywhere.get(key) is _NODE_BY_NODE else None
        for change in changes
        for key in change
    }
    return (VersionedMap() if former is None else former).with_changes(updated)


def _all(
    former: _All | None, *changes_by_map: ChangedEntries[ObjectKey, _Needs | _NodeByNode]
) -> _All:
    """Return the rules by backend, and every other object once."""
    former = former or _All({}, {}, ())
    changes: dict[str, dict[Subject, SubjectRules[RuleObject] | None]] = {}
    beside: Counter[Object] = Counter()
    changed_needs = [
        news_of_map[key]
        for key in dict.fromkeys(key for news_of_map in changes_by_map for key in news_of_map)
        for news_of_map in changes_by_map
        if key in news_of_map
    ]
    for side, sign in ((0, -1), (1, 1)):
        for pair in changed_needs:
            needs = pair[side]
            for need in needs if isinstance(needs, tuple) else ():
                if isinstance(need, SubjectRules):
                    changes.setdefault(need.backend, {})[need.key] = need if side else None
                else:
                    beside[need] += sign
    sets = dict(former.sets)
    for backend, changed_rules in changes.items():
        sets[backend] = sets.get(backend, RuleSet(backend, VersionedMap())).with_changes(
            changed_rules
        )
    needed = former.beside
    if any(beside.values()):
        needed = Counter(former.beside)
        needed.update(beside)
        needed = +needed
    sets = {backend: rule_set for backend, rule_set in sets.items() if rule_set.by_subject}
    return _All(sets, needed, (*sets.values(), *needed))
