"""Another CNI mode while a lab is up: new sandboxes and addresses, nothing of the former mode."""

from __future__ import annotations

import json

import pytest
import yaml

from kubenetlab.kernel.features.detection import has_program
from kubenetlab.kernel.rules.libbpf import has_library
from kubenetlab.lab.client import Client
from kubenetlab.lab.paths import LAB_API
from tests.labs.lab import Lab
from tests.labs.pod_networks import manifest
from tests.labs.test_pod_networks import check_connections
from tests.libbpf import NEEDS_LIBBPF

LINKS = {"bridge": "cbr0", "cilium": "cilium_host", "flannel": "cni0", "weave": "weave"}


def node_links(lab: Lab) -> set[str]:
    shown = json.loads(lab.inside(lab.place("nodes", "worker"), "ip", "-j", "link"))
    return {entry["ifname"] for entry in shown}


@pytest.mark.parametrize("family", ["ipv4", "dual"])
def test_pods_get_new_sandboxes_from_the_new_mode(lab: Lab, family: str) -> None:
    """`up` names the pods first; they start again with addresses of the new mode."""
    cilium = ["cilium"] if has_library() else []
    modes = ["flannel", *cilium, "{type: calico, backend: vxlan}", *cilium, "weave", "bridge"]
    lab.up(manifest(family, "bridge"))
    former, pids = "bridge", {name: lab.pod(name)["pid"] for name in "abc"}
    for restarts, mode in enumerate(modes, 1):
        done = lab.up(manifest(family, mode))
        name = mode.strip("{}").removeprefix("type: ").partition(",")[0]
        first, *_ = done.out.splitlines()
        assert first.startswith(f"cni {former} → {name}: 5 pods get new sandboxes:"), first
        assert "default/a" in first
        check_connections(lab, family)
        assert {pod: lab.pod(pod)["pid"] for pod in "abc"} != pids
        status = lab.run("get", "pod", "a", "-o", "json").json["status"]
        assert status["containerStatuses"][0]["restartCount"] == restarts
        links = node_links(lab)
        assert LINKS.get(former, "vxlan.calico") not in links
        assert LINKS.get(name, "vxlan.calico") in links
        assert lab.run("diff", status=None).status == 0
        former = name


def test_policies_hold_in_the_new_mode(lab: Lab) -> None:
    """Each mode has another policy engine, and some of them come back."""
    policy = (
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: web}\n"
        "spec: {podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{port: 8080}]}]}\n"
    )
    cilium = ["cilium"] if has_library() else []
    for mode in ("bridge", *cilium, "{type: calico, backend: vxlan}", *cilium, "bridge"):
        lab.up(manifest("ipv4", mode) + policy)
        lab.run("check")
        assert lab.run("diff", status=None).status == 0


def test_other_options_of_the_same_mode(lab: Lab) -> None:
    """The choices of `up` are made again; the same manifest changes nothing."""
    lab.up(manifest("ipv4", "{type: flannel, backend: vxlan}"))
    lab.up(manifest("ipv4", "{type: flannel, backend: host-gw}"))
    assert "flannel.1" not in node_links(lab)
    check_connections(lab, "ipv4")
    pid = lab.pod("a")["pid"]
    done = lab.up(manifest("ipv4", "{type: flannel, backend: host-gw}"))
    assert "sandboxes" not in done.out
    assert lab.pod("a")["pid"] == pid


@NEEDS_LIBBPF
def test_programs_of_cilium_end_with_the_mode(lab: Lab) -> None:
    """Options change the programs, too. kube-proxy comes with a mode that implies one."""
    lab.up(manifest("ipv4", "cilium"))
    for cni in (
        "{type: cilium, routingMode: native}",
        "{type: cilium, routingMode: tunnel}",
        "flannel",
    ):
        lab.up(manifest("ipv4", cni))
        check_connections(lab, "ipv4")
        has_programs = cni != "flannel"
        assert ("cilium_vxlan" in node_links(lab)) == ("tunnel" in cni)
        worker = lab.place("nodes", "worker")
        filters = lab.inside(worker, "tc", "filter", "show", "dev", "eth0", "ingress")
        assert ("cil_from_netdev" in filters) == has_programs
        assert ("CILIUM" in lab.inside(worker, "iptables-save")) == has_programs
        assert any("kube-proxy" in pod["name"] for pod in lab.inspected["pods"]) != has_programs
        (answer,) = lab.ask(lab.pod("a"), ("TCP", lab.service("web")["cluster_ips"][0], 80))
        assert answer.server
        assert lab.run("diff", status=None).status == 0


@pytest.mark.skipif(not has_program("bird"), reason="needs BIRD 2 (apt-get install bird2)")
def test_bird_ends_with_its_mode(lab: Lab) -> None:
    """Its routes leave the kernel, too."""
    lab.up(manifest("ipv4", "calico"))
    lab.up(manifest("ipv4", "{type: calico, backend: vxlan}"))
    check_connections(lab, "ipv4")
    shown = lab.inside(lab.place("nodes", "worker"), "ip", "route")
    assert "proto bird" not in shown
    assert not lab.run("exec", "node:worker", "--", "pgrep", "-x", "bird", status=None).out


def test_a_mode_cannot_be_removed(lab: Lab) -> None:
    lab.up(manifest("ipv4", "bridge"))
    done = lab.up(manifest("ipv4", "none"), status=2)
    assert "a CNI plugin cannot be removed while the lab is up; it is bridge" in done.err
    assert "sandboxes" not in done.out


def test_a_dry_run_changes_nothing(lab: Lab) -> None:
    """Each of two dry runs finds the same change."""
    lab.up(manifest("ipv4", "bridge"))
    pids = {name: lab.pod(name)["pid"] for name in "abc"}
    documents = [*yaml.safe_load_all(manifest("ipv4", "flannel"))]
    for _ in range(2):
        answer = Client(lab.name).post(
            f"{LAB_API}/apply", {"documents": documents, "dry_run": True}
        )
        actions = {outcome["title"]: outcome["action"] for outcome in answer["outcomes"]}
        assert [title for title, action in actions.items() if action == "configured"] == [
            next(iter(actions))
        ]
    assert {name: lab.pod(name)["pid"] for name in "abc"} == pids
    assert "cbr0" in node_links(lab)
    assert lab.run("diff").status == 0
