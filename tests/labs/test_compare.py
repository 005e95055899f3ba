"""The command compare: two modes with real packets, modes that cannot run, and interruption."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kubenetlab.lab.rundir import lab_names
from tests.labs.lab import run, wait_for
from tests.labs.test_output_schemas import assert_valid
from tests.patience import patiently

THREE_PODS = """\
apiVersion: kubenetlab.dev/v1alpha1
kind: Cluster
nodes: [{role: control-plane}, {role: worker, name: n1}]
networking: {cni: {type: flannel, backend: host-gw}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {nodeName: n1, containers: [{name: main, image: agnhost, args: [netexec]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: other}
spec: {nodeName: control-plane, containers: [{name: main, image: agnhost, args: [netexec]}]}
"""


def compared_labs(pid: int | str = "") -> list[str]:
    """Return the labs of all comparisons, or of the one that is made by a process."""
    beginning = f"compare-{pid}-" if pid else "compare-"
    return [name for name in lab_names() if name.startswith(beginning)]


def test_a_tunnel_and_plain_routes_differ_as_measured() -> None:
    """VXLAN adds 50 bytes and pods have a smaller MTU; both modes route between nodes only."""
    before = set(compared_labs())
    output = run("compare", "--cni", "flannel-vxlan,flannel-host-gw", "-o", "json").json
    assert_valid("compare", output)
    tunnel, routes = output["modes"]
    assert (tunnel["mode"], routes["mode"]) == ("flannel-vxlan", "flannel-host-gw")
    assert (tunnel["overhead_bytes"], tunnel["mtu"]) == (50, 1450)
    assert (routes["overhead_bytes"], routes["mtu"]) == (0, 1500)
    for mode in (tunnel, routes):
        assert mode["hops_other_node"] == 2
        assert mode["source_at_pod"] == "pod"
        assert mode["source_at_node"] == "node"  # flannel masquerades
        assert mode["connect_ms"] > 0
        assert mode["gbit_per_s"] > 0
        assert mode["rules"] > 10
        assert mode["routes"] == 5  # default, the nodes' subnet, three ranges of pods
        assert mode["enforces_policy"] is False
    wait_for(lambda: set(compared_labs()) <= before, "the end of the labs")


@pytest.mark.parametrize(("family", "overhead"), [("ipv6", 70), ("dual", 50)])
def test_the_family_of_addresses_can_be_chosen(family: str, overhead: int) -> None:
    """Outer headers of IPv6 are larger; a dual-stack lab is measured with IPv4."""
    (mode,) = run("compare", "--cni", "flannel", "--ip-family", family, "-o", "json").json["modes"]
    assert mode["ip_version"] == (6 if family == "ipv6" else 4)
    assert (mode["overhead_bytes"], mode["hops_other_node"]) == (overhead, 2)


def test_pods_of_the_users_manifests_are_measured(tmp_path: Path) -> None:
    """The mode replaces that of the Cluster document; kube-router does not masquerade to nodes."""
    file = tmp_path / "three.yaml"
    file.write_text(THREE_PODS)
    (mode,) = run("compare", "-f", str(file), "--cni", "bridge,layout=routed", "-o", "json").json[
        "modes"
    ]
    assert mode["mode"] == "bridge,layout=routed"
    assert (mode["hops_same_node"], mode["hops_other_node"]) == (1, 2)
    assert (mode["overhead_bytes"], mode["source_at_node"]) == (0, "pod")
    assert mode["routes"] < 10


def test_a_mode_that_cannot_run_is_a_row_with_the_reason(tmp_path: Path) -> None:
    """The others are measured all the same, and the exit status is 1."""
    file = tmp_path / "list.conflist"
    file.write_text('{"cniVersion": "1.0.0", "name": "x", "plugins": [{"type": "no-such"}]}')
    output = run(
        "compare", "--cni", f"conflist,file={file}", "--cni", "bridge", "-o", "json", status=1
    ).json
    assert_valid("compare", output)
    broken, bridge = output["modes"]
    assert not output["ok"]
    assert "no-such" in broken["error"]
    assert broken["mtu"] is None
    assert (bridge["error"], bridge["mtu"]) == ("", 1500)


ROUTED = """\
apiVersion: kubenetlab.dev/v1alpha1
kind: Cluster
nodes: [{role: control-plane}, {role: worker, name: n1}]
fabric: {topology: routed}
---
"""


def test_modes_that_cannot_be_on_a_fabric_are_rows_with_the_reason() -> None:
    """One mode is refused there, another one has no routes; standard input is read once."""
    pods = THREE_PODS.partition("---\n")[2]
    words = ("compare", "--cni", "bridge,ptp,flannel", "-f", "-", "-o", "json")
    output = run(*words, stdin=ROUTED + pods, status=1).json
    bridge, ptp, flannel = output["modes"]
    assert bridge["error"].startswith("bridge needs all nodes on one layer-2 segment")
    assert "because the gateway 172.18.2.2 is not on-link" in ptp["error"]
    assert (flannel["error"], flannel["overhead_bytes"]) == ("", 50)
    unrelated = ROUTED.replace("name: n1", "name: N1") + pods
    assert "N1" in run(*words, stdin=unrelated, status=2).err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_comparison_leaves_no_lab(number: signal.Signals) -> None:
    """The signal arrives while the lab of a mode is up."""
    line = [sys.executable, "-m", "kubenetlab", "compare", "--cni", "bridge,flannel"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as command:
        wait_for(lambda: compared_labs(command.pid), "a lab")
        os.kill(command.pid, number)
        out, _ = command.communicate(timeout=patiently(30))
    assert command.returncode == 128 + number
    assert out == b""
    wait_for(lambda: not compared_labs(command.pid), "the end of the lab")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--cni", "bridge,flanel"), "did you mean flannel?"),
        (("--cni", "flannel,backnd=vxlan"), "options of flannel"),
        (("--cni", "bridge", "--ip-family", "ipv5"), "ipv5"),
        (("--cni", "flannel-auto"), "not known"),
    ],
)
def test_wrong_use_is_refused_before_any_lab(words: tuple[str, ...], message: str) -> None:
    assert message in run("compare", *words, status=2).err
