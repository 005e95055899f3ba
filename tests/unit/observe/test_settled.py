"""Verdicts on pods, columns of listings, and fields that the lab does not use."""

from __future__ import annotations

from msgspec import structs

from kubenetlab.api.lab import ContainerReport, ProbeReport
from kubenetlab.api.store import Cluster
from kubenetlab.cli.describe.cells import age
from kubenetlab.cli.describe.columns import columns, header
from kubenetlab.observe.settled import verdicts
from tests.clusters import (
    NO_CNI,
    NOW,
    ONE_NODE,
    deployment,
    observed,
    pod,
    pod_named,
    report,
    running,
    settled,
    store,
    web_pods,
)


def states(cluster: Cluster) -> dict[str, tuple[str, str]]:
    return {
        verdict.pod: (verdict.state, verdict.reason)
        for verdict in verdicts(cluster)
        if verdict.pod.startswith("default/")
    }


def test_pods_are_ready_waiting_or_stuck() -> None:
    """A state that time does not fix is reported with its reason."""
    assert states(store(pod("a"))) == {"default/a": ("waiting", "")}
    assert states(running(store(pod("a")))) == {"default/a": ("ready", "")}
    unready = running(store(pod("a", meta=', annotations: {kubenetlab.dev/ready: "false"}')))
    assert states(unready)["default/a"][0] == "unready"
    assert states(store(pod("a", ", nodeSelector: {a: b}")))["default/a"][1].startswith(
        "Unschedulable: 0/3 nodes are available"
    )
    assert states(settled(store(NO_CNI + pod("a", ", nodeName: worker"))))["default/a"][
        1
    ].startswith("NetworkNotReady: ")
    crashed = running(store(pod("a")))
    for attempt in (0, 1):
        crashed = report(
            crashed,
            "a",
            ContainerReport(attempt, "failed", 1, "address already in use", NOW),
            now=NOW,
        )
    assert states(crashed) == {
        "default/a": (
            "stuck",
            "CrashLoopBackOff: container main: exit status 1: address already in use",
        )
    }
    finished = report(
        running(store(pod("a", ", restartPolicy: Never"))),
        "a",
        ContainerReport(0, "exited", 0, at=NOW),
        now=NOW,
    )
    assert states(finished) == {"default/a": ("completed", "")}


def test_a_probe_that_fails_for_good_is_a_reason() -> None:
    """Before the failure is final, the pod is waiting."""
    cluster = running(store(pod("a")), ready=False)
    assert states(cluster) == {"default/a": ("waiting", "")}
    seen = observed(pod_named(cluster, "a"))
    probe = ProbeReport(0, "readiness", False, "connection refused", NOW, 3, is_settled=True)
    cluster = settled(
        cluster.with_changes([structs.replace(seen, probes={"main/readiness": probe})])
    )
    assert states(cluster)["default/a"] == (
        "stuck",
        "Unhealthy: container main: Readiness probe failed: connection refused",
    )


def test_an_exhausted_range_is_a_reason() -> None:
    """The pod waits for an address, and its verdict has this reason."""
    cluster = running(store(ONE_NODE + deployment(replicas=252)))
    reasons = [reason for state, reason in states(cluster).values() if state == "stuck"]
    assert len(reasons) == 1
    assert "no IP addresses available" in reasons[0]


def test_columns_are_those_of_kubectl() -> None:
    """They are NAME, READY, STATUS, RESTARTS, AGE; with -o wide also IP, NODE and gates."""
    from kubenetlab.api.render import render

    cluster = running(store(pod("a")))
    document = render(cluster, pod_named(cluster, "a"))
    assert header("Pod", is_wide=True) == [
        "NAME",
        "READY",
        "STATUS",
        "RESTARTS",
        "AGE",
        "IP",
        "NODE",
        "READINESS GATES",
    ]
    row = columns("Pod", document, is_wide=True)
    assert (row[0], row[1], row[3], row[5], row[6]) == ("a", "1/1", "0", "10.244.1.2", "worker")
    assert "Running" in row[2]
    assert header("ConfigMap", is_wide=False) == ["NAME", "STATE"]
    assert age(None) == "<unknown>"


def test_unknown_fields_are_read_back() -> None:
    """Fields that the lab does not use stay as given, beside the fields that the cluster sets."""
    from kubenetlab.api.render import render

    text = (
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: c, image: "
        "x, resources: {limits: {cpu: 1}}}], volumes: [{name: v, emptyDir: {}}], "
        "restartPolicy: Always}\n"
    )
    cluster = running(store(text))
    document = render(cluster, pod_named(cluster, "a"))
    assert document["spec"]["containers"][0]["resources"] == {"limits": {"cpu": 1}}
    assert document["spec"]["volumes"] == [{"name": "v", "emptyDir": {}}]
    assert document["spec"]["restartPolicy"] == "Always"
    assert (document["spec"]["nodeName"], document["status"]["podIP"]) == ("worker", "10.244.1.2")


def test_unknown_fields_of_a_template_are_in_its_pods() -> None:
    """A pod that a controller creates has the unused fields of its template."""
    from kubenetlab.api.render import render

    text = deployment(replicas=1, serviceAccountName="web", securityContext="{fsGroup: 1000}")
    cluster = running(store(text))
    spec = render(cluster, web_pods(cluster)[0])["spec"]
    assert (spec["serviceAccountName"], spec["securityContext"]) == ("web", {"fsGroup": 1000})
