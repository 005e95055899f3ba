"""Start, probes and end of containers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.clusters import pod
from tests.labs.lab import Lab, wait_for

TWO_ON_ONE_PORT = """\
apiVersion: v1
kind: Pod
metadata: {name: two}
spec:
  containers:
  - {name: first, image: agnhost, args: [netexec]}
  - {name: second, image: agnhost, args: [netexec, --udp-port=-1]}
"""


def test_the_second_container_on_a_port_crashes(lab: Lab) -> None:
    """It fails with the kernel's message and restarts after a back-off.

    The first container serves. `up` reports it and ends with 1, and the lab stays up.
    """
    result = lab.up(TWO_ON_ONE_PORT, status=1)
    assert "default/two" in result.err
    assert "address already in use" in result.err

    def statuses() -> dict[str, Any]:
        return {
            status["name"]: status
            for status in lab.get("pod", "two")["status"]["containerStatuses"]
        }

    # `up` may end before the first container is ready, because the second one has failed.
    wait_for(lambda: statuses()["first"]["ready"], "the container that has the port")
    assert statuses()["second"]["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    assert (
        "listen tcp :8080: bind: address already in use"
        in lab.run("logs", "two", "-c", "second").out
    )
    row = lab.run("get", "pods").out.splitlines()[1].split()
    assert row[:3] == ["two", "1/2", "CrashLoopBackOff"]
    described = lab.run("describe", "pod", "two").out
    assert "Back-off restarting failed container" in described
    assert "Readiness:     a ping, added by the lab" in described


UNHEALTHY = pod(
    "a",
    container=", ports: [{containerPort: 8080}], "
    'livenessProbe: {httpGet: {path: "/echo?code=500", port: 8080}, '
    "periodSeconds: 1, failureThreshold: 2}",
)


def test_a_failed_liveness_probe_restarts_its_container(lab: Lab) -> None:
    """The node sends real requests; the count of restarts rises, and events give the reason."""
    lab.up(UNHEALTHY, "--no-wait")

    def restarts() -> int:
        status = lab.get("pod", "a")["status"]
        return int(status.get("containerStatuses", [{}])[0].get("restartCount", 0))

    wait_for(lambda: restarts() >= 1, "a restart")
    output = lab.run("describe", "pod", "a").out
    assert "Liveness probe failed: HTTP probe failed with statuscode: 500" in output
    assert "failed liveness probe, will be restarted" in output


READY_LATER = """\
apiVersion: v1
kind: Pod
metadata: {name: a, labels: {app: a}}
spec:
  containers:
  - name: main
    image: agnhost
    args: [netexec]
    ports: [{containerPort: 8080}]
    readinessProbe: {tcpSocket: {port: 9999}, periodSeconds: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: b, labels: {app: a}, annotations: {kubenetlab.dev/ready: "false"}}
spec:
  containers: [{name: main, image: agnhost, args: [netexec], ports: [{containerPort: 8080}]}]
---
apiVersion: v1
kind: Service
metadata: {name: a}
spec: {selector: {app: a}, ports: [{port: 80, targetPort: 8080}]}
---
""" + pod("client")


def test_a_pod_is_ready_only_while_its_probe_succeeds(lab: Lab) -> None:
    """A pod whose probe gets no answer has no ready endpoint, and its Service refuses.

    When the port is opened, the pod becomes Ready and serves. The output names pods that are
    unready on purpose.
    """
    result = lab.up(READY_LATER, status=1)
    assert "default/a: Unhealthy: container main: Readiness probe failed: dial tcp" in result.err
    assert "unready on purpose: default/b" in result.err
    service = ("TCP", lab.service("a")["cluster_ips"][0], 80)
    assert lab.ask(lab.pod("client"), service)[0].error == "refused"
    assert [endpoint["ready"] for endpoint in lab.service("a")["endpoints"]] == [False, False]
    listening = "import socket, sys; s = socket.create_server(('', 9999)); sys.stdin.read()"

    with subprocess.Popen(
        ["nsenter", f"--net={lab.pod('a')['netns']}", sys.executable, "-c", listening],
        stdin=subprocess.PIPE,
    ) as late:
        wait_for(lambda: lab.pod("a")["ready"], "the pod to become ready")
        wait_for(
            lambda: lab.ask(lab.pod("client"), service)[0].server == "a",
            "the Service to use the pod",
        )
        assert late.stdin is not None
        late.stdin.close()
    wait_for(lambda: not lab.pod("a")["ready"], "the pod to become unready")
    wait_for(
        lambda: lab.ask(lab.pod("client"), service)[0].error == "refused", "the Service to refuse"
    )


GATED = """\
apiVersion: v1
kind: Pod
metadata:
  name: a
  labels: {app: a}
  annotations: {kubenetlab.dev/conditions: "example.com/load-balancer=%s"}
