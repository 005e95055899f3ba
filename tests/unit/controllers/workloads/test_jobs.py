"""Jobs: ends of their programs, failures, and the report of `up`."""

from __future__ import annotations

import pytest

from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Cluster
from kubenetlab.cli.describe.columns import columns
from kubenetlab.datapath.containers import setups_of
from kubenetlab.observe.settled import job_verdicts, verdicts
from kubenetlab.programs import Setup
from kubenetlab.programs.support.ending import Ending, ending_in
from tests.clusters import (
    NOW,
    deployment,
    pod_named,
    problems_of,
    running,
    settled,
    store,
)
from tests.unit.controllers.workloads.jobs import active_pods, with_exit, work


def job(
    container: str = "image: busybox",
    *,
    more: str = "",
    policy: str = "Never",
    annotations: str = "",
) -> str:
    return f"""\
apiVersion: batch/v1
kind: Job
metadata: {{name: work}}
spec:
  {more}
  template:
    metadata: {{annotations: {{{annotations}}}}}
    spec:
      restartPolicy: {policy}
      containers: [{{name: main, {container}}}]
---
"""


def ended(cluster: Cluster, code: int, now: float, attempt: int = 0) -> Cluster:
    """Return the store once the first active pod's container has ended."""
    return with_exit(cluster, active_pods(cluster)[0], code, now, attempt=attempt)


@pytest.mark.parametrize(
    ("container", "annotations", "expected"),
    [
        ("image: busybox, command: [sh, -c, 'echo done']", "", Ending()),
        ("image: 'perl:5.34.0', command: [perl, -e, 'print 1']", "", Ending()),
        ("image: nginx, command: [nginx, -t]", "", Ending()),
        ("image: agnhost, args: [dns-suffix]", "", Ending()),
        ("image: agnhost, args: [netexec]", "", None),
        ("image: agnhost", "", None),
        ("image: nginx", "", None),
        ("image: pause", "", None),
        ("image: hashicorp/http-echo", "", None),
        ("image: agnhost, args: [netexec]", 'kubenetlab.dev/duration: "2s"', Ending(2.0)),
        ("image: migrate", 'kubenetlab.dev/exit-code: "3"', Ending(0.0, 3)),
        (
            "image: migrate",
            'kubenetlab.dev/exit-code: "3", kubenetlab.dev/duration: 1m',
            Ending(60.0, 3),
        ),
    ],
)
def test_a_jobs_program_ends_unless_its_image_runs_forever(
    container: str, annotations: str, expected: Ending | None
) -> None:
    """It succeeds at once, or ends as the annotations say."""
    (pod,) = active_pods(store(job(container, annotations=annotations)))
    assert ending_in(pod, pod.spec.containers[0]) == expected


def test_programs_of_other_pods_end_only_by_annotation() -> None:
    """Otherwise they run until they are stopped; sidecars always do."""
    text = (
        "apiVersion: v1\nkind: Pod\n"
        "metadata: {name: a, annotations: {ANNOTATIONS}}\nspec:\n"
        "  restartPolicy: Never\n"
    )
    text += (
        "  initContainers: [{name: side, image: proxy, restartPolicy: "
        "Always}]\n  containers: [{name: main, image: busybox}]\n"
    )
    plain = pod_named(store(text.replace("ANNOTATIONS", "")), "a")
    assert [ending_in(plain, container) for container in plain.spec.all_containers] == [None, None]
    stated = pod_named(store(text.replace("ANNOTATIONS", 'kubenetlab.dev/exit-code: "1"')), "a")
    assert [ending_in(stated, container) for container in stated.spec.all_containers] == [
        None,
        Ending(0.0, 1),
    ]
    assert [
        ending_in(pod, pod.spec.containers[0])
        for pod in store(deployment(replicas=1)).all(Pod)
        if pod.name.startswith("web")
    ] == [None]


def test_a_program_with_a_duration_serves_until_its_end() -> None:
    """A program that ends at once opens no port; one-shot programs end by themselves."""

    def setup(container: str, annotations: str = "") -> Setup:
        (pod,) = active_pods(store(job(container, annotations=annotations)))
        return setups_of(pod.spec, pod.metadata.annotations, True, (), ())["main"]

    ports = "image: worker, ports: [{containerPort: 9000}]"
    assert setup(ports, 'kubenetlab.dev/exit-code: "4"') == Setup("done", {"exit_code": 4})
    for_a_while = setup(ports, "kubenetlab.dev/duration: 5s")
    assert (for_a_while.program, [str(listener) for listener in for_a_while.listeners]) == (
        "default",
        ["9000/tcp"],
    )
    assert for_a_while.options == {"ending": {"after_s": 5.0, "exit_code": 0}}
    assert (
        setup("image: agnhost, args: [connect, 'db:1']", 'kubenetlab.dev/exit-code: "4"').program
        == "connect"
    )


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ('kubenetlab.dev/exit-code: "256"', 'expected a number from 0 to 255, found "256"'),
        ("kubenetlab.dev/exit-code: one", 'expected a number from 0 to 255, found "one"'),
        ('kubenetlab.dev/duration: "5"', 'expected a duration such as "5s" or "1m30s", found "5"'),
        ('kubenetlab.dev/duration: ""', 'expected a duration such as "5s" or "1m30s", found ""'),
    ],
)
def test_invalid_endings_are_rejected(annotation: str, message: str) -> None:
    """An exit status is one byte; a duration has a unit."""
    assert [problem.message for problem in problems_of(job(annotations=annotation))] == [message]


