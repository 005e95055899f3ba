"""Jobs: their programs end, `up` waits for them, and a failed Job changes the exit status."""

from __future__ import annotations

from tests.clusters import ONE_NODE, pod, service
from tests.labs.lab import Lab, wait_for


def job(
    name: str,
    container: str = "image: busybox, command: [sh, -c, 'do-it']",
    *,
    spec: str = "",
    annotations: str = "",
    policy: str = "Never",
) -> str:
    return f"""\
apiVersion: batch/v1
kind: Job
metadata: {{name: {name}}}
spec:
  {spec}
  template:
    metadata: {{labels: {{app: {name}}}, annotations: {{{annotations}}}}}
    spec: {{restartPolicy: {policy}, containers: [{{name: main, {container}}}]}}
---
"""


CLIENT = pod("client") + service("worker", target=9000)


def test_up_waits_for_jobs_to_complete(lab: Lab) -> None:
    """Jobs complete at once, in parallel, or after a duration.

    During that time the program serves. Afterwards the Service has no endpoint.
    """
    serving = "image: worker, ports: [{containerPort: 9000}]"
    lab.up(
        ONE_NODE + CLIENT + job("worker", serving, annotations="kubenetlab.dev/duration: 1h"),
        "--no-wait",
    )
    client, target = lab.pod("client"), ("TCP", lab.service("worker")["cluster_ips"][0], 80)
    wait_for(
        lambda: (
            [answer.server for answer in lab.ask(client, target)] == [lab.pod("worker")["name"]]
        ),
        "the worker to serve",
    )
    lab.run("delete", "job", "worker")
    brief = job("worker", serving, annotations="kubenetlab.dev/duration: 1s")
    result = lab.up(
        ONE_NODE + CLIENT + brief + job("many", spec="completions: 5\n  parallelism: 2")
    )
    assert "10 of 10 pods ready" in result.out
    rows = {
        line.split()[0]: line.split()[1:3] for line in lab.run("get", "jobs").out.splitlines()[1:]
    }
    assert rows == {"worker": ["Complete", "1/1"], "many": ["Complete", "5/5"]}
    assert not lab.service("worker")["endpoints"]
    everything = lab.run("get", "all").out
    assert all(word in everything for word in ("COMPLETIONS", "many", "CLUSTER-IP", "client"))
    assert lab.get("all", "-o", "json")["items"][-1]["kind"] == "Job"


def test_a_failed_job_is_reported(lab: Lab) -> None:
    """The report names the Job, its reason and that of its container.

    A Job that never completes fails at once.
    """
    failing = job("broken", annotations='kubenetlab.dev/exit-code: "3"', spec="backoffLimit: 0")
    result = lab.up(ONE_NODE + failing, status=1)
    assert (
        "failed: Job default/broken: BackoffLimitExceeded: "
        "Job has reached the specified backoff limit" in result.err
    )
    assert (
        "Error: container main: exit status 3: "
        "a built-in program without work ends at once, as the annotation" in result.err
    )
    described = lab.run("describe", "job", "broken").out
    assert "Pods Statuses:     0 Active (0 Ready) / 0 Succeeded / 1 Failed" in described
    assert "BackoffLimitExceeded" in described
    assert "broken-" in described.partition("Pods:")[2]
    lab.run("delete", "job", "broken")
    restarted = job(
        "again",
        annotations='kubenetlab.dev/exit-code: "1"',
        spec="backoffLimit: 1",
        policy="OnFailure",
    )
    assert "failed: Job default/again: BackoffLimitExceeded" in lab.apply(restarted, status=1).err
    lab.run("delete", "job", "again")
    endless = lab.apply(job("server", "image: agnhost, args: [netexec]"), status=1)
    assert (
        "failed: Job default/server: it never completes: "
        "container main runs agnhost netexec until it is stopped" in endless.err
    )
    lab.run("delete", "job", "server")
    late = lab.apply(
        job("late", annotations='kubenetlab.dev/exit-code: "3"'), "--timeout", "2s", status=1
    )
    assert (
        "not complete: after 2 s still waiting for Job default/late: 0 of 1 completed; "
        "container main failed last: exit status 3" in late.err
    )
    assert "describe job late -n default" in late.err
