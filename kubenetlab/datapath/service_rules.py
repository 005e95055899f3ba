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

from kubenetlab.datapath.modes import PodNetwork, ServiceProxy
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.datapath.proxy.services import knows_places
from kubenetlab.datapath.proxy_views import ProxyView
from kubenetlab.datapath.view import ANYWHERE, NodePlace, NodeView, ServiceView
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.rules.rulesets import Rules, RuleSet, Subject
from kubenetlab.versioned import News, VersionedMap

_Key = tuple[str, str]
_Needs = tuple[Rules | Object, ...]
"""Rules of one Service, and other objects it needs."""


class _NodeByNode:
    """Marker of a Service whose rules differ between nodes."""


_NODE_BY_NODE: Final = _NodeByNode()


class _All(Struct, frozen=True):
    """Rules and other objects that the Services of a node need.

    sets: rules by backend. beside: other objects, and the number of Services that need each.
    """

    sets: Mapping[str, RuleSet]
    beside: Mapping[Object, int]
    found: tuple[RuleSet | Object, ...]
    """Both as one tuple, for the plan."""


def service_rules(
    memo: PlanCache, proxy: ServiceProxy, known: ProxyView, node: NodeView, network: PodNetwork
) -> tuple[RuleSet | Object, ...]:
    """Return the rules that a kube-proxy with this knowledge wants on a node."""
    whose, views = known.whose, known.services
    everywhere = memo.each(("rules", whose), _anywhere, views, proxy, network)
    placed = memo.follow(("placed", whose), partial(_placed, views, everywhere), views, everywhere)
    if not placed:
        return memo.follow(("rule sets", whose), _all, everywhere).found
    place = NodePlace(node.name, node.families, node.zone)
    here = memo.each(("rules here", node.name), _service, placed, proxy, network, place)
    return memo.follow(("rule sets here", node.name), _all, everywhere, here).found


def _anywhere(view: ServiceView, proxy: ServiceProxy, network: PodNetwork) -> _Needs | _NodeByNode:
    is_placed = knows_places(view) or proxy.names_node(view.service)
    return _NODE_BY_NODE if is_placed else proxy.service(view, ANYWHERE, network)


def _service(
    view: ServiceView, proxy: ServiceProxy, network: PodNetwork, place: NodePlace
) -> _Needs:
    return proxy.service(view, place, network)


def _placed(
    views: VersionedMap[_Key, ServiceView],
    everywhere: VersionedMap[_Key, _Needs | _NodeByNode],
    former: VersionedMap[_Key, ServiceView] | None,
    *changes: News[_Key, object],
) -> VersionedMap[_Key, ServiceView]:
    """Return the Services whose rules are computed for each node."""
    updated = {
        key: views.get(key) if everywhere.get(key) is _NODE_BY_NODE else None
        for change in changes
        for key in change
    }
    return (VersionedMap() if former is None else former).with_changes(updated)


def _all(former: _All | None, *news: News[_Key, _Needs | _NodeByNode]) -> _All:
    """Return the rules by backend, and every other object once."""
    former = former or _All({}, {}, ())
    changes: dict[str, dict[Subject, Rules | None]] = {}
    beside: Counter[Object] = Counter()
    changed_needs = [
        news_of_map[key]
        for key in dict.fromkeys(key for news_of_map in news for key in news_of_map)
        for news_of_map in news
        if key in news_of_map
    ]
    for side, sign in ((0, -1), (1, 1)):
        for pair in changed_needs:
            needs = pair[side]
            for need in needs if isinstance(needs, tuple) else ():
                if isinstance(need, Rules):
                    changes.setdefault(need.dialect, {})[need.whose] = need if side else None
                else:
                    beside[need] += sign
    sets = dict(former.sets)
    for dialect, others in changes.items():
        sets[dialect] = sets.get(dialect, RuleSet(dialect, VersionedMap())).with_changes(others)
    needed = former.beside
    if any(beside.values()):
        needed = Counter(former.beside)
        needed.update(beside)
        needed = +needed
    sets = {dialect: rule_set for dialect, rule_set in sets.items() if rule_set.by_subject}
    return _All(sets, needed, (*sets.values(), *needed))