@pytest.mark.parametrize(("limit", "restarts"), [(0, 1), (1, 1), (2, 2), (3, 3)])
def test_restarts_count_towards_the_limit(limit: int, restarts: int) -> None:
    """With OnFailure it fails at the restart that reaches backoffLimit; with 0, at the first."""
    cluster, now = store(job(more=f"backoffLimit: {limit}", policy="OnFailure")), NOW
    for attempt in range(restarts):
        assert work(cluster).outcome == ""
        cluster = ended(cluster, 1, now, attempt)
        now += 400
        cluster = settled(cluster, now)
    assert work(cluster).outcome == "Failed"
    assert work(cluster).status.conditions[0].reason == "BackoffLimitExceeded"


def test_a_success_resets_the_back_off() -> None:
    """The next failure is followed by 10 s again; the longest delay is 10 minutes."""
    cluster, now = store(job(more="completions: 9\n  backoffLimit: 20")), NOW
    for wait in (10, 20, 40):
        cluster = ended(cluster, 1, now)
        assert not active_pods(settled(cluster, now + wait - 1))
        now += wait
        cluster = settled(cluster, now)
    cluster = ended(cluster, 0, now)
    cluster = ended(cluster, 1, now + 1)
    assert not active_pods(settled(cluster, now + 10))
    assert active_pods(settled(cluster, now + 11))
    failing, now = store(job(more="backoffLimit: 20")), NOW
    for _ in range(9):
        failing = ended(failing, 1, now)
        now += 600
        failing = settled(failing, now)
        assert active_pods(failing)


def test_a_suspended_job_has_no_deadline() -> None:
    """Its time starts when it is resumed."""
    cluster = store(job(more="suspend: true\n  activeDeadlineSeconds: 5"))
    assert (work(cluster).status.start_time, work(settled(cluster, NOW + 60)).outcome) == (None, "")


def verdict(cluster: Cluster) -> tuple[str, str]:
    (verdict,) = job_verdicts(cluster)
    return verdict.state, verdict.reason


def test_the_report_of_a_job() -> None:
    """Complete, failed, in progress or suspended; one that can never complete counts as failed."""
    assert verdict(ended(store(job()), 0, NOW)) == ("complete", "")
    failing = store(job(more="backoffLimit: 1"))
    assert verdict(failing) == ("waiting", "0 of 1 completed")
    failing = ended(failing, 7, NOW)
    assert verdict(failing) == (
        "waiting",
        "0 of 1 completed; container main failed last: exit status 7",
    )
    assert not [
        verdict for verdict in verdicts(failing) if verdict.pod.startswith("default/")
    ]  # the Job creates another pod
    failing = ended(settled(failing, NOW + 10), 7, NOW + 10)
    assert verdict(failing) == (
        "failed",
        "BackoffLimitExceeded: Job has reached the specified backoff limit",
    )
    assert {
        (verdict.state, verdict.reason)
        for verdict in verdicts(failing)
        if verdict.pod.startswith("default/")
    } == {("stuck", "Error: container main: exit status 7")}
    assert verdict(store(job(more="suspend: true")))[0] == "suspended"
    assert verdict(store(job(more="parallelism: 0")))[0] == "suspended"
    endless = running(store(job("image: agnhost, args: [netexec]")))
    assert verdict(endless) == (
        "failed",
        "it never completes: container main runs agnhost netexec until it is stopped",
    )
    assert (
        verdict(running(store(job("image: nginx", more="activeDeadlineSeconds: 9"))))[0]
        == "waiting"
    )
    assert (
        verdict(store(job("image: nginx", annotations="kubenetlab.dev/duration: 1h")))[0]
        == "waiting"
    )


def test_a_job_with_a_restarting_container_is_in_progress() -> None:
    """With restartPolicy OnFailure the container restarts after a back-off."""
    cluster = ended(store(job(policy="OnFailure")), 1, NOW)
    cluster = ended(settled(cluster, NOW), 1, NOW, attempt=1)
    assert [
        verdict.state for verdict in verdicts(cluster) if verdict.pod.startswith("default/")
    ] == ["waiting"]
    assert verdict(cluster)[0] == "waiting"


def test_jobs_are_shown_as_by_kubectl() -> None:
    """`0/1 of 3` when three pods share one task; durations with units."""
    spec = {"template": {"spec": {"containers": [{"name": "main", "image": "busybox"}]}}}
    status = {
        "startTime": "2023-11-14T22:00:00Z",
        "completionTime": "2023-11-14T22:03:10Z",
        "succeeded": 1,
    }
    document = {
        "metadata": {"name": "work", "uid": "u1"},
        "spec": {**spec, "parallelism": 3},
        "status": status,
    }
    name, _, completions, duration, _, *wide = columns("Job", document, is_wide=True)
    assert (name, completions, duration) == ("work", "1/1 of 3", "3m10s")
    assert wide == ["main", "busybox", "batch.kubernetes.io/controller-uid=u1"]
    assert (
        columns("Job", {**document, "spec": {**spec, "completions": 5}}, is_wide=False)[2] == "1/5"
    )