spec:
  readinessGates: [{conditionType: example.com/load-balancer}]
  containers: [{name: main, image: agnhost, args: [netexec], ports: [{containerPort: 8080}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: b}
spec:
  schedulingGates: [%s]
  containers: [{name: main, image: agnhost, args: [netexec], ports: [{containerPort: 8080}]}]
---
apiVersion: v1
kind: Service
metadata: {name: a}
spec: {selector: {app: a}, ports: [{port: 80, targetPort: 8080}]}
---
""" + pod("client")


def test_readiness_and_scheduling_gates_hold_pods_back(lab: Lab) -> None:
    """A readiness gate keeps a pod out of its Service until its condition is True.

    A scheduling gate keeps a pod Pending.
    """
    result = lab.up(GATED % ("False", "{name: example.com/quota}"))
    assert "unready on purpose: default/a, default/b" in result.err
    service = ("TCP", lab.service("a")["cluster_ips"][0], 80)
    assert lab.ask(lab.pod("client"), service)[0].error == "refused"
    listed = {
        line.split()[0]: line.split()[1:3] for line in lab.run("get", "pods").out.splitlines()[1:]
    }
    assert listed == {
        "a": ["1/1", "Running"],
        "b": ["0/1", "SchedulingGated"],
        "client": ["1/1", "Running"],
    }
    lab.apply(GATED % ("True", ""))
    wait_for(lambda: lab.pod("a")["ready"] and lab.pod("b")["ready"], "the gates to open")
    wait_for(
        lambda: lab.ask(lab.pod("client"), service)[0].server == "a", "the Service to use the pod"
    )
    lab.apply(GATED % ("Unknown", ""))
    wait_for(
        lambda: lab.ask(lab.pod("client"), service)[0].error == "refused", "the Service to refuse"
    )
    assert lab.get("pod", "a")["status"]["containerStatuses"][0]["ready"]


EXITS = """\
apiVersion: v1
kind: Pod
metadata: {name: a}
spec:
  restartPolicy: %s
  containers: [{name: main, image: agnhost, args: [netexec]}]
"""


@pytest.mark.parametrize(
    ("policy", "code", "check"),
    [
        (
            "Always",
            0,
            lambda status: (
                status["containerStatuses"][0]["restartCount"] == 1
                and status["containerStatuses"][0]["ready"]
            ),
        ),
        (
            "OnFailure",
            3,
            lambda status: (
                status["containerStatuses"][0]["restartCount"] == 1
                and status["containerStatuses"][0]["ready"]
            ),
        ),
        ("OnFailure", 0, lambda status: status["phase"] == "Succeeded"),
        ("Never", 3, lambda status: status["phase"] == "Failed"),
    ],
)
def test_an_exited_container_is_restarted_according_to_its_policy(
    lab: Lab, policy: str, code: int, check: Callable[[Any], bool]
) -> None:
    """A request to netexec's /exit ends it with a status; the pod keeps its address."""
    lab.up(EXITS % policy)
    pod = lab.pod("a")
    lab.run("ping", "node:worker", "a", "--tcp", "8080", "--http", f"/exit?code={code}")
    wait_for(lambda: check(lab.get("pod", "a")["status"]), f"the end with {code} under {policy}")
    ended = lab.get("pod", "a")["status"]["containerStatuses"][0]
    terminated = ended.get("lastState", {}).get("terminated") or ended["state"]["terminated"]
    assert terminated["exitCode"] == code
    assert lab.pod("a")["addresses"] == pod["addresses"]


STARTING = """\
apiVersion: v1
kind: Pod
metadata: {name: ordered}
spec:
  initContainers:
  - {name: first, image: busybox, command: [sh, -c, "sleep 1"]}
  - name: proxy
    image: envoy
    restartPolicy: Always
    ports: [{containerPort: 15001}]
    startupProbe: {tcpSocket: {port: 15001}}
  - {name: dials, image: agnhost, args: [connect, "127.0.0.1:15001"]}
  containers:
  - name: main
    image: agnhost
    args: [netexec]
    readinessProbe: {httpGet: {path: /healthz, port: 8080}}
---
apiVersion: v1
kind: Pod
metadata: {name: health}
spec:
  containers:
  - name: main
    image: some/server
    ports: [{containerPort: 5000}]
    startupProbe: {grpc: {port: 5000}, periodSeconds: 1}
    readinessProbe: {grpc: {port: 5000, service: any}}
    livenessProbe: {exec: {command: ["true"]}}
---
apiVersion: v1
kind: Pod
metadata: {name: other}
spec:
  containers:
  - {name: main, image: coredns, readinessProbe: {grpc: {port: 8181}, periodSeconds: 1}}
---
apiVersion: v1
kind: Pod
metadata: {name: broken}
spec:
  restartPolicy: Never
  initContainers: [{name: dials, image: agnhost, args: [connect, "127.0.0.1:1"]}]
  containers: [{name: main, image: nginx}]
---
apiVersion: v1
kind: Pod
metadata: {name: slow}
spec:
  containers:
  - name: main
    image: agnhost
    args: [netexec]
    startupProbe: {tcpSocket: {port: 9}, periodSeconds: 1, failureThreshold: 2}
"""


def test_containers_start_in_order_with_every_kind_of_probe(lab: Lab) -> None:
    """Init containers run one after the other, and a sidecar starts before the next.

    Probes use gRPC, too. Reports of failures contain the reason.
    """
    result = lab.up(STARTING, status=1)
    assert (
        "default/broken: Error: container dials: exit status 1: REFUSED: dial tcp 127.0.0.1:1"
        in result.err
    )
    assert (
        "default/slow: CrashLoopBackOff: container main: Startup probe failed: dial tcp"
        in result.err
    )
    assert (
        "default/other: Unhealthy: container main: Readiness probe failed: "
        "rpc error: code = Unavailable" in result.err
    )
    pods = {pod["metadata"]["name"]: pod for pod in lab.get("pods")["items"]}
    begun = [
        lab.run("logs", "ordered", "-c", name).out.split(" ")[0]
        for name in ("first", "proxy", "dials", "main")
    ]
    assert begun[:2] == sorted(begun[:2])
    assert [status["ready"] for status in pods["ordered"]["status"]["initContainerStatuses"]] == [
        True,
        True,
        True,
    ]
    assert pods["broken"]["status"]["phase"] == "Failed"
    rows = {
        line.split()[0]: line.split()[1:3] for line in lab.run("get", "pods").out.splitlines()[1:]
    }
    assert (rows["ordered"], rows["health"], rows["broken"][1]) == (
        ["2/2", "Running"],
        ["1/1", "Running"],
        "Init:Error",
    )
    described = lab.run("describe", "pod", "health").out
    assert "grpc <pod>:5000 any" in described
    assert "of a built-in program: is it serving?" in described
    assert "Init Containers:" in lab.run("describe", "pod", "ordered").out
