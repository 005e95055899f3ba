"""Files of nodes: seen by programs of the node, by nobody else, and repaired."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.labs.lab import Lab, wait_for

FLANNEL = (
    "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
    "networking: {{ipFamily: {family}, cni: {{type: flannel}}}}\n{more}"
)
FILE = "/run/flannel/subnet.env"
CONTENT = {
    "ipv4": "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\n"
    "FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n",
    "dual": "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\n"
    "FLANNEL_IPV6_NETWORK=fd00:10:244::/56\nFLANNEL_IPV6_SUBNET=fd00:10:244:1::1/64\n"
    "FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n",
}


def flannel(family: str = "ipv4", more: str = "") -> str:
    return FLANNEL.format(family=family, more=more)


def content(lab: Lab, place: str = "node:worker") -> str | None:
    """Return the content of the file as programs of a place see it; None if they do not."""
    shown = lab.run("exec", place, "--", "cat", FILE, status=None)
    return shown.out if shown.status == 0 else None


@pytest.mark.parametrize("family", CONTENT)
def test_programs_of_a_node_see_its_files(lab: Lab, family: str) -> None:
    """Each node has its own; pods and the machine have none."""
    lab.up(flannel(family))
    assert content(lab) == CONTENT[family]
    assert content(lab, "node:worker2") == CONTENT[family].replace(
        "10.244.1.1", "10.244.2.1"
    ).replace("244:1::1", "244:2::1")
    pod = lab.pods("coredns", "kube-system")[0]
    assert content(lab, f"kube-system/{pod['name']}") is None
    assert not Path("/run/flannel").exists()
    lab.down()
    assert lab.leftovers == []


@pytest.mark.parametrize(
    "edit",
    [f"rm {FILE}", f"echo x >> {FILE}", f"chmod 600 {FILE}", f"mv {FILE} {FILE}.old"],
)
def test_an_edited_file_is_shown_and_repaired(
    lab: Lab, edit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a scan; the log says what another program has done."""
    monkeypatch.setenv("KUBENETLAB_NO_SCANS", "1")
    lab.up(flannel())

    def is_seen() -> bool:
        lab.run("exec", "node:worker", "--", "sh", "-c", edit, status=None)
        return f"file {FILE}" in lab.run("diff", status=None).out

    wait_for(is_seen, "the edit to be shown")
    wait_for(lambda: lab.run("diff", status=None).status == 0, "the repair")
    assert content(lab) == CONTENT["ipv4"]
    assert f"file {FILE}" in (lab.directory / "log").read_text()


def test_an_edit_is_kept_if_the_user_asks_for_it(lab: Lab) -> None:
    """The next `up` repairs it."""
    manifest = flannel(more="drift: keep\n")
    lab.up(manifest)
    lab.run("exec", "node:worker", "--", "rm", FILE)
    log = lab.directory / "log"
    wait_for(lambda: "the change is kept" in log.read_text(), "the edit to be found")
    assert content(lab) is None
    lab.up(manifest)
    assert content(lab) == CONTENT["ipv4"]


def test_a_new_agent_finds_the_files(lab: Lab) -> None:
    """It repairs those that were edited while there was none, and removes others that it wrote."""
    lab.up(flannel())
    lab.run("exec", "node:worker", "--", "sh", "-c", f"echo x >> {FILE}")
    lab.kill("agent")
    wait_for(lambda: lab.run("diff", status=None).status == 0, "the repair by the new agent")
    assert content(lab) == CONTENT["ipv4"]
    assert lab.problems == []


def test_a_removed_node_leaves_no_files(lab: Lab) -> None:
    """The other nodes keep theirs."""
    nodes = "nodes: [{role: control-plane}, {role: worker}, {role: worker}]\n"
    lab.up(flannel(more=nodes))
    trees = lab.directory / "files"
    assert (trees / "node_worker2").is_dir()
    lab.up(flannel(more=nodes.replace(", {role: worker}]", "]")))
    wait_for(lambda: not list(trees.glob("node_worker2*")), "the removal of its files")
    assert content(lab) == CONTENT["ipv4"]


def test_a_lab_without_files_has_no_directory_for_them(lab: Lab) -> None:
    """Nothing is created or watched."""
    lab.up(flannel().replace("{type: flannel}", "bridge"))
    assert not (lab.directory / "files").exists()
