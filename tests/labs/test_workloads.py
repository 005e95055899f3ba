"""StatefulSets, DaemonSets and Jobs: names, addresses and order, with real packets."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clusters import deployment
from tests.labs.conftest import new_lab
from tests.labs.lab import COMMAND, Lab, run, wait_for
from tests.labs.test_dns import look_up
from tests.patience import patiently

MANIFESTS = Path(__file__).parents[2] / "manifests" / "07-statefulset"


@pytest.fixture(scope="module")
def running() -> Iterator[Lab]:
    for lab in new_lab():
        lab.run("up", "-f", str(MANIFESTS))
        yield lab


def addresses(lab: Lab) -> dict[str, str]:
    return {
        pod["name"]: pod["addresses"][0]
        for pod in lab.inspected["pods"]
        if pod["name"].startswith("db-") and pod["ready"]
    }


def test_pods_of_a_statefulset_have_dns_names(running: Lab) -> None:
    """`db-1.db` is that pod, `db` all of them; each sees the client's own address."""
    known = addresses(running)
    assert sorted(known) == ["db-0", "db-1", "db-2"]
    assert sorted(look_up(running, "default/client", "db")[0]) == sorted(known.values())
    client = running.pod("client")
    for name, address in known.items():
        assert look_up(running, "default/client", f"{name}.db") == [[address]]
        (answer,) = running.ask(client, ("TCP", address, 5432))
        assert (answer.server, answer.client[0]) == (name, client["addresses"][0])
    assert (
        running.inside(running.pod("db-1"), "ip", "-br", "addr", "show", "eth0")
        .split()[2]
        .partition("/")[0]
        == known["db-1"]
    )


def test_a_deleted_pod_of_a_statefulset_returns_with_its_name(running: Lab) -> None:
    """Its name resolves to the new address; the other pods stay."""
    before = addresses(running)
    running.run("delete", "pod", "db-1")
    wait_for(lambda: len(addresses(running)) == 3, "three pods")
    after = addresses(running)
    assert after["db-1"] != before["db-1"]
    assert {name: after[name] for name in ("db-0", "db-2")} == {
        name: before[name] for name in ("db-0", "db-2")
    }
    wait_for(
        lambda: look_up(running, "default/client", "db-1.db") == [[after["db-1"]]],
        "the name to have the new address",
    )
    assert running.run("diff").status == 0
    links = sorted(
        path.name for path in Path("/run/netns").glob(f"{running.name}_pod_default_db-*")
    )
    assert links == [f"{running.name}_pod_default_db-{number}" for number in range(3)]


def test_a_statefulset_is_scaled_in_order(running: Lab) -> None:
    """Pods are removed from the highest number, and added from the lowest.

    A new template replaces them one by one.
    """
    running.run("scale", "statefulset", "db", "--replicas", "1")
    wait_for(
        lambda: (
            [pod["name"] for pod in running.inspected["pods"] if pod["name"].startswith("db-")]
            == ["db-0"]
        ),
        "one pod",
    )
    running.run("scale", "statefulset", "db", "--replicas", "3")
    wait_for(lambda: len(addresses(running)) == 3, "three pods")
    before = addresses(running)
    running.apply((MANIFESTS / "statefulset.yaml").read_text().replace("database:1", "database:2"))
    wait_for(
        lambda: (
            not set(before.values()) & set(addresses(running).values())
            and len(addresses(running)) == 3
        ),
        "three new pods",
    )
    assert "3/3" in running.run("get", "sts").out


def test_a_daemonset_has_a_pod_on_every_node(running: Lab) -> None:
    """It tolerates the taint of the control plane; a new node gets a pod, too."""
    agents = [pod for pod in running.inspected["pods"] if pod["name"].startswith("agent-")]
    assert sorted(pod["node"] for pod in agents) == ["control-plane", "worker", "worker2"]
    running.run("up", "--nodes", "4")
    wait_for(
        lambda: (
            sum(
                pod["ready"]
                for pod in running.inspected["pods"]
                if pod["name"].startswith("agent-")
            )
            == 4
        ),
        "the fourth agent",
    )
    assert running.run("ping").status == 0
    assert running.run("get", "ds").out.split()[-8:-2] == ["agent", "4", "4", "4", "4", "4"]


JOBS = """\
apiVersion: batch/v1
kind: Job
metadata: {name: ask}
spec:
  completions: 3
  parallelism: 2
  template:
    spec:
      restartPolicy: Never
      containers: [{name: main, image: agnhost, args: [connect, "db-0.db:5432"]}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: lost}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      containers: [{name: main, image: agnhost, args: [connect, "db-0.db:1", --timeout=1s]}]
"""


