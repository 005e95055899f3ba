"""Every lab of manifests/: what its table says holds by real packets, its opposite does not, and
nothing is left. test_docs.py runs its page.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.labs.conftest import new_lab
from tests.labs.lab import Lab, descendants, title_of

MANIFESTS = Path(__file__).parents[2] / "manifests"
FOLDERS = sorted(path for path in MANIFESTS.iterdir() if path.is_dir())
NO_CNI = MANIFESTS / "09-no-cni"


@pytest.fixture(scope="module", params=FOLDERS, ids=lambda folder: folder.name)
def started(request: pytest.FixtureRequest) -> Iterator[tuple[Lab, Path]]:
    folder: Path = request.param
    for lab in new_lab():
        lab.run("up", "-f", str(folder), status=1 if folder == NO_CNI else 0)
        yield lab, folder


def test_its_table_holds(started: tuple[Lab, Path]) -> None:
    """Every row, with the addresses that it names; none is skipped."""
    lab, folder = started
    found = lab.run("check", "-f", str(folder / "expect.yaml"), "-o", "json").json
    assert [check for check in found["checks"] if check["state"] != "holds"] == []


def test_the_table_turned_round_does_not(started: tuple[Lab, Path], tmp_path: Path) -> None:
    """Row by row: no row is there that would hold whatever happens."""
    lab, folder = started
    table = yaml.safe_load((folder / "expect.yaml").read_text())
    turned = tmp_path / "expect.yaml"
    turned.write_text(yaml.safe_dump([opposite(row) for row in table["probes"]]))
    found = lab.run("check", "-f", str(turned), "-o", "json", status=1).json
    assert not found["ok"]
    assert [check for check in found["checks"] if check["state"] == "holds"] == []


def opposite(row: dict[str, Any]) -> dict[str, Any]:
    """A row that must not hold where this one does; where a row names a source, another source."""
    asked = {
        name: row[name] for name in ("from", "to", "port", "protocol", "family") if name in row
    }
    if "resolves" in row:
        return asked | {"resolves": not row["resolves"]}
    if "source" in row:
        return asked | {"expect": "allow", "source": "192.0.2.1"}
    is_allowed = row.get("expect", "allow") == "allow" and row.get("allowed", True)
    return asked | {"allowed": not is_allowed}


def test_what_runs_is_as_planned_and_promised(started: tuple[Lab, Path]) -> None:
    """The kernel holds what the plan says, and everybody reaches whom Kubernetes promises."""
    lab, _ = started
    assert lab.run("diff").status == 0
    assert lab.run("ping", "-o", "json").json["ok"]


def test_nothing_is_left_of_it(started: tuple[Lab, Path]) -> None:
    """No process, no name of a namespace, no directory."""
    lab, _ = started
    processes = descendants(lab.seen["init_pid"])
    assert lab.seen_names_alive()
    lab.down()
    assert [title_of(pid) for pid in processes if title_of(pid)] == []
    assert list(Path("/run/netns").glob(f"{lab.name}_*")) == []
    assert not lab.directory.exists()


def test_without_a_cni_and_then_with_one(lab: Lab) -> None:
    """Nodes are NotReady with the runtime's own message, ordinary pods Pending, hostNetwork pods
    run; a mode that is installed makes all Ready, without touching what ran.
    """
    said = lab.run("up", "-f", str(NO_CNI), status=1)
    assert "0/3 nodes are available" in said.err
    assert "--cni bridge" in said.err
    for node in lab.get("nodes")["items"]:
        ready = next(
            condition for condition in node["status"]["conditions"] if condition["type"] == "Ready"
        )
        assert (ready["status"], ready["reason"]) == ("False", "KubeletNotReady")
        assert "cni plugin not initialized" in ready["message"]
    phases = {pod["metadata"]["name"]: pod["status"]["phase"] for pod in lab.get("pods")["items"]}
    assert {name for name, phase in phases.items() if phase == "Running"} == {"host"}
    assert phases["client"] == "Pending"
    assert [row.split()[1] for row in lab.run("get", "nodes").out.splitlines()[1:]] == [
        "NotReady"
    ] * 3
    host = lab.pod("host")

    lab.run("up", "--cni", "bridge")
    assert [row.split()[1] for row in lab.run("get", "nodes").out.splitlines()[1:]] == ["Ready"] * 3
    assert all(pod["ready"] for pod in lab.seen["pods"])
    assert (lab.pod("host")["pid"], lab.pod("host")["addresses"]) == (
        host["pid"],
        host["addresses"],
    )
    assert lab.run("check", "-o", "json").json["ok"]
    assert "3 fail" in lab.run("check", "-f", str(NO_CNI / "expect.yaml"), status=1).out
