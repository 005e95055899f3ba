"""The resources that a lab needs, and the check whether a machine has them."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec import structs

from kubenetlab import controllers
from kubenetlab.api.apps import Deployment
from kubenetlab.api.lab import Decisions
from kubenetlab.api.pods import Pod
from kubenetlab.controllers.states import ControllerStates
from kubenetlab.errors import RequirementError
from kubenetlab.kernel.features.limits import (
    BRIDGE_PORTS,
    FILES,
    MEMORY,
    NEIGHBORS,
    PROCESSES,
    Limit,
    Need,
    read_limits,
    remeasured,
    shortfalls,
)
from kubenetlab.lab.capacity import max_pods, needs, require_capacity
from tests.clusters import NOW, ONE_NODE, applied, deployment, pod, store

PIDS = Limit(PROCESSES, 1000, "kernel.pid_max", "sudo sysctl -w kernel.pid_max={enough}", used=900)
NETS = Limit(
    "network namespaces",
    30,
    "user.max_net_namespaces",
    "sudo sysctl -w user.max_net_namespaces={enough}",
)
ROOMY = [
    Limit(resource, 10**6, "a setting", used=0)
    for resource in (PROCESSES, FILES, MEMORY, BRIDGE_PORTS, NEIGHBORS)
]


def amounts(text: str) -> dict[str, tuple[int, str]]:
    return {need.resource: (need.amount, need.component) for need in needs(store(text))}


def test_a_lab_is_counted() -> None:
    """Pods, nodes, external hosts and each part of the fabric take one sandbox.

    A hostNetwork pod has no network namespace of its own.
    """
    empty, more = (
        amounts(ONE_NODE),
        amounts(ONE_NODE + deployment(replicas=5) + pod("h", ", hostNetwork: true")),
    )
    grown = {resource: more[resource][0] - empty[resource][0] for resource in empty}
    assert (
        grown[PROCESSES],
        grown["PID namespaces"],
        grown["network namespaces"],
        grown["mount namespaces"],
    ) == (6, 6, 5, 0)
    assert (
        empty["network namespaces"][0] == 8
    )  # switch, router, internet, client, one node, CoreDNS twice, the lab's own
    assert more[BRIDGE_PORTS] == (7, "cbr0 of node control-plane")
    assert more[MEMORY][0] > empty[MEMORY][0]


def test_pods_of_a_statefulset_are_counted_before_they_exist() -> None:
    """They are created one after the other."""
    text = """
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  replicas: 40
  serviceName: db
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec: {containers: [{name: db, image: agnhost, args: [netexec]}]}
"""
    assert amounts(text)["PID namespaces"][0] - amounts("")["PID namespaces"][0] == 40


def test_pods_that_are_not_created_yet_are_counted() -> None:
    """A running lab creates pods in batches; all of them must fit before the first one."""
    whole = applied(store(deployment(replicas=1)), deployment(replicas=600))
    few = store(deployment(replicas=1))
    web = few.get(Deployment, "default", "web")
    assert web is not None
    begun, _ = controllers.run(
        few.with_changes([structs.replace(web, spec=structs.replace(web.spec, replicas=600))]),
        ControllerStates(batch_limit=10),
        NOW,
    )
    assert len(begun.all(Pod)) < 50
    for at_once, in_batches in zip(needs(whole), needs(begun), strict=True):
        assert in_batches.resource == at_once.resource
        assert in_batches.amount == pytest.approx(at_once.amount, rel=0.02), at_once


@pytest.mark.parametrize(
    ("cni", "pods", "expected"),
    [
        ("bridge", 100, 2 * 102 + 9),
        ("bridge", 200, 0),
        ("{type: bridge, neighbors: dynamic}", 200, 2 * 202 + 9),
        ("{type: bridge, neighbors: permanent}", 100, 0),
        ("conflist", 200, 2 * 202 + 9),
    ],
)
def test_only_dynamic_neighbours_are_counted(cni: str, pods: int, expected: int) -> None:
    """Permanent ones do not count against the kernel's limit. Plugins make none of them."""
    cluster = (
        f"apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\nnetworking: {{cni: {cni}}}\n---\n"
    )
    assert amounts(cluster + deployment(replicas=pods))[NEIGHBORS][0] == expected


def test_a_change_of_the_cni_mode_is_counted_with_the_new_mode() -> None:
    """A lab of the mode bridge has decided on permanent neighbours."""
    former = store(deployment(replicas=600))
    decisions = former.get(Decisions, "", "decisions")
    assert decisions is not None
    assert decisions.neighbors == "permanent"
    changed = applied(
        former,
        "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\nnetworking: {cni: conflist}",
    ).with_changes([decisions])
    assert {need.resource: need.amount for need in needs(changed)}[NEIGHBORS] > 1024


def test_all_shortfalls_come_in_one_report() -> None:
    """Each line has the setting, its value, the need and the remedy."""
    with pytest.raises(RequirementError) as error:
        require_capacity("big", store(deployment(replicas=100)), [PIDS, NETS, *ROOMY])
    assert str(error.value).splitlines() == [
        "lab big does not fit on this machine: 3 nodes and 105 pods",
        "  processes: 121 needed; kernel.pid_max is 1,000, 900 of them taken",
        "    → sudo sysctl -w kernel.pid_max=1021",
        "  network namespaces: 110 needed; user.max_net_namespaces is 30",
        "    → sudo sysctl -w user.max_net_namespaces=110",
        "  nothing was changed; see kubenetlab doctor",
    ]


