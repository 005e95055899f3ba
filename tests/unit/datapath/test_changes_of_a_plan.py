"""Controllers that look only at what has changed end where they would with everything before them."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from kubenetlab.api.apps import Deployment, ReplicaSet
from kubenetlab.api.core import Service
from kubenetlab.api.discovery import Endpoints, EndpointSlice
from kubenetlab.api.faults import Fault
from kubenetlab.api.pods import READY_ANNOTATION, Pod
from kubenetlab.api.store import Cluster, Delete, deletion
from kubenetlab.controllers import Controllers
from kubenetlab.datapath import basis, faults, plan, plan_probes
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.datapath.view import service_views
from kubenetlab.hoststate.programs import ProgramRun
from kubenetlab.hoststate.rules.rulesets import RuleObject, digest
from kubenetlab.lab.agent import status_reports
from kubenetlab.names import pod_netns
from tests.clusters import (
    NOW,
    ONLINK,
    applied,
    deployment,
    observed,
    pod,
    pod_named,
    replaced,
    running,
    service,
    settled,
    store,
    web_pods,
)

Edit = Callable[[Cluster], Cluster]


FIRST = ", initContainers: [{name: first, image: busybox, command: [sh]}, {name: side, image: agnhost, args: [netexec, --http-port=9000], restartPolicy: Always}]"


def labelled(name: str, app: str, spec: str = "") -> Edit:
    return lambda cluster: running(
        applied(cluster, pod(name, meta=f", labels: {{app: {app}}}", spec=spec))
    )


def awaited(name: str) -> Edit:
    """A pod of which nothing is heard yet, and in which something has to be done first."""
    return lambda cluster: settled(
        applied(cluster, pod(name, meta=", labels: {app: x}", spec=FIRST))
    )


def told_to_be(name: str, ready: str) -> Edit:
    """A pod that is kept from being ready by its annotation, or not."""
    return lambda cluster: applied(
        cluster, pod(name, meta=f', annotations: {{{READY_ANNOTATION}: "{ready}"}}')
    )


def leaving(name: str) -> Edit:
    """A node that goes, and takes its pods along."""

    def edit(cluster: Cluster) -> Cluster:
        node = cluster.node(name)
        return settled(cluster.with_changes([deletion(node)])) if node is not None else cluster

    return edit


def selecting(name: str, app: str) -> Edit:
    text = service(name).replace(
        f"selector: {{app: {name}}}",
        f"selector: {{app: {app}}}" if app else "ipFamilyPolicy: SingleStack",
    )
    return lambda cluster: applied(cluster, text)


def without(kind: type[Pod | Service | EndpointSlice | Endpoints], number: int) -> Edit:
    """One of them gone, whoever made it."""

    def edit(cluster: Cluster) -> Cluster:
        found = cluster.all(kind, "default")
        return (
            settled(cluster.with_changes([deletion(found[number % len(found)])]))
            if found
            else cluster
        )

    return edit


def by_hand(name: str, address: str) -> Edit:
    subsets = f"subsets: [{{addresses: [{{ip: {address}}}], ports: [{{port: 8080}}]}}]"
    return lambda cluster: applied(
        cluster, f"apiVersion: v1\nkind: Endpoints\nmetadata: {{name: {name}}}\n{subsets}\n---\n"
    )


def seeing(number: int, what: str) -> Edit:
    """What is heard of one of the pods: its sandbox is gone or there again, a container runs or has ended, its probe fails or is answered."""

    def edit(cluster: Cluster) -> Cluster:
        pods = [pod for pod in cluster.all(Pod, "default") if not pod.is_finished]
        if not pods:
            return cluster
        one = pods[number % len(pods)]
        netns, container = (
            pod_netns("default", one.name, one.uid),
            one.spec.all_containers[number % len(one.spec.all_containers)],
        )
        status = one.container_status(container.name)
        told = {
            "netns": netns,
            "container": container.name,
            "attempt": status.restart_count if status else 0,
            "at": NOW,
        }
        probe = {
            "kind": "readiness",
            "ok": what == "answers",
            "message": "",
            "failures": 3,
            "is_settled": True,
        }
        if what in ("lost", "made"):
            return settled(
                cluster.with_changes(
                    status_reports.sandbox_made(cluster, netns, 7 if what == "made" else 0)
                )
            )
        if what in ("fails", "answers"):
            return settled(
                cluster.with_changes(status_reports.probe_reports(cluster, [{**told, **probe}]))
            )
        code = 0 if what == "done" else 1
        return settled(
            cluster.with_changes(
                status_reports.program_reports(
                    cluster, [{**told, "state": what.replace("done", "exited"), "exit_code": code}]
                )
            )
        )

    return edit


EDITS = st.one_of(
    st.builds(told_to_be, st.sampled_from("abc"), st.sampled_from(("true", "false"))),
    st.builds(leaving, st.sampled_from(("worker", "worker2"))),
    st.builds(
        seeing,
        st.integers(0, 9),
        st.sampled_from(("lost", "made", "running", "exited", "done", "fails", "answers")),
    ),
    st.builds(labelled, st.sampled_from("abc"), st.sampled_from("xy")),
    st.builds(labelled, st.sampled_from("de"), st.sampled_from("xy"), st.just(FIRST)),
    st.builds(awaited, st.sampled_from("fg")),
    st.builds(selecting, st.sampled_from("st"), st.sampled_from(("x", "y", ""))),
    st.builds(
        without, st.sampled_from((Pod, Service, EndpointSlice, Endpoints)), st.integers(0, 3)
    ),
    st.builds(by_hand, st.sampled_from("st"), st.sampled_from(("192.0.2.1", "192.0.2.2"))),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(EDITS, min_size=1, max_size=8))
def test_a_store_that_came_about_by_changes_is_content_as_a_whole(edits: list[Edit]) -> None:
    """Somebody who sees it for the first time finds nothing to do, and sees the same Services with the same slices."""
    cluster = running(store())
    for edit in edits:
        cluster = edit(cluster)
    kinds = (Pod, Service, EndpointSlice, Endpoints)
    afresh = Cluster().with_changes(obj for kind in kinds for obj in cluster.all(kind))
    whole = Cluster(cluster._objects, cluster.given, cluster.revision)
    assert settled(whole, NOW) is whole
    seen = {
        key: {piece.key for piece in pieces}
        for key, pieces in cluster.slices_by_service.items()
        if pieces
    }
    assert seen == {
        key: {piece.key for piece in pieces} for key, pieces in afresh.slices_by_service.items()
    }
    views = [
        {
            view.service.full_name: sorted(piece.name for piece in view.slices)
            for view in service_views(one).values()
        }
        for one in (cluster, whole)
    ]
    assert views[0] == views[1]


def test_who_waits_is_thought_of_when_the_time_has_come() -> None:
    """Also when in between something was heard of others alone: a container that has ended twice is started again after its back-off."""
    controllers = Controllers()
    cluster = running(store(pod("a") + pod("b")))
    for now in (NOW, NOW + 1):
        cluster = seeing(0, "exited")(cluster)
        cluster, wake_at = controllers.run(
            seeing(0, "running")(cluster) if now == NOW else cluster, now
        )
    assert wake_at is not None
    restarts = cluster.all(Pod, "default")[0].container_statuses[0].restart_count
    cluster, again_at = controllers.run(seeing(1, "fails")(cluster), wake_at - 1)
    assert again_at == wake_at
    cluster, _ = controllers.run(cluster, wake_at)
    assert cluster.all(Pod, "default")[0].container_statuses[0].restart_count == restarts + 1


MODES = ("nftables", "{type: nftables, layout: fast}", "iptables", "ipvs", "ebpf")
POLICIES: tuple[dict[str, object], ...] = (
    {},
    {"internalTrafficPolicy": "Local"},
    {"type": "NodePort", "externalTrafficPolicy": "Local"},
    {"trafficDistribution": "PreferClose"},
)


def treating(name: str, policy: dict[str, object]) -> Edit:
    text = service(name, target=8080, **policy).replace(f"app: {name}", "app: x")  # type: ignore[arg-type]
    return lambda cluster: applied(cluster, text)


def withdrawing(name: str) -> Edit:
    return lambda cluster: settled(cluster.with_changes([Delete(Service, "default", name)]))


def switching(mode: str) -> Edit:
    return lambda cluster: applied(cluster, in_mode(mode))


def in_mode(mode: str) -> str:
    return f"apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\nnetworking: {{kubeProxyMode: {mode}}}\n---\n"


def breaking(how: str) -> Edit:
    """The kube-proxy of one node; or what is broken is healed."""

    def edit(cluster: Cluster) -> Cluster:
        if cluster.all(Fault) or how == "healed":
            return settled(faults.healed(cluster))
        return settled(
            cluster.with_changes(
                faults.begun(cluster, "kube-proxy", {"node": "worker", "how": how}, NOW)
            )
        )

    return edit


def asking(name: str) -> Edit:
    """A pod that asks something once, and ends."""
    return lambda cluster: settled(
        applied(
            cluster, replaced(pod(name), ("args: [netexec]", 'args: [connect, "10.96.0.1:443"]'))
        )
    )


def probed(name: str) -> Edit:
    """A pod that runs and of which no probe has been heard."""

    def edit(cluster: Cluster) -> Cluster:
        made = settled(
            applied(cluster, pod(name, container=", readinessProbe: {httpGet: {port: 80}}"))
        )
        return settled(
            made.with_changes([structs.replace(observed(pod_named(made, name)), probes={})])
        )

    return edit


PLANNED = st.one_of(
    EDITS,
    st.builds(asking, st.sampled_from("hi")),
    st.builds(probed, st.sampled_from("jk")),
    st.builds(treating, st.sampled_from("st"), st.sampled_from(POLICIES)),
    st.builds(withdrawing, st.sampled_from("st")),
    st.builds(switching, st.sampled_from(MODES)),
    st.builds(breaking, st.sampled_from(("stopped", "stale", "misconfigured", "healed"))),
)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(MODES), st.lists(PLANNED, min_size=1, max_size=8))
def test_a_plan_that_came_about_by_changes_is_the_plan(mode: str, edits: list[Edit]) -> None:
    """What is computed from what has changed is what somebody computes who sees the store for the first time; also where nothing is
    computed, because what it follows from is as before."""
    memo = PlanCache()
    cluster = running(store(in_mode(mode)))
    before, found, asked = (
        basis(cluster),
        plan(cluster, ONLINK, memo),
        plan_probes(cluster, ONLINK, memo),
    )
    for edit in edits:
        cluster = edit(cluster)
        if any(now is not then for now, then in zip(basis(cluster), before, strict=True)):
            before, found, asked = (
                basis(cluster),
                plan(cluster, ONLINK, memo),
                plan_probes(cluster, ONLINK, memo),
            )
    alone = Cluster(cluster._objects, cluster.given, cluster.revision)
    afresh = plan(alone, ONLINK)
    assert asked == plan_probes(alone, ONLINK, PlanCache())
    for netns, contents in afresh.namespaces.items():
        assert found[netns] == contents
        rules = [
            [obj for obj in one.values() if isinstance(obj, RuleObject)]
            for one in (found[netns], contents)
        ]
        assert digest(rules[0]) == digest(rules[1])
    assert found.namespaces.keys() == afresh.namespaces.keys()


def test_who_only_tries_takes_no_news_away() -> None:
    """A plan of a store that the lab's controllers have not come to yet: what they hear of afterwards is all of it."""
    mine = Controllers()
    cluster, _ = mine.run(running(store(deployment(replicas=2) + service())), NOW)
    gone = cluster.with_changes(
        deletion(one)
        for kind in (Deployment, EndpointSlice)
        for one in cluster.all(kind, "default")
    )
    Controllers().run(gone.afresh(), NOW)
    later = gone.with_changes([observed(web_pods(gone)[0], ready=False)])
    found, _ = mine.run(later, NOW)
    assert found.all(ReplicaSet, "default") == []
    assert [piece.name for piece in found.all(EndpointSlice, "default")] == [
        piece.name for piece in cluster.all(EndpointSlice, "default")
    ]


