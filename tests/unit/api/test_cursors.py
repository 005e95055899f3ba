"""A store is a value: cursors and indexes depend on its contents alone, not on other readers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from kubenetlab.api.core import Service
from kubenetlab.api.discovery import EndpointSlice
from kubenetlab.api.meta import ObjectMeta, OwnerReference
from kubenetlab.api.object_map import Kind
from kubenetlab.api.pods import Pod, PodSpec
from kubenetlab.api.store import Change, Cluster, Delete
from kubenetlab.versioned import MAX_STEPS, MAX_TOUCHED
from tests.examples import examples

KINDS: tuple[Kind, ...] = (Pod, Service, EndpointSlice)
NAMES, NAMESPACES = "abc", ("default", "shop")


def pod(name: str, namespace: str, node: str, app: str) -> Pod:
    owner = OwnerReference("apps/v1", "ReplicaSet", app, f"uid-{app}", controller=True)
    meta = ObjectMeta(name, namespace, {"app": app}, owner_references=(owner,))
    return Pod(meta, PodSpec(node_name=node, containers=()))


def piece(name: str, namespace: str, service: str) -> EndpointSlice:
    labels = {"kubernetes.io/service-name": service}
    return EndpointSlice(ObjectMeta(name, namespace, labels), "IPv4", (), ())


def service(name: str, namespace: str, app: str) -> Service:
    return Service(ObjectMeta(name, namespace, {"app": app}))


NAMED = (st.sampled_from(NAMES), st.sampled_from(NAMESPACES), st.sampled_from("xy"))
CHANGE: st.SearchStrategy[Change] = st.one_of(
    st.builds(pod, *NAMED, st.sampled_from("xy")),
    st.builds(piece, *NAMED),
    st.builds(service, *NAMED),
    st.builds(Delete, st.sampled_from(KINDS), st.sampled_from(NAMESPACES), st.sampled_from(NAMES)),
)
STEPS = st.lists(st.tuples(st.integers(0, 99), st.lists(CHANGE, max_size=4)), max_size=14)
"""Changes, and the number of the store from which each step branches off."""


def branches(steps: list[tuple[int, list[Change]]]) -> list[Cluster]:
    """Return the stores of a tree; a store that derives from the latest one is as likely as not."""
    stores = [Cluster()]
    for parent, changes in steps:
        start = stores[-1] if parent % 2 else stores[parent % len(stores)]
        stores.append(start.with_changes(changes))
    return stores


def contents(cluster: Cluster) -> dict[Kind, dict[tuple[str, str], Any]]:
    return {kind: dict(cluster.by_key(kind)) for kind in KINDS}


def indexes(cluster: Cluster) -> Any:
    """Return everything that a store computes from its objects."""
    owners = [structs.replace(pod("", "", "", app).metadata, uid=f"uid-{app}") for app in "xy"]
    return (
        [cluster.all(kind) for kind in KINDS],
        [list(cluster.pods_on(node)) for node in "xy"],
        [
            cluster.select(namespace, labels)
            for namespace in NAMESPACES
            for labels in ({"app": "x"}, {"app": "y"}, {})
        ],
        [list(cluster.owned_by(Pod, Service(owner))) for owner in owners],
        dict(cluster.slices_by_service),
    )


@settings(max_examples=examples(300))
@given(STEPS, st.integers(0, 99), st.integers(0, 99))
def test_a_cursor_gives_what_differs_between_any_two_stores(
    steps: list[tuple[int, list[Change]]], one: int, other: int
) -> None:
    """The stores may be of different branches; reading twice gives the same."""
    stores = branches(steps)
    before, after = stores[one % len(stores)], stores[other % len(stores)]
    cursor = before.cursor(KINDS)
    changes = after.changes_since(cursor)
    for kind in KINDS:
        old, new = before.by_key(kind), after.by_key(kind)
        expected = {
            key: (old.get(key), new.get(key))
            for key in old.keys() | new.keys()
            if old.get(key) is not new.get(key)
        }
        found = {obj.key: (old, new) for old, new in changes[kind] if (obj := new or old)}
        assert found == expected
        assert len(changes[kind]) == len(expected)
    assert after.has_changed_since(cursor) or not any(changes[kind] for kind in KINDS)
    assert after.changes_since(cursor) == changes
    assert before.changes_since(cursor) == before.changes_since(before.cursor(KINDS))


@settings(max_examples=examples(300))
@given(STEPS, st.permutations(range(8)))
def test_branches_do_not_influence_each_other(
    steps: list[tuple[int, list[Change]]], order: list[int]
) -> None:
    """In whatever order stores are read, each equals a store that is made of its objects."""
    stores = branches(steps)
    recorded = [contents(cluster) for cluster in stores]
    for number in order:
        if number < len(stores):
            indexes(stores[number])
    for cluster, expected in zip(stores, recorded, strict=True):
        alone = Cluster.of(cluster.objects, cluster.given, cluster.revision)
        assert contents(cluster) == expected
        assert indexes(cluster) == indexes(alone) == indexes(cluster)


def test_an_old_cursor_finds_every_change() -> None:
    """Only recent changes are remembered: then all objects are compared."""
    first = cluster = Cluster().with_changes([service("a", "default", "x")])
    cursor = first.cursor([Service])
    for number in range(MAX_STEPS + 2):
        cluster = cluster.with_changes([service("b", "default", str(number))])
    many = [service(f"s{number}", "shop", "x") for number in range(MAX_TOUCHED + 1)]
    cluster = cluster.with_changes([*many, Delete(Service, "default", "a")])
    changes = cluster.changes_since(cursor)[Service]
    assert {(old and old.name, new and new.name) for old, new in changes} == {
        ("a", None),
        (None, "b"),
        *((None, obj.name) for obj in many),
    }


def test_an_object_that_is_created_again_with_another_value_is_one_change() -> None:
    """Changes that later changes have undone are not reported."""
    cluster = Cluster().with_changes([service("a", "default", "x")])
    cursor = cluster.cursor([Service])
    gone = cluster.with_changes([Delete(Service, "default", "a")])
    back = gone.with_changes([service("a", "default", "y")])
    ((old, new),) = back.changes_since(cursor)[Service]
    assert old is not None
    assert new is not None
    assert (old.labels, new.labels) == ({"app": "x"}, {"app": "y"})
    assert [obj.labels["app"] for obj in back.changes_since(cursor).objects(Service)] == ["x", "y"]


@pytest.mark.parametrize(
    "edit",
    [
        lambda cluster: setattr(cluster, "revision", 7),
        lambda cluster: cluster.by_key(Service).clear(),
        lambda cluster: cluster.by_key(Service).pop(("default", "a")),
        lambda cluster: cluster.by_key(Service).update({}),
        lambda cluster: cluster.by_key(Service).__setitem__(("default", "a"), None),
        lambda cluster: cluster.by_key(Service).__delitem__(("default", "a")),
        lambda cluster: cluster.by_key(Service).setdefault(("default", "b"), None),
        lambda cluster: cluster.slices_by_service.clear(),
        lambda cluster: cluster.given.popitem(),
    ],
)
def test_a_store_cannot_be_changed_in_place(edit: Callable[[Cluster], object]) -> None:
    """A reader that holds a store relies on it."""
    cluster = Cluster().with_changes([service("a", "default", "x"), piece("p", "default", "a")])
    expected = contents(cluster)
    with pytest.raises((AttributeError, TypeError), match="immutable"):
        edit(cluster)
    assert contents(cluster) == expected
