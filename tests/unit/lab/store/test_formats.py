"""Formats of the store file: older files are migrated, newer files are refused.

`formats/N` contains a store file and a journal that a version with format N wrote.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from kubenetlab import __version__
from kubenetlab.api.kinds import STORED
from kubenetlab.api.lab import AllocationState, Decisions, PodRuntimeStatus, ProxySnapshot
from kubenetlab.api.plugins.allocations import HostLocalState
from kubenetlab.errors import StoreError
from kubenetlab.lab.store import formats, store_file
from kubenetlab.lab.store.formats import FORMAT, MIGRATIONS, migrate
from kubenetlab.lab.store.recovery import recover, warnings
from kubenetlab.lab.store.store_file import StoreFile, journal_of, load, save, snapshot_of
from tests.clusters import applied, deployment, running, service, store
from tests.unit.lab.store.example import FORMATS, example

ALL = pytest.mark.parametrize("number", range(FORMAT + 1))


def copied(number: int, directory: Path) -> Path:
    """Copy the example of a format, with its journal; return the path of the store file."""
    for file in (FORMATS / str(number)).iterdir():
        shutil.copy(file, directory)
    return directory / "store.json"


def non_empty(document: dict[str, Any]) -> dict[str, Any]:
    """Return the objects of a store file by kind, without kinds that have none."""
    return {kind: objects for kind, objects in document["objects"].items() if objects}


def test_each_older_format_has_a_migration() -> None:
    assert sorted(MIGRATIONS) == list(range(FORMAT))


@ALL
def test_no_field_of_an_older_file_is_lost(tmp_path: Path, number: int) -> None:
    """A file that is loaded and saved again equals the migrated one: each object and each field.

    This test fails after a change of the format without a new number and a migration.
    """
    path = copied(number, tmp_path)
    journal_of(path).unlink()
    migrated = json.loads(migrate(path.read_bytes(), number))
    save(load(path), again := tmp_path / "again.json")
    saved = json.loads(again.read_bytes())
    assert non_empty(saved) == non_empty(migrated)
    assert (saved["given"], saved["revision"]) == (migrated["given"], migrated["revision"])
    assert saved["format"] == FORMAT


@ALL
def test_the_journal_of_an_older_file_is_migrated(tmp_path: Path, number: int) -> None:
    """It holds new, changed and deleted objects, and later revisions than the file."""
    path = copied(number, tmp_path)
    lines = [json.loads(line) for line in journal_of(path).read_bytes().splitlines()]
    assert lines
    cluster = load(path)
    assert cluster.revision == lines[-1]["revision"]
    for line in lines:
        migrated = json.loads(migrate(json.dumps(line).encode(), number))
        for kind in STORED:
            for value in migrated["objects"].get(kind.kind, ()):
                meta = value["metadata"]
                obj = cluster.get(kind, meta.get("namespace", ""), meta["name"])
                assert obj is not None
                assert obj.metadata.resource_version == meta["resourceVersion"]


def test_format_0_has_other_names_for_internal_kinds(tmp_path: Path) -> None:
    """Without the migration, pods would be started again and addresses be used twice."""
    cluster = load(copied(0, tmp_path))
    for kind in (PodRuntimeStatus, ProxySnapshot, AllocationState):
        assert cluster.all(kind), kind


def test_format_1_has_the_layout_of_pod_networks(tmp_path: Path) -> None:
    """A running lab keeps its layout."""
    (decisions,) = load(copied(1, tmp_path)).all(Decisions)
    assert (decisions.cni_mode, decisions.cni_options) == ("bridge", {"layout": "onlink"})


def test_format_2_has_the_last_addresses_among_other_counters(tmp_path: Path) -> None:
    """Without the migration, a new pod would get the address of a pod that ended just before."""
    (state,) = load(copied(2, tmp_path)).all(HostLocalState)
    assert set(state.last_addresses) == {"control-plane", "worker"}


def test_deletions_in_a_journal_of_format_0_are_migrated() -> None:
    line = {"objects": {}, "gone": [["LastView", "", "worker"], ["Pod", "default", "web"]]}
    migrated = json.loads(migrate(json.dumps(line).encode(), 0))
    assert migrated["gone"] == [["ProxySnapshot", "", "worker"], ["Pod", "default", "web"]]


def test_the_example_of_the_current_format_has_every_kind() -> None:
    assert non_empty(json.loads((FORMATS / str(FORMAT) / "store.json").read_bytes())).keys() == {
        kind.kind for kind in STORED
    }
    assert [kind.kind for kind in STORED if not example().all(kind)] == []


def test_the_next_change_writes_the_current_format(tmp_path: Path) -> None:
    """A journal has one format only: an agent that took over writes the whole file first."""
    path = copied(0, tmp_path)
    writer = StoreFile(path, None)
    cluster = writer.adopt(load(path))
    writer.save(applied(cluster, service("other")))
    header = json.loads(path.read_bytes())
    assert (header["format"], header["writer"]) == (FORMAT, __version__)
    assert not journal_of(path).exists()


def newer(path: Path, cluster: Any) -> None:
    """Save a store in a format that this version does not know."""
    save(cluster, path)
    document = {**json.loads(path.read_bytes()), "format": FORMAT + 1, "writer": "9.9.9"}
    path.write_text(json.dumps(document))


def test_a_newer_file_is_set_aside(tmp_path: Path) -> None:
    """The lab continues with the snapshot; the warning names both versions and what to do."""
    path = tmp_path / "store.json"
    first = running(store(deployment()))
    save(first, path)
    newer(path, applied(first, service()))
    content = path.read_bytes()
    assert recover(path).revision == first.revision
    assert (tmp_path / "store.json.unreadable-1").read_bytes() == content
    (warning,) = warnings(path)
    assert (
        f"(expected at most format {FORMAT}, which kubenetlab {__version__} writes; found format "
        f"{FORMAT + 1}, written by kubenetlab 9.9.9. Use that version, or remove the lab with "
        "`kubenetlab down` and create it again)"
    ) in warning


def test_a_newer_file_without_a_snapshot_is_refused(tmp_path: Path) -> None:
    """The file stays where it is."""
    path = tmp_path / "store.json"
    newer(path, running(store(deployment())))
    content = path.read_bytes()
    assert not snapshot_of(path).exists()
    with pytest.raises(StoreError, match=rf"store.json: .*found format {FORMAT + 1}, written by"):
        recover(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("header", ['{"format": -1}', '{"format": "1"}', "[]", '{"format": 0}'])
def test_an_invalid_header_is_an_unreadable_store(tmp_path: Path, header: str) -> None:
    path = tmp_path / "store.json"
    path.write_text(header)
    with pytest.raises(StoreError, match=r"store\.json: "):
        load(path)


def test_migrations_follow_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of the first format passes all of them, in order."""
    steps = {
        number: lambda document, number=number: {**document, "steps": [*document["steps"], number]}
        for number in range(3)
    }
    monkeypatch.setattr(formats, "MIGRATIONS", steps)
    monkeypatch.setattr(formats, "FORMAT", 3)
    assert json.loads(migrate(b'{"steps": []}', 0)) == {"steps": [0, 1, 2]}
    assert json.loads(migrate(b'{"steps": []}', 2)) == {"steps": [2]}
    assert migrate(b"anything", 3) == b"anything"


@pytest.fixture(autouse=True)
def of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give small stores a journal, too."""
    monkeypatch.setattr(store_file, "MIN_STORE_BYTES", 0)
