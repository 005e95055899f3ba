"""The commands CHECK, GC and STATUS of CNI plugins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.labs.lab import SHORTLY, Lab, wait_for
from tests.labs.plugin_lists import (
    PTP,
    THREE,
    cluster,
    needs_plugins,
    plugin,
    pods,
)


@needs_plugins
def test_check_finds_what_was_changed(lab: Lab) -> None:
    """`diff` shows the plugin's message; the successor of the pod is whole again."""
    lab.up(cluster(PTP) + THREE)
    assert lab.run("diff").status == 0
    lab.inside(lab.pod("a"), "ip", "route", "del", "default")
    changed = lab.run("diff", status=1)
    assert '  ~ attachment eth0 by CNI plugins    (CHECK: plugin type="ptp" failed (check): ' in (
        changed.out
    )
    assert "1 difference in 1 namespace" in changed.out
    assert "next: kubenetlab delete pod a -n default" in changed.err + changed.out
    (entry,) = json.loads(lab.run("diff", "-o", "json", status=1).out)["changes"]
    assert entry["netns"].startswith("pod/default/a/")
    assert entry["differences"][0]["action"] == "change"
    lab.run("delete", "pod", "a")
    lab.apply(THREE)
    wait_for(lambda: lab.problems == [], "the new pod")


CHECK_PLUGIN = """
case $CNI_COMMAND in
CHECK) echo '{"cniVersion": "0.4.0", "code": 107, "msg": "link is gone"}'; exit 1 ;;
ADD) echo '{"cniVersion": "0.4.0", "ips": [{"version": "4", "address": "10.7.0.5/24"}]}' ;;
esac
"""


@pytest.mark.parametrize(
    ("fields", "status"),
    [({}, 1), ({"disableCheck": True}, 0), ({"cniVersion": "0.3.1"}, 0)],
    ids=["0.4.0", "disableCheck", "0.3.1"],
)
def test_check_shows_codes_of_plugins(
    lab: Lab, tmp_path: Path, fields: dict[str, Any], status: int
) -> None:
    """CHECK exists since 0.4.0, and a list can switch it off."""
    mode = plugin(tmp_path, CHECK_PLUGIN)
    mode["conflist"] |= {"cniVersion": "0.4.0"} | fields
    manifest = cluster(mode) + pods(("a", "worker"))
    lab.run("up", "-f", "-", "--timeout", "3", stdin=manifest, status=None)
    assert wait_for(lambda: lab.pod("a")["addresses"], "ADD")
    lines = [line for line in lab.run("diff", status=None).out.splitlines() if "CNI" in line]
    expected = '(CHECK: plugin type="own" failed (check): link is gone (code 107))'
    assert [line.partition("    ")[2] for line in lines[:1]] == [expected] * status
    assert ([] if status else lines) == []


GC_PLUGIN = """
input=$(cat)
case $CNI_COMMAND in
ADD)
    number=$(( $(ls /var/lib/cni | grep -c lease) + 2 ))
    echo 10.7.0.$number > /var/lib/cni/lease-$CNI_CONTAINERID
    echo '{"cniVersion": "1.1.0", "ips": [{"address": "10.7.0.'$number'/24"}]}' ;;
DEL) rm -f /var/lib/cni/lease-$CNI_CONTAINERID ;;
GC) echo "$input" >> /var/lib/cni/collected ;;
esac
"""


def test_garbage_collection_of_version_1_1(lab: Lab, tmp_path: Path) -> None:
    """After a sandbox was lost, the plugin is told which attachments are still valid."""
    mode = plugin(tmp_path, GC_PLUGIN)
    mode["conflist"]["cniVersion"] = "1.1.0"
    lab.run("up", "-f", "-", "--timeout", "3", stdin=cluster(mode) + THREE, status=None)
    assert wait_for(lambda: lab.pod("a")["addresses"], "ADD")
    (victim,) = lab.pids(f"{lab.name}/pod/default/a/")
    lab.inside(lab.place("nodes", "worker"), "kill", "-9", str(victim))
    path = lab.directory / "files/node_worker/var/lib/cni/collected"
    wait_for(lambda: path.exists() and path.read_text().endswith("}\n"), "GC")
    document = json.loads(path.read_text().splitlines()[0])
    valid = {entry["containerID"] for entry in document["cni.dev/valid-attachments"]}
    assert len(valid) == 2  # b, and the new sandbox of a

    def ids(pattern: str) -> set[str]:
        return {each.name.split("-")[1] for each in path.parent.glob(pattern)}

    wait_for(lambda: ids("lease-*") == ids("results/*") == valid, "what is kept to be valid")


