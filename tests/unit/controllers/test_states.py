"""Controllers continue from states that the caller holds, on any store and any branch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from kubenetlab import controllers
from kubenetlab.api.apps import Deployment, ReplicaSet
from kubenetlab.api.core import SERVICE_NAME_LABEL, Node, Service
from kubenetlab.api.discovery import Endpoints, EndpointSlice
from kubenetlab.api.kinds import STORED
from kubenetlab.api.lab import Attachment, PodRuntimeStatus
from kubenetlab.api.meta import Resource
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Cluster, deletion
from kubenetlab.controllers.admission.admission import admit
from kubenetlab.controllers.states import ControllerStates
from kubenetlab.lab.bootstrap import admission_requests
from tests.clusters import (
    NOW,
    deployment,
    loaded,
    observed,
    pod,
    running,
    service,
    store,
    web_pods,
)
from tests.examples import examples

Edit = Callable[[Cluster], Cluster]
"""A change that no controller has seen yet."""
SELECTORS: tuple[dict[str, str], ...] = ({"app": "web"}, {"app": "x"}, {})


def chosen(objects: Sequence[Any], number: int) -> list[Any]:
    """Return one of some objects; none if there are none."""
    return [objects[number % len(objects)]] if objects else []


def delete(kind: type[Resource], number: int) -> Edit:
    return lambda cluster: cluster.with_changes(
        map(deletion, chosen(cluster.all(kind, "default" if kind.is_namespaced else None), number))
    )


def scale(replicas: int) -> Edit:
    return lambda cluster: cluster.with_changes(
        structs.replace(obj, spec=structs.replace(obj.spec, replicas=replicas))
        for obj in cluster.all(Deployment, "default")
    )


def label(kind: type[Resource], number: int, app: str) -> Edit:
    """Set the label of a pod or a slice, so that other Services select it."""
    return lambda cluster: cluster.with_changes(
        structs.replace(obj, metadata=structs.replace(obj.metadata, labels={**obj.labels, **extra}))
        for obj in chosen(cluster.all(kind, "default"), number)
        for extra in [{"app": app, SERVICE_NAME_LABEL: app}]
    )


def select(number: int, selector: dict[str, str]) -> Edit:
    return lambda cluster: cluster.with_changes(
        structs.replace(obj, spec=structs.replace(obj.spec, selector=selector))
        for obj in chosen(cluster.all(Service, "default"), number)
    )


def add(name: str, app: str) -> Edit:
    """Add a pod and a Service."""
    text = pod(name, meta=f", labels: {{app: {app}}}") + service(name).replace(
        f"selector: {{app: {name}}}", f"selector: {{app: {app}}}"
    )
    return lambda cluster: admitted(cluster, text)


def mirror(name: str, address: str) -> Edit:
    subsets = f"subsets: [{{addresses: [{{ip: {address}}}], ports: [{{port: 8080}}]}}]"
    return lambda cluster: admitted(
        cluster, f"apiVersion: v1\nkind: Endpoints\nmetadata: {{name: {name}}}\n{subsets}\n---\n"
    )


def report(number: int, ready: bool) -> Edit:
    """Report that the containers of a pod run, and how its probe ends."""
    return lambda cluster: cluster.with_changes(
        observed(each, ready=ready)
        for each in chosen(
            [each for each in cluster.all(Pod, "default") if each.spec.node_name], number
        )
    )


def cordon(number: int, is_unschedulable: bool) -> Edit:
    return lambda cluster: cluster.with_changes(
        structs.replace(node, spec=structs.replace(node.spec, unschedulable=is_unschedulable))
        for node in chosen(cluster.all(Node), number)
    )


def admitted(cluster: Cluster, text: str) -> Cluster:
    return admit(cluster, admission_requests(loaded(text).entries), NOW).cluster


NUMBER = st.integers(0, 5)
EDITS = st.one_of(
    st.builds(
        delete, st.sampled_from((Pod, Service, EndpointSlice, Endpoints, Deployment)), NUMBER
    ),
    st.builds(delete, st.sampled_from((ReplicaSet, Attachment, PodRuntimeStatus, Node)), NUMBER),
    st.builds(scale, st.integers(0, 4)),
    st.builds(label, st.sampled_from((Pod, EndpointSlice)), NUMBER, st.sampled_from(("web", "x"))),
    st.builds(select, NUMBER, st.sampled_from(SELECTORS)),
    st.builds(add, st.sampled_from("ab"), st.sampled_from(("web", "x"))),
    st.builds(mirror, st.sampled_from(("a", "web")), st.sampled_from(("192.0.2.1", "192.0.2.2"))),
    st.builds(report, NUMBER, st.booleans()),
    st.builds(cordon, NUMBER, st.booleans()),
)


def values(cluster: Cluster) -> Mapping[Any, Any]:
    """Return all objects without their resource versions, which count the changes on the way."""
    return {
        (kind, obj.key): structs.replace(
            obj, metadata=structs.replace(obj.metadata, resource_version="")
        )
        for kind in STORED
        for obj in cluster.all(kind)
    }


@settings(max_examples=examples(100))
@given(st.lists(st.tuples(EDITS, EDITS), min_size=1, max_size=5))
def test_continued_controllers_do_what_new_ones_do(edits: list[tuple[Edit, Edit]]) -> None:
    """It holds on every branch, also for states that are ahead of the store or aside of it."""
    start = running(store(deployment("web", 2) + service()))
    cluster, states = controllers.run(start, ControllerStates(), NOW)
    for kept, rejected in edits:
        trial, ahead = controllers.run(rejected(cluster), states, NOW)
        assert values(trial) == values(controllers.settle(rejected(cluster), NOW))
        edited = kept(cluster)
        aside, _ = controllers.run(edited, ahead, NOW)
        again, _ = controllers.run(edited, states, NOW)
        cluster, states = controllers.run(edited, states, NOW)
        expected = values(controllers.settle(edited, NOW))
        assert values(cluster) == values(again) == values(aside) == expected
        assert controllers.run(cluster, states, NOW) == (cluster, states)


def test_a_trial_run_consumes_no_changes() -> None:
    """Controllers that run on a store which is rejected leave all changes to the next run."""
    cluster, states = controllers.run(
        running(store(deployment(replicas=2) + service())), ControllerStates(), NOW
    )
    gone = cluster.with_changes(
        deletion(obj)
        for kind in (Deployment, EndpointSlice)
        for obj in cluster.all(kind, "default")
    )
    controllers.run(gone, states, NOW)
    later = gone.with_changes([observed(web_pods(gone)[0], ready=False)])
    result, _ = controllers.run(later, states, NOW)
    assert result.all(ReplicaSet, "default") == []
    assert [slice_.name for slice_ in result.all(EndpointSlice, "default")] == [
        slice_.name for slice_ in cluster.all(EndpointSlice, "default")
    ]