def test_a_full_bridge_names_its_node() -> None:
    """The kernel allows 1,023 ports per bridge."""
    fullest = Limit(BRIDGE_PORTS, 50, "the kernel's bridge", "more nodes, or fewer pods on each")
    with pytest.raises(
        RequirementError, match=r"ports of one bridge \(cbr0 of node control-plane\): 62 needed"
    ):
        require_capacity("l", store(ONE_NODE + deployment(replicas=60)), [fullest])


def test_resources_of_a_running_lab_are_not_counted_twice() -> None:
    """Growth must fit in addition to the lab's current use; shrinking always fits."""
    before = store(deployment(replicas=50))
    room = Limit(PROCESSES, 1000, "kernel.pid_max", used=940)
    require_capacity("l", applied(before, deployment(replicas=100)), [room], before)
    with pytest.raises(RequirementError, match="processes: 70 needed"):
        require_capacity("l", applied(before, deployment(replicas=120)), [room], before)
    require_capacity(
        "l",
        applied(before, deployment(replicas=10)),
        [Limit(PROCESSES, 1, "kernel.pid_max", used=1)],
        before,
    )


def test_a_limit_without_known_use_is_compared_with_the_whole_need() -> None:
    """The kernel reports the maximum number of namespaces, not the current one."""
    need, had = [Need("network namespaces", 31)], [Need("network namespaces", 30)]
    assert [shortfall.need.amount for shortfall in shortfalls(need, [NETS], had)] == [31]
    assert shortfalls(had, [NETS], had) == []


def test_maxima_are_kept_when_use_is_measured_again() -> None:
    """The machine's maxima cannot be seen inside a lab."""
    seen = [
        Limit(PROCESSES, 4_194_304, "kernel.pid_max", used=950),
        Limit("network namespaces", 2**31, "user.max_net_namespaces"),
    ]
    assert [(limit.maximum, limit.used) for limit in remeasured([PIDS, NETS], seen)] == [
        (1000, 950),
        (30, None),
    ]


@pytest.mark.parametrize(
    ("limits", "pods"),
    [
        ([PIDS, NETS], 14),
        ([PIDS], 84),
        ([Limit(FILES, 20_000, "f")], 19_000),
        ([Limit(MEMORY, 1000, "m", used=600)], 540),
        ([Limit(FILES, 9, "f")], 0),
    ],
)
def test_how_many_pods_fit(limits: list[Limit], pods: int) -> None:
    """The number is rounded; the scarcest resource counts."""
    assert max_pods(limits)[0] == pods


FILES_OF_A_MACHINE = {
    "proc/sys/kernel/pid_max": "4194304\n",
    "proc/sys/user/max_net_namespaces": "12\n",
    "proc/loadavg": "0.00 0.01 0.05 2/345 6789\n",
    "proc/meminfo": "MemTotal:        2048000 kB\nMemFree: 1 kB\nMemAvailable:    1024000 kB\n",
    "proc/self/uid_map": "         0       1000          1\n",
}
VERSION_2 = {
    "proc/self/cgroup": "0::/user.slice/app\n",
    "cg/user.slice/app/pids.max": "max\n",
    "cg/user.slice/app/memory.max": "536870912\n",
    "cg/user.slice/app/memory.current": "209715200\n",
    "cg/user.slice/app/memory.stat": "anon 1\ninactive_file 104857600\n",
    "cg/user.slice/pids.max": "100\n",
    "cg/user.slice/pids.current": "40\n",
}
VERSION_1 = {
    "proc/self/cgroup": "9:name=systemd:/x\n8:pids:/docker/a\n4:memory:/docker/a\n0::/\n",
    "cg/pids/docker/a/pids.max": "100\n",
    "cg/pids/docker/a/pids.current": "40\n",
    "cg/memory/docker/a/memory.limit_in_bytes": "536870912\n",
    "cg/memory/docker/a/memory.usage_in_bytes": "209715200\n",
    "cg/memory/docker/a/memory.stat": "inactive_file 1\ntotal_inactive_file 104857600\n",
    "cg/memory/memory.limit_in_bytes": "9223372036854771712\n",
    "cg/memory/memory.usage_in_bytes": "1\n",
}


@pytest.mark.parametrize("cgroups", [VERSION_2, VERSION_1], ids=["cgroup v2", "cgroup v1"])
def test_limits_are_read_from_proc_and_cgroups(tmp_path: Path, cgroups: dict[str, str]) -> None:
    """Sysctls, memory, and the tightest limit among the cgroups of this process.

    Missing and unlimited settings are no limits.
    """
    for name, text in {**FILES_OF_A_MACHINE, **cgroups}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    limits = {
        (limit.resource, limit.setting.partition(" of ")[0]): limit
        for limit in read_limits(f"{tmp_path}/proc", f"{tmp_path}/cg")
    }
    assert (limits[PROCESSES, "kernel.pid_max"].used, limits[PROCESSES, "pids.max"].available) == (
        345,
        60,
    )
    assert limits["network namespaces", "user.max_net_namespaces"].maximum == 12
    assert ("user namespaces", "user.max_user_namespaces") not in limits
    assert limits[MEMORY, "this machine's memory"].available == 1000
    (memory,) = [
        limit
        for (resource, setting), limit in limits.items()
        if resource == MEMORY and setting.startswith("memory.")
    ]
    assert (memory.maximum, memory.used) == (512, 100)


def test_labels_need_no_resources() -> None:
    """A label changes nothing that is counted, even where the lab takes more than there is."""
    full = [Limit(PROCESSES, 1, "kernel.pid_max", used=1)]
    before = store(pod("a"))
    require_capacity("l", applied(before, pod("a", meta=", labels: {role: friend}")), full, before)
    with pytest.raises(RequirementError, match="processes"):
        require_capacity("l", applied(before, pod("b")), full, before)