def test_what_has_changed_is_told_once() -> None:
    """Everything at first; then pairs of before and now, until the next time that the same asks."""
    cluster = running(store(service("s")))
    assert cluster.since("somebody", (Service,)) is None
    assert cluster.since("somebody", (Service,)) is None  # the same store
    after = applied(applied(cluster, service("t")), service("s", port=81))
    news = after.since("somebody", (Service,))
    assert news is not None
    assert sorted((old.name if old else "", new.name) for old, new in news[Service]) == [
        ("", "t"),
        ("s", "s"),
    ]
    found = after.get(Service, "default", "s")
    assert found is not None
    gone = after.with_changes([deletion(found)])
    assert [
        (old.name, new) for old, new in (gone.since("somebody", (Service,)) or {})[Service]
    ] == [("s", None)]


def test_who_asks_once_is_let_go_when_somebody_has_failed_his_first_probe() -> None:
    """Nothing changes by that answer but who is starting: that is enough."""
    cluster = asking("h")(running(store()))
    cluster = probed("j")(cluster)
    asker = pod_netns("default", "h", pod_named(cluster, "h").uid)
    cluster = settled(cluster.with_changes(status_reports.sandbox_made(cluster, asker, 7)))
    before = basis(cluster)
    assert not any(isinstance(obj, ProgramRun) for obj in plan(cluster, ONLINK)[asker].values())
    answer = {
        "netns": pod_netns("default", "j", pod_named(cluster, "j").uid),
        "container": "main",
        "attempt": 0,
        "at": NOW,
    }
    failed = {"kind": "readiness", "ok": False, "message": "", "failures": 3, "is_settled": True}
    after = settled(
        cluster.with_changes(status_reports.probe_reports(cluster, [{**answer, **failed}]))
    )
    assert basis(after) != before
    assert any(isinstance(obj, ProgramRun) for obj in plan(after, ONLINK)[asker].values())
