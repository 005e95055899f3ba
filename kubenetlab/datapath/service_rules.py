"""What all Services need on a node, in the words of its kube-proxy: one value for all nodes, where it matters to none of the Services on
which node it is. When one Service changes, nothing is computed of the others.
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
"""What one Service needs: rules, and perhaps other objects beside."""


class _NodeByNode:
    """Stands for what one Service needs where that is not the same everywhere."""


_NODE_BY_NODE: Final = _NodeByNode()


class _All(Struct, frozen=True):
    """What the Services of a node need: their rules, dialect by dialect, and how many of them need each object beside."""

    sets: Mapping[str, RuleSet]
    beside: Mapping[Object, int]
    found: tuple[RuleSet | Object, ...]


def service_rules(
    memo: PlanCache, proxy: ServiceProxy, known: ProxyView, node: NodeView, network: PodNetwork
) -> tuple[RuleSet | Object, ...]:
    """What a kube-proxy that knows this wants on a node."""
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
    *news: News[_Key, object],
) -> VersionedMap[_Key, ServiceView]:
    """The Services that have to be asked for node by node."""
    changes = {
        key: views.get(key) if everywhere.get(key) is _NODE_BY_NODE else None
        for some in news
        for key in some
    }
    return (VersionedMap() if former is None else former).with_changes(changes)


def _all(former: _All | None, *news: News[_Key, _Needs | _NodeByNode]) -> _All:
    """Rules dialect by dialect, and what else is needed, each once."""
    former = former or _All({}, {}, ())
    changes: dict[str, dict[Subject, Rules | None]] = {}
    beside: Counter[Object] = Counter()
    touched = [
        some[key]
        for key in dict.fromkeys(key for some in news for key in some)
        for some in news
        if key in some
    ]
    for side, sign in ((0, -1), (1, 1)):
        for pair in touched:
            needs = pair[side]
            for one in needs if isinstance(needs, tuple) else ():
                if isinstance(one, Rules):
                    changes.setdefault(one.dialect, {})[one.whose] = one if side else None
                else:
                    beside[one] += sign
    sets = dict(former.sets)
    for dialect, others in changes.items():
        sets[dialect] = sets.get(dialect, RuleSet(dialect, VersionedMap())).with_changes(others)
    needed = former.beside
    if any(beside.values()):
        needed = Counter(former.beside)
        needed.update(beside)
        needed = +needed
    sets = {dialect: found for dialect, found in sets.items() if found.by_subject}
    return _All(sets, needed, (*sets.values(), *needed))
