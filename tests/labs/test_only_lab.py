"""Commands that name no lab, where one is up, or several, or none."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.clusters import deployment, pod
from tests.conftest import OURS
from tests.labs.elsewhere import elsewhere
from tests.labs.lab import COMMAND, Ran, ran
from tests.patience import patiently

NAMED = f"apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\nname: {OURS}mine\n---\n"


class Place:
    """Commands where no other lab can be seen."""

    def __init__(self, there: list[str]) -> None:
        self._there = there

    def run(self, *words: str, given: str = "", status: int = 0) -> Ran:
        line = [*self._there, *COMMAND, *words]
        return ran(
            subprocess.run(
                line,
                input=given,
                capture_output=True,
                text=True,
                check=False,
                timeout=patiently(60),
            ),
            status,
        )

    def begun(self, *line: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self._there, *line], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    @property
    def labs(self) -> list[str]:
        return [lab["name"] for lab in self.run("list", "-o", "json").json]


@pytest.fixture
def place() -> Iterator[Place]:
    with elsewhere("/") as there:
        yield Place(there)


def test_options_alone_change_the_only_lab_that_is_up(place: Place) -> None:
    """Another mode, another node: of that lab, whatever its name is, and nothing else in it; no
    second one is made.
    """
    place.run("up", "-f", "-", given=NAMED + pod("client"))
    said = place.run("up", "--proxy", "iptables")
    assert (
        f"Cluster {OURS}mine configured: networking.kubeProxyMode nftables → iptables\n" in said.out
    )
    assert (
        "KUBE-SERVICES"
        in place.run("exec", "node:worker", "--", "iptables-nft-save", "-t", "nat").out
    )
    assert f"Cluster {OURS}mine configured: nodes 3 → 4\n" in place.run("up", "--nodes", "4").out
    assert "node/worker" in place.run("plan", "--proxy", "ebpf").out
    assert place.labs == [f"{OURS}mine"]
    again = place.run("apply", "-f", "-", given=NAMED).out
    assert (
        f"Cluster {OURS}mine configured: nodes 4 → 3, networking.kubeProxyMode iptables → nftables\n"
        in again
    )


def test_options_alone_leave_the_quickstart_as_it_was_changed(place: Place) -> None:
    """What was scaled stays so."""
    place.run("up")
    place.run("scale", "deployment", "web", "--replicas", "5")
    said = place.run("up", "--proxy", "nftables,layout=fast").out
    assert (
        "Cluster quickstart configured: networking.kubeProxyMode nftables → nftables,layout=fast\n"
        in said
    )
    assert "Deployment" not in said
    assert (
        len(
            [
                one
                for one in place.run("get", "pods", "-o", "json").json["items"]
                if one["metadata"]["name"].startswith("web-")
            ]
        )
        == 5
    )


def test_options_alone_where_several_labs_are_up(place: Place) -> None:
    """There is no telling which is meant; where it is said, that one."""
    for name in ("a", "b"):
        place.run("up", "--lab", f"{OURS}{name}", "-f", "-", given=deployment(replicas=1))
    refused = place.run("up", "--proxy", "iptables", status=1)
    assert f"several labs are up: {OURS}a, {OURS}b; choose one with --lab NAME" in refused.err
    assert "nftables → iptables" in place.run("up", "--proxy", "iptables", "--lab", f"{OURS}b").out
    assert place.labs == [f"{OURS}a", f"{OURS}b"]


def test_a_lab_without_a_cluster_document_is_called_by_its_name(place: Place) -> None:
    """Also where what it is told of its Cluster document has none."""
    place.run("up", "-f", "-", given=pod("client"))
    assert "Cluster lab configured: nodes 3 → 2\n" in place.run("up", "--nodes", "2").out


def test_options_alone_where_none_is_up(place: Place) -> None:
    """It is the quickstart, with them."""
    place.run("up", "--nodes", "2")
    assert place.labs == ["quickstart"]
    assert len(place.run("get", "nodes", "-o", "json").json["items"]) == 2


def test_one_lab_that_does_not_go_keeps_no_other(place: Place) -> None:
    """Somebody holds the directory of the first: the second goes, and what was in the way is told."""
    for name in ("a", "b"):
        place.run("up", "--lab", f"{OURS}{name}", "--no-wait", "-f", "-", given=pod("client"))
    with place.begun("flock", f"/run/kubenetlab/{OURS}a", "-c", "echo held; exec cat") as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        said = place.run("down", "--all", status=1)
        assert f"lab {OURS}b is down" in said.out
        assert f"error: another command is creating or removing lab {OURS}a; try again" in said.err
        holder.communicate()
    assert f"lab {OURS}a is not up: nothing to remove" in place.run("down", "--all").out
