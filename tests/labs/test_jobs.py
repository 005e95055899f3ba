"""Jobs in a lab: their programs end, `up` waits for them, and a failed one changes the exit status."""

from __future__ import annotations

from tests.clusters import ONE_NODE
from tests.labs.lab import Lab, wait_for


def job(
    name: str,
    container: str = "image: busybox, command: [sh, -c, 'do-it']",
    *,
    more: str = "",
    annotations: str = "",
    policy: str = "Never",
) -> str:
    return f"""\
apiVersion: batch/v1
kind: Job
metadata: {{name: {name}}}
spec:
  {more}
  template:
    metadata: {{labels: {{app: {name}}}, annotations: {{{annotations}}}}}
    spec: {{restartPolicy: {policy}, containers: [{{name: main, {container}}}]}}
---
"""


CLIENT = """\
apiVersion: v1
kind: Pod
metadata: {name: client}
spec: {containers: [{name: main, image: busybox}]}
---
apiVersion: v1
kind: Service
metadata: {name: worker}
spec: {selector: {app: worker}, ports: [{port: 80, targetPort: 9000}]}
---
"""


def test_jobs_complete_and_up_waits_for_them(lab: Lab) -> None:
    """At once, in parallel, or after a while, in which the program serves: then `up` is done, and
    the Service has no endpoint any more.
    """
    serving = "image: worker, ports: [{containerPort: 9000}]"
    lab.up(
        ONE_NODE + CLIENT + job("worker", serving, annotations="kubenetlab.dev/duration: 1h"),
        "--no-wait",
    )
    client, target = lab.pod("client"), ("TCP", lab.service("worker")["cluster_ips"][0], 80)
    wait_for(
        lambda: [answer.who for answer in lab.ask(client, target)] == [lab.pod("worker")["name"]],
        "the worker to serve",
    )
    lab.run("delete", "job", "worker")
    brief = job("worker", serving, annotations="kubenetlab.dev/duration: 1s")
    done = lab.up(ONE_NODE + CLIENT + brief + job("many", more="completions: 5\n  parallelism: 2"))
    assert "10 of 10 pods ready" in done.out
    shown = {
        line.split()[0]: line.split()[1:3] for line in lab.run("get", "jobs").out.splitlines()[1:]
    }
    assert shown == {"worker": ["Complete", "1/1"], "many": ["Complete", "5/5"]}
    assert not lab.service("worker")["endpoints"]
    everything = lab.run("get", "all").out
    assert all(word in everything for word in ("COMPLETIONS", "many", "CLUSTER-IP", "client"))
    assert lab.get("all", "-o", "json")["items"][-1]["kind"] == "Job"


def test_a_failed_job_is_reported(lab: Lab) -> None:
    """By name, with its reason and the container's; a Job that never completes fails too, at once."""
    failing = job("broken", annotations='kubenetlab.dev/exit-code: "3"', more="backoffLimit: 0")
    said = lab.up(ONE_NODE + failing, status=1)
    assert (
        "failed: Job default/broken: BackoffLimitExceeded: Job has reached the specified backoff limit"
        in said.err
    )
    assert (
        "Error: container main: exit status 3: a built-in program without work ends at once, as the annotation"
        in said.err
    )
    described = lab.run("describe", "job", "broken").out
    assert "Pods Statuses:     0 Active (0 Ready) / 0 Succeeded / 1 Failed" in described
    assert "BackoffLimitExceeded" in described
    assert "broken-" in described.partition("Pods:")[2]
    lab.run("delete", "job", "broken")
    restarted = job(
        "again",
        annotations='kubenetlab.dev/exit-code: "1"',
        more="backoffLimit: 1",
        policy="OnFailure",
    )
    assert "failed: Job default/again: BackoffLimitExceeded" in lab.apply(restarted, status=1).err
    lab.run("delete", "job", "again")
    endless = lab.apply(job("server", "image: agnhost, args: [netexec]"), status=1)
    assert (
        "failed: Job default/server: it never completes: container main runs agnhost netexec until it is stopped"
        in endless.err
    )
    lab.run("delete", "job", "server")
    late = lab.apply(
        job("late", annotations='kubenetlab.dev/exit-code: "3"'), "--timeout", "2s", status=1
    )
    assert (
        "not complete: after 2 s still waiting for Job default/late: 0 of 1 completed; container main failed last: exit status 3"
        in late.err
    )
    assert "describe job late -n default" in late.err
