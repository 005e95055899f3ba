"""Every lab of manifests/: its table holds, the opposite does not, and nothing is left.

test_docs.py runs the pages of the labs.
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


def test_the_table_of_a_lab_holds(started: tuple[Lab, Path]) -> None:
    """Every row holds with the addresses that it names; none is skipped."""
    lab, folder = started
    report = lab.run("check", "-f", str(folder / "expect.yaml"), "-o", "json").json
    assert [check for check in report["checks"] if check["state"] != "holds"] == []


def test_the_opposite_of_each_row_fails(started: tuple[Lab, Path], tmp_path: Path) -> None:
    """No row would hold in any case."""
    lab, folder = started
    table = yaml.safe_load((folder / "expect.yaml").read_text())
    opposite_table = tmp_path / "expect.yaml"
    opposite_table.write_text(yaml.safe_dump([opposite(row) for row in table["probes"]]))
    report = lab.run("check", "-f", str(opposite_table), "-o", "json", status=1).json
    assert not report["ok"]
    assert [check for check in report["checks"] if check["state"] == "holds"] == []


def opposite(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row that must fail where this row holds."""
    question = {
        name: row[name] for name in ("from", "to", "port", "protocol", "family") if name in row
    }
    if "resolves" in row:
        return question | {"resolves": not row["resolves"]}
    if "source" in row:
        return question | {"expect": "allow", "source": "192.0.2.1"}
    is_allowed = row.get("expect", "allow") == "allow" and row.get("allowed", True)
    return question | {"allowed": not is_allowed}


def test_a_lab_is_as_planned_and_as_promised(started: tuple[Lab, Path]) -> None:
    """The kernel state matches the plan, and connectivity is as Kubernetes promises."""
    lab, _ = started
    assert lab.run("diff").status == 0
    assert lab.run("ping", "-o", "json").json["ok"]


def test_down_leaves_nothing_of_a_lab(started: tuple[Lab, Path]) -> None:
    """No process, no name of a namespace and no directory is left."""
    lab, _ = started
    processes = descendants(lab.inspected["init_pid"])
    assert lab.live_netns_names()
    lab.down()
    assert [title_of(pid) for pid in processes if title_of(pid)] == []
    assert list(Path("/run/netns").glob(f"{lab.name}_*")) == []
    assert not lab.directory.exists()


def test_a_cni_can_be_added_to_a_running_lab(lab: Lab) -> None:
    """Without a CNI, nodes are NotReady and only hostNetwork pods run.

    The messages are those of the container runtime. A CNI mode makes all Ready and does not touch
    running pods.
    """
    result = lab.run("up", "-f", str(NO_CNI), status=1)
    assert "0/3 nodes are available" in result.err
    assert "--cni bridge" in result.err
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
    assert all(pod["ready"] for pod in lab.inspected["pods"])
    assert (lab.pod("host")["pid"], lab.pod("host")["addresses"]) == (
        host["pid"],
        host["addresses"],
    )
    assert lab.run("check", "-o", "json").json["ok"]
    assert "3 fail" in lab.run("check", "-f", str(NO_CNI / "expect.yaml"), status=1).out
