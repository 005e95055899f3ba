"""Incremental computation gives the same result as computation from scratch."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from kubenetlab import controllers
from kubenetlab.api.core import Service
from kubenetlab.api.discovery import Endpoints, EndpointSlice
from kubenetlab.api.faults import Fault
from kubenetlab.api.lab import ContainerReport, Decisions, ProbeReport
from kubenetlab.api.pods import READY_ANNOTATION, Pod
from kubenetlab.api.store import Cluster, Delete, deletion
from kubenetlab.controllers.states import ControllerStates
from kubenetlab.datapath import faults, plan, plan_inputs, plan_probes
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.datapath.services.view import service_views
from kubenetlab.hoststate.programs import ProgramRun
from kubenetlab.hoststate.rules.rulesets import RuleObject, digest
from kubenetlab.hoststate.state import HostState
from kubenetlab.kernel.processes.identity import ProcessId
from kubenetlab.lab.agent import status_reports
from kubenetlab.lab.messages.app_worker import RunReport
from kubenetlab.lab.messages.node_agent import ProbeResult
from kubenetlab.names import pod_netns
from tests.clusters import (
    NOW,
    ONLINK,
    applied,
    observed,
    pod,
    pod_named,
    replaced,
    running,
    service,
    settled,
    store,
)
from tests.examples import examples

Edit = Callable[[Cluster], Cluster]


FIRST = (
    ", initContainers: [{name: first, image: busybox, command: [sh]}, {name: side, image: "
    "agnhost, args: [netexec, --http-port=9000], restartPolicy: Always}]"
)


def add_pod(name: str, app: str, spec: str = "") -> Edit:
    return lambda cluster: running(
        applied(cluster, pod(name, meta=f", labels: {{app: {app}}}", spec=spec))
    )


def add_waiting_pod(name: str) -> Edit:
    """Add a pod with init containers that no kubelet has reported on."""
    return lambda cluster: settled(
        applied(cluster, pod(name, meta=", labels: {app: x}", spec=FIRST))
    )


def set_readiness(name: str, ready: str) -> Edit:
    """Set the annotation that keeps a pod from being ready."""
    return lambda cluster: applied(
        cluster, pod(name, meta=f', annotations: {{{READY_ANNOTATION}: "{ready}"}}')
    )


def delete_node(name: str) -> Edit:
    """Delete a node together with its pods."""

    def edit(cluster: Cluster) -> Cluster:
        node = cluster.node(name)
        return settled(cluster.with_changes([deletion(node)])) if node is not None else cluster

    return edit


def set_selector(name: str, app: str) -> Edit:
    text = service(name).replace(
        f"selector: {{app: {name}}}",
        f"selector: {{app: {app}}}" if app else "ipFamilyPolicy: SingleStack",
    )
    return lambda cluster: applied(cluster, text)


def delete_object(kind: type[Pod | Service | EndpointSlice | Endpoints], number: int) -> Edit:
    def edit(cluster: Cluster) -> Cluster:
        found = cluster.all(kind, "default")
        return (
            settled(cluster.with_changes([deletion(found[number % len(found)])]))
            if found
            else cluster
        )

    return edit


def add_endpoints(name: str, address: str) -> Edit:
    subsets = f"subsets: [{{addresses: [{{ip: {address}}}], ports: [{{port: 8080}}]}}]"
    return lambda cluster: applied(
        cluster, f"apiVersion: v1\nkind: Endpoints\nmetadata: {{name: {name}}}\n{subsets}\n---\n"
    )


def report_state(number: int, what: str) -> Edit:
    """Report a change of one pod.

    Its sandbox is gone or created, a container runs or has ended, or its probe fails or succeeds.
    """

    def edit(cluster: Cluster) -> Cluster:
        pods = [pod for pod in cluster.all(Pod, "default") if not pod.is_finished]
        if not pods:
            return cluster
        chosen = pods[number % len(pods)]
        netns, container = (
            pod_netns("default", chosen.name, chosen.uid),
            chosen.spec.all_containers[number % len(chosen.spec.all_containers)],
        )
        status = chosen.container_status(container.name)
        attempt = status.restart_count if status else 0
        if what in ("lost", "made"):
            return settled(
                cluster.with_changes(
                    status_reports.sandbox_made(cluster, netns, 7 if what == "made" else 0)
                )
            )
        if what in ("fails", "answers"):
            is_ok = what == "answers"
            probe = ProbeReport(attempt, "readiness", is_ok, at=NOW, failures=3, is_settled=True)
            result = ProbeResult(netns, container.name, probe)
            return settled(
                cluster.with_changes(status_reports.probe_reports(cluster, [result], 0.0))
            )
        outcome = (
            ContainerReport(attempt, "running", at=NOW)
            if what == "running"
            else ContainerReport(attempt, "exited", int(what != "done"), at=NOW)
        )
        report = RunReport(netns, ProcessId(7, 1), container.name, outcome)
        return settled(cluster.with_changes(status_reports.program_reports(cluster, [report], 0.0)))

    return edit


EDITS = st.one_of(
    st.builds(set_readiness, st.sampled_from("abc"), st.sampled_from(("true", "false"))),
    st.builds(delete_node, st.sampled_from(("worker", "worker2"))),
    st.builds(
        report_state,
        st.integers(0, 9),
        st.sampled_from(("lost", "made", "running", "exited", "done", "fails", "answers")),
    ),
    st.builds(add_pod, st.sampled_from("abc"), st.sampled_from("xy")),
    st.builds(add_pod, st.sampled_from("de"), st.sampled_from("xy"), st.just(FIRST)),
    st.builds(add_waiting_pod, st.sampled_from("fg")),
    st.builds(set_selector, st.sampled_from("st"), st.sampled_from(("x", "y", ""))),
    st.builds(
        delete_object, st.sampled_from((Pod, Service, EndpointSlice, Endpoints)), st.integers(0, 3)
    ),
    st.builds(add_endpoints, st.sampled_from("st"), st.sampled_from(("192.0.2.1", "192.0.2.2"))),
)


@settings(max_examples=examples(150))
@given(st.lists(EDITS, min_size=1, max_size=8))
def test_incremental_and_full_reconciliation_agree(edits: list[Edit]) -> None:
    """After changes, full reconciliation changes nothing and sees the same Services and slices."""
    cluster = running(store())
    for edit in edits:
        cluster = edit(cluster)
    kinds = (Pod, Service, EndpointSlice, Endpoints)
    afresh = Cluster().with_changes(obj for kind in kinds for obj in cluster.all(kind))
    whole = Cluster.of(cluster.objects, cluster.given, cluster.revision)
    assert settled(whole, NOW) is whole
    seen = {
        key: {slice_.key for slice_ in slices}
        for key, slices in cluster.slices_by_service.items()
        if slices
    }
    assert seen == {
        key: {slice_.key for slice_ in slices} for key, slices in afresh.slices_by_service.items()
    }
    views = [
        {
            view.service.full_name: sorted(slice_.name for slice_ in view.slices)
            for view in service_views(each, PlanCache()).values()
        }
        for each in (cluster, whole)
    ]
    assert views[0] == views[1]


def test_a_backoff_ends_although_other_objects_change() -> None:
    """A container that ended twice restarts after its back-off, if other pods change meanwhile."""
    states = ControllerStates()
    cluster = running(store(pod("a") + pod("b")))
    for now in (NOW, NOW + 1):
        cluster = report_state(0, "exited")(cluster)
        cluster, states = controllers.run(
            report_state(0, "running")(cluster) if now == NOW else cluster, states, now
        )
    wake_at = states.wake_at
    assert wake_at is not None
    restarts = cluster.all(Pod, "default")[0].container_statuses[0].restart_count
    cluster, states = controllers.run(report_state(1, "fails")(cluster), states, wake_at - 1)
    assert states.wake_at == wake_at
    cluster, _ = controllers.run(cluster, states, wake_at)
    assert cluster.all(Pod, "default")[0].container_statuses[0].restart_count == restarts + 1


MODES = ("nftables", "{type: nftables, layout: fast}", "iptables", "ipvs", "ebpf")
POLICIES: tuple[dict[str, object], ...] = (
    {},
    {"internalTrafficPolicy": "Local"},
    {"type": "NodePort", "externalTrafficPolicy": "Local"},
    {"trafficDistribution": "PreferClose"},
)


def set_policy(name: str, policy: dict[str, object]) -> Edit:
    text = service(name, target=8080, **policy).replace(f"app: {name}", "app: x")  # type: ignore[arg-type]
    return lambda cluster: applied(cluster, text)


def delete_service(name: str) -> Edit:
    return lambda cluster: settled(cluster.with_changes([Delete(Service, "default", name)]))


def set_proxy_mode(mode: str) -> Edit:
    return lambda cluster: applied(cluster, proxy_mode_document(mode))


def proxy_mode_document(mode: str) -> str:
    return (
        f"apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\nnetworking: {{kubeProxyMode: "
        f"{mode}}}\n---\n"
    )


def break_or_heal(how: str) -> Edit:
    """Break the kube-proxy of one node, or heal what is broken."""

    def edit(cluster: Cluster) -> Cluster:
        if cluster.all(Fault) or how == "healed":
            return settled(faults.healed(cluster))
        return settled(
            cluster.with_changes(
                faults.break_changes(cluster, "kube-proxy", {"node": "worker", "how": how}, NOW)
            )
        )

    return edit


def add_one_shot_pod(name: str) -> Edit:
    """Add a pod that sends one request and ends."""
    return lambda cluster: settled(
        applied(
            cluster, replaced(pod(name), ("args: [netexec]", 'args: [connect, "10.96.0.1:443"]'))
        )
    )


def add_unprobed_pod(name: str) -> Edit:
    """Add a running pod without any probe result."""

    def edit(cluster: Cluster) -> Cluster:
        added = settled(
            applied(cluster, pod(name, container=", readinessProbe: {httpGet: {port: 80}}"))
        )
        return settled(
            added.with_changes([structs.replace(observed(pod_named(added, name)), probes={})])
        )

    return edit


PLANNED = st.one_of(
    EDITS,
    st.builds(add_one_shot_pod, st.sampled_from("hi")),
    st.builds(add_unprobed_pod, st.sampled_from("jk")),
    st.builds(set_policy, st.sampled_from("st"), st.sampled_from(POLICIES)),
    st.builds(delete_service, st.sampled_from("st")),
    st.builds(set_proxy_mode, st.sampled_from(MODES)),
    st.builds(break_or_heal, st.sampled_from(("stopped", "stale", "misconfigured", "healed"))),
)


@settings(max_examples=examples(200))
@given(st.sampled_from(MODES), st.lists(PLANNED, min_size=1, max_size=8))
def test_incremental_and_full_plans_are_equal(mode: str, edits: list[Edit]) -> None:
    """A plan computed from changes equals the plan of a store seen for the first time.

    It also does where nothing is computed, since the inputs of the plan are unchanged.
    """
    cache = PlanCache()
    cluster = running(store(proxy_mode_document(mode)))
    before, result, probes = (
        plan_inputs(cluster, cache),
        plan(cluster, ONLINK, cache),
        plan_probes(cluster, ONLINK, cache),
    )
    for edit in edits:
        cluster = edit(cluster)
        if any(
            now is not then for now, then in zip(plan_inputs(cluster, cache), before, strict=True)
        ):
            before, result, probes = (
                plan_inputs(cluster, cache),
                plan(cluster, ONLINK, cache),
                plan_probes(cluster, ONLINK, cache),
            )
    assert_is_plan_of(cluster, result, probes)


@settings(max_examples=examples(30))
@given(st.sampled_from(MODES), st.lists(st.tuples(PLANNED, PLANNED), min_size=1, max_size=4))
def test_one_cache_plans_any_branch(mode: str, edits: list[tuple[Edit, Edit]]) -> None:
    """Plans of stores that are then rejected do not influence the plans of the others."""
    cache = PlanCache()
    cluster = running(store(proxy_mode_document(mode)))
    for kept, rejected in edits:
        for branch in (rejected(cluster), cluster, after := kept(cluster), cluster, after):
            result = plan(branch, ONLINK, cache)
            assert_is_plan_of(branch, result, plan_probes(branch, ONLINK, cache))
        cluster = after


def assert_is_plan_of(
    cluster: Cluster,
    result: HostState,
    probes: Mapping[str, object],
    decisions: Decisions = ONLINK,
) -> None:
    """Assert that a plan and probes equal those of the same store, seen for the first time."""
    alone = Cluster.of(cluster.objects, cluster.given, cluster.revision)
    afresh = plan(alone, decisions)
    assert probes == plan_probes(alone, decisions, PlanCache())
    for netns, contents in afresh.namespaces.items():
        assert result[netns] == contents
        rules = [
            [obj for obj in each.values() if isinstance(obj, RuleObject)]
            for each in (result[netns], contents)
        ]
        assert digest(rules[0]) == digest(rules[1])
    assert result.namespaces.keys() == afresh.namespaces.keys()


def test_a_one_shot_program_starts_when_the_first_probe_of_others_has_failed() -> None:
    """The result changes no object, only which containers are still starting."""
    cluster = add_one_shot_pod("h")(running(store()))
    cluster = add_unprobed_pod("j")(cluster)
    asker = pod_netns("default", "h", pod_named(cluster, "h").uid)
    cluster = settled(cluster.with_changes(status_reports.sandbox_made(cluster, asker, 7)))
    cache = PlanCache()
    before = plan_inputs(cluster, cache)
    assert not any(isinstance(obj, ProgramRun) for obj in plan(cluster, ONLINK)[asker].values())
    failed = ProbeReport(0, "readiness", False, at=NOW, failures=3, is_settled=True)
    netns = pod_netns("default", "j", pod_named(cluster, "j").uid)
    after = settled(
        cluster.with_changes(
            status_reports.probe_reports(cluster, [ProbeResult(netns, "main", failed)], 0.0)
        )
    )
    assert plan_inputs(after, cache) != before
    assert any(isinstance(obj, ProgramRun) for obj in plan(after, ONLINK)[asker].values())