def test_jobs_complete_or_fail(running: Lab) -> None:
    """Three pods connect and succeed; one is refused, and its Job fails.

    Ended pods have no network namespace.
    """
    running.apply(JOBS, status=1)
    wait_for(
        lambda: running.get("job", "ask")["status"].get("succeeded") == 3, "three pods to be done"
    )
    rows = {
        line.split()[0]: line.split()[1:3]
        for line in running.run("get", "jobs").out.splitlines()[1:]
    }
    assert rows == {"ask": ["Complete", "3/3"], "lost": ["Failed", "0/1"]}
    pods = [pod for pod in running.inspected["pods"] if pod["name"].startswith(("ask-", "lost-"))]
    assert sorted(pod["phase"] for pod in pods) == ["Failed", "Succeeded", "Succeeded", "Succeeded"]
    assert not any(pod["pid"] for pod in pods)
    assert (
        "REFUSED"
        in running.run("logs", next(pod["name"] for pod in pods if pod["phase"] == "Failed")).out
    )
    running.run("delete", "job", "ask", "lost")
    wait_for(
        lambda: (
            not [
                pod
                for pod in running.inspected["pods"]
                if pod["name"].startswith(("ask-", "lost-"))
            ]
        ),
        "their pods to be removed",
    )


OUTSIDE = """\
apiVersion: kubenetlab.dev/v1alpha1
kind: Cluster
nodes: [{role: control-plane}, {role: worker}]
external: [{name: api.example.com, address: 198.51.100.20, ports: [8443]}]
---
apiVersion: v1
kind: Service
metadata: {name: outside}
spec: {ports: [{name: https, port: 443}]}
---
apiVersion: v1
kind: Endpoints
metadata: {name: outside}
subsets: [{addresses: [{ip: 198.51.100.20}], ports: [{name: https, port: 8443}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec: {containers: [{name: main, image: agnhost, args: [netexec]}]}
"""


def test_a_service_can_have_external_endpoints(lab: Lab) -> None:
    """Its Endpoints are written manually.

    The external server sees the node, because it has no route to the pod.
    """
    lab.up(OUTSIDE)
    client = lab.pod("client")
    (answer,) = lab.ask(client, ("TCP", lab.service("outside")["cluster_ips"][0], 443))
    assert (answer.server, answer.source[0]) == ("api.example.com", client["addresses"][0])
    assert answer.client[0] == lab.place("nodes", "worker")["addresses"][0]
    assert "198.51.100.20:8443" in lab.run("get", "ep").out
    lab.run("delete", "endpoints", "outside")
    wait_for(
        lambda: (
            lab.ask(client, ("TCP", lab.service("outside")["cluster_ips"][0], 443))[0].error
            == "refused"
        ),
        "a refusal",
    )


def test_a_restart_replaces_every_pod(running: Lab) -> None:
    """It follows the strategy of the kind, and `rollout status` waits for its end."""
    for kind, prefix in (("statefulset", "db"), ("daemonset", "agent")):
        before = {
            pod["pid"] for pod in running.inspected["pods"] if pod["name"].startswith(f"{prefix}-")
        }
        assert (
            run("rollout", "restart", kind, prefix, "--lab", running.name).out
            == f"{kind} {prefix} restarted\n"
        )
        output = run("rollout", "status", kind, prefix, "--lab", running.name).out
        assert output.endswith(f"rollout of {kind} {prefix} is complete\n")
        after = {
            pod["pid"] for pod in running.inspected["pods"] if pod["name"].startswith(f"{prefix}-")
        }
        assert len(after) == len(before)
        assert not after & before
    output = run(
        "rollout", "status", "statefulset/db", "daemonset/agent", "--lab", running.name
    ).out
    assert output.splitlines()[:2] == [
        "rollout of statefulset db is complete",
        "rollout of daemonset agent is complete",
    ]
    assert (
        "expected a Deployment, StatefulSet or DaemonSet"
        in run("rollout", "restart", "pod", "x", status=2).err
    )


def test_rollout_status_ends_at_its_timeout_and_survives_the_agent(running: Lab) -> None:
    """The error names what is missing. A watch ends with the agent; the next one goes on."""
    never_ready = deployment("never", 1).replace(
        "{app: never}}\n    spec",
        '{app: never}, annotations: {kubenetlab.dev/ready: "false"}}\n    spec',
    )
    running.run("apply", "--no-wait", "-f", "-", stdin=never_ready)
    try:
        result = run(
            *("rollout", "status", "deploy/never", "--timeout", "1s", "--lab", running.name),
            status=1,
        )
        assert "waiting: 0 of 1 pods are available" in result.out
        assert "deployment never is not complete after 1s: 0 of 1 pods are available" in result.err
        process = subprocess.Popen(
            [*COMMAND, "rollout", "status", "deploy/never", "--lab", running.name],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "waiting: 0 of 1 pods are available\n"
            os.kill(running.inspected["agent_pid"], signal.SIGKILL)
            running.run("scale", "deployment", "never", "--replicas", "0")
            rest, _ = process.communicate(timeout=patiently(20))
        finally:
            process.kill()
            process.communicate()
        assert rest.endswith("rollout of deployment never is complete\n")
    finally:
        running.run("delete", "deployment", "never")
