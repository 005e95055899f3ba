"""`up` after a repair: readiness probes that have failed for good are attempted again."""

from __future__ import annotations

from tests.labs.lab import Lab, wait_for

PODS = """\
apiVersion: v1
kind: Pod
metadata: {name: a}
spec:
  containers:
  - name: main
    image: agnhost
    args: [netexec, --http-port=8080]
    ports: [{containerPort: 8080}]
    readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 2, failureThreshold: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: b}
spec: {containers: [{name: main, image: agnhost}]}
"""
DROP = (
    "nft add table inet test; nft add chain inet test in '{ type filter hook input priority 0; }'; "
    "nft add rule inet test in tcp dport 8080 drop"
)


def is_final(lab: Lab) -> bool:
    return "Readiness probe failed" in lab.run("up", status=None).err


def test_a_repaired_pod_is_not_reported_with_its_former_failure(lab: Lab) -> None:
    """The next attempt would be up to a period away; other probes of the pod are not restarted."""
    lab.up(PODS)
    pod = lab.pod("a")
    lab.inside(pod, "sh", "-c", DROP)
    wait_for(lambda: is_final(lab), "the failure of the probe")
    restarts = lab.run("get", "pod", "a", "-o", "json").json["status"]["containerStatuses"]
    lab.inside(pod, "nft", "delete", "table", "inet", "test")
    lab.run("up")
    after = lab.run("get", "pod", "a", "-o", "json").json["status"]["containerStatuses"]
    assert [each["restartCount"] for each in after] == [each["restartCount"] for each in restarts]


def test_a_failure_that_lasts_is_reported_again(lab: Lab) -> None:
    """`up` waits only until the probe has failed again for good."""
    lab.up(PODS.replace("port: 8080}, periodSeconds", "port: 8090}, periodSeconds"), status=1)
    failed = lab.run("up", "--timeout", "60s", status=1)
    assert "Readiness probe failed" in failed.err
    assert "still waiting" not in failed.err