BUSY_PLUGIN = """
case $CNI_COMMAND in
ADD)
    touch /var/lib/cni/lease-$CNI_CONTAINERID
    echo '{"cniVersion": "1.0.0", "ips": [{"address": "10.7.0.2/24"}]}' ;;
DEL)
    if mkdir /var/lib/cni/was-busy 2> /dev/null; then
        echo '{"cniVersion": "1.0.0", "code": 11, "msg": "busy"}'
        exit 1
    fi
    rm -f /var/lib/cni/lease-$CNI_CONTAINERID ;;
esac
"""


def test_a_failed_del_is_repeated_when_the_sandbox_is_gone(lab: Lab, tmp_path: Path) -> None:
    """Otherwise addresses of removed pods would stay assigned for good."""
    mode = plugin(tmp_path, BUSY_PLUGIN)
    manifest = cluster(mode) + pods(("a", "worker"))
    lab.run("up", "-f", "-", "--timeout", "3", stdin=manifest, status=None)
    assert wait_for(lambda: lab.pod("a")["addresses"], "ADD")
    directory = lab.directory / "files/node_worker/var/lib/cni"
    assert list(directory.glob("lease-*"))
    lab.run("delete", "pod", "a")
    wait_for(lambda: not list(directory.glob("lease-*")), "a successful DEL")
    assert (directory / "was-busy").exists()
    wait_for(lambda: not list(directory.glob("results/*")), "the end of the collection")


STATUS_PLUGIN = """
case $CNI_COMMAND in
STATUS) if [ -e /var/lib/cni/broken ]; then
        echo '{"cniVersion": "1.1.0", "code": 50, "msg": "no agent", "details": "port 99"}'
        exit 1
    fi ;;
ADD) echo '{"cniVersion": "1.1.0", "ips": [{"address": "10.7.0.5/24"}]}' ;;
esac
"""


def test_status_of_version_1_1(lab: Lab, tmp_path: Path) -> None:
    """A node is NotReady while a plugin says so, and attaches no pod; other nodes go on."""
    mode = plugin(tmp_path, STATUS_PLUGIN)
    mode["conflist"]["cniVersion"] = "1.1.0"
    lab.run("up", "-f", "-", "--no-wait", stdin=cluster(mode) + THREE, status=None)
    assert wait_for(lambda: lab.pod("a")["addresses"], "ADD")
    broken = lab.directory / "files/node_worker/var/lib/cni/broken"
    broken.touch()

    def condition(node: str) -> Any:
        nodes = {each["metadata"]["name"]: each for each in lab.get("nodes")["items"]}
        (ready,) = nodes[node]["status"]["conditions"]
        return ready

    wait_for(lambda: condition("worker")["status"] == "False", "NotReady", within_s=20)
    assert (condition("worker")["reason"], condition("worker")["message"]) == (
        "KubeletNotReady",
        "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady"
        ' message:Network plugin returns error: plugin type="own" failed (status): no agent;'
        " port 99 (code 50: the plugin is not available: it cannot serve new pods)",
    )
    assert condition("worker2")["status"] == "True"
    assert lab.pod("a")["addresses"]
    anything = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: any}\n"
    unchanged = lab.apply(anything, *SHORTLY, status=1)
    assert "the node is not Ready and attaches no pods" in unchanged.err
    lab.apply(pods(("d", "worker"), ("e", "worker2")), "--no-wait", status=None)
    wait_for(lambda: lab.pod("e")["addresses"], "a pod of another node")

    def network_events() -> list[str]:
        return [
            event["message"]
            for event in lab.get("events")["items"]
            if event["reason"] == "NetworkNotReady" and event["involvedObject"]["name"] == "d"
        ]

    assert "no agent; port 99" in wait_for(network_events, "the event")[0]
    waiting = lab.apply(pods(("f", "worker")), *SHORTLY, status=1)
    assert "not ready: default/d" in waiting.err
    assert "next: kubenetlab describe node" in waiting.out + waiting.err
    assert not lab.pod("d")["addresses"]
    broken.unlink()
    wait_for(lambda: condition("worker")["status"] == "True", "Ready", within_s=20)
    wait_for(lambda: lab.pod("d")["addresses"], "ADD after the recovery")
