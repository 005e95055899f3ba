"""Store file: the next agent reads the desired state of the last one, after any change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from kubenetlab.api.apps import Deployment
from kubenetlab.api.core import Service
from kubenetlab.api.kinds import STORED
from kubenetlab.api.store import Cluster, GivenDocument, deletion
from kubenetlab.errors import StoreError
from kubenetlab.lab.store import store_file
from kubenetlab.lab.store.recovery import recover, warnings
from kubenetlab.lab.store.store_file import StoreFile, journal_of
from tests.clusters import applied, deployment, pod, running, service, store
from tests.examples import examples


def contents(cluster: Cluster) -> object:
    # The order counts: of two Services that request the same address, the first one gets it.
    services = [service.name for service in cluster.all(Service)]
    return (
        [{obj.key: obj for obj in cluster.all(kind)} for kind in STORED],
        services,
        cluster.given,
        cluster.revision,
    )


@pytest.fixture(autouse=True, scope="module")
def of_any_size() -> Iterator[None]:
    """Give small stores a journal, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_file, "MIN_STORE_BYTES", 0)
        yield


CHANGES = st.lists(
    st.tuples(st.sampled_from(["web", "other", "third"]), st.integers(0, 4)), max_size=8
)


@settings(max_examples=examples(30))
@given(changes=CHANGES, dies_at=st.integers(0, 8))
def test_a_saved_store_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[str, int]], dies_at: int
) -> None:
    """Services are created, changed and deleted; in between, another agent takes over."""
    path = tmp_path_factory.mktemp("state") / "store.json"
    cluster = running(store(deployment()))
    store_file.save(cluster, path)
    writer = StoreFile(path, cluster)
    for number, (name, port) in enumerate(changes):
        if number == dies_at:
            writer = StoreFile(path, None)
            cluster = writer.adopt(store_file.load(path))
        known = cluster.get(Service, "default", name)
        is_deleted = port == 0 and known is not None
        cluster = (
            cluster.with_changes([deletion(known)])
            if is_deleted and known
            else applied(cluster, service(name, port + 1))
        )
        writer.save(cluster)
        assert contents(store_file.load(path)) == contents(cluster)


def test_small_changes_are_appended(tmp_path: Path) -> None:
    """The file itself is written only when the journal is long, or after a large change."""
    path = tmp_path / "store.json"
    cluster = running(store(deployment()))
    store_file.save(cluster, path)
    writer = StoreFile(path, cluster)
    assert not writer.save(cluster)
    before = path.stat().st_ino
    small = applied(cluster, service())
    assert writer.save(small)
    assert path.stat().st_ino == before
    assert journal_of(path).stat().st_size < path.stat().st_size
    large = applied(
        small, "".join(pod(f"p{number}") for number in range(store_file.MAX_LINE_OBJECTS))
    )
    assert writer.save(large)
    assert path.stat().st_ino != before
    assert not journal_of(path).exists()
    assert contents(store_file.load(path)) == contents(large)


def test_a_small_store_is_written_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "store.json"
    cluster = running(store(deployment()))
    store_file.save(cluster, path)
    monkeypatch.setattr(store_file, "MIN_STORE_BYTES", 1024 * 1024)
    before = path.stat().st_ino
    StoreFile(path, cluster).save(changed := applied(cluster, service()))
    assert path.stat().st_ino != before
    assert not journal_of(path).exists()
    assert contents(store_file.load(path)) == contents(changed)


def test_an_incomplete_journal_line_is_ignored(tmp_path: Path) -> None:
    """Lines that belong to another version of the file are ignored, too."""
    path = tmp_path / "store.json"
    cluster = running(store(deployment()))
    store_file.save(cluster, path)
    StoreFile(path, cluster).save(changed := applied(cluster, service()))
    whole = journal_of(path).read_bytes()
    journal_of(path).write_bytes(whole + whole[: len(whole) // 2])
    assert contents(store_file.load(path)) == contents(changed)
    store_file.save(changed, path)
    journal_of(path).write_bytes(whole)
    assert contents(store_file.load(path)) == contents(changed)


def test_a_journal_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond it, the whole store is written."""
    path = tmp_path / "store.json"
    cluster = running(store(deployment()))
    store_file.save(cluster, path)
    monkeypatch.setattr(store_file, "MAX_JOURNAL_BYTES", 100)
    StoreFile(path, cluster).save(changed := applied(cluster, service()))
    assert not journal_of(path).exists()
    assert contents(store_file.load(path)) == contents(changed)


def replicated(cluster: Cluster, replicas: Any) -> Cluster:
    """Return the store with a Deployment that has an unchecked number of replicas."""
    web = cluster.get(Deployment, "default", "web")
    assert web is not None
    return cluster.with_changes(
        [structs.replace(web, spec=structs.replace(web.spec, replicas=replicas))]
    )


@pytest.mark.parametrize(
    "unreadable",
    [True, "2", 2.5, None, 10**5000, -1],
    ids=["true", "text", "part", "none", "digits", "negative"],
)
def test_an_unreadable_object_is_not_written(tmp_path: Path, unreadable: Any) -> None:
    """The error names the object; all other changes can be saved."""
    path = tmp_path / "store.json"
    cluster = running(store(deployment()))
    store_file.save(cluster, path)
    writer = StoreFile(path, cluster)
    both = replicated(applied(cluster, service("other")), unreadable)
    with pytest.raises(store_file.UnstorableError, match="Deployment default/web: ") as caught:
        writer.save(both)
    assert contents(store_file.load(path)) == contents(cluster)
    assert writer.save(caught.value.readable)
    saved = store_file.load(path)
    assert saved.get(Service, "default", "other") is not None
    assert deployment_of(saved).spec == deployment_of(cluster).spec


def deployment_of(cluster: Cluster) -> Deployment:
    web = cluster.get(Deployment, "default", "web")
    assert web is not None
    return web


@pytest.mark.parametrize(
    "unreadable",
    [{"a": "\ud800"}, {"a": {(1, 2): 3}}, {"a": 10**5000}],
    ids=["surrogate", "key", "digits"],
)
def test_an_unreadable_document_is_not_written(tmp_path: Path, unreadable: Any) -> None:
    path = tmp_path / "store.json"
    cluster = running(store(deployment()))
    store_file.save(cluster, path)
    with pytest.raises(store_file.UnstorableError, match="document of Widget default/w: "):
        StoreFile(path, cluster).save(
            cluster.with_given({("Widget", "default", "w"): GivenDocument(unreadable)})
        )
    assert contents(store_file.load(path)) == contents(cluster)


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def test_a_document_with_excessive_nesting_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "store.json"
    cluster = running(store(deployment()))
    store_file.save(cluster, path)
    with pytest.raises(
        store_file.UnstorableError, match="document of Widget default/w: maximum recursion depth"
    ):
        StoreFile(path, cluster).save(
            cluster.with_given({("Widget", "default", "w"): GivenDocument({"a": nested(100_000)})})
        )


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut off": lambda data: data[: len(data) // 2],
    "zeros": lambda data: bytes(len(data)),
    "wrong type": lambda data: data.replace(b'"replicas":3', b'"replicas":true'),
    "no UTF-8": lambda data: data.replace(b"web", b"w\xffb"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_store_is_set_aside(tmp_path: Path, damage: str) -> None:
    """The lab continues with the snapshot; the damaged file is kept for inspection."""
    path = tmp_path / "store.json"
    first = running(store(deployment("web", 3)))
    store_file.save(first, path)
    store_file.save(applied(first, service()), path)
    damaged = DAMAGES[damage](path.read_bytes())
    assert damaged != path.read_bytes()
    path.write_bytes(damaged)
    assert contents(recover(path)) == contents(first)
    assert not path.exists()
    assert (tmp_path / "store.json.unreadable-1").read_bytes() == damaged
    (warning,) = warnings(path)
    assert str(tmp_path / "store.json.unreadable-1") in warning
    store_file.save(first, path)
    path.write_bytes(b"{}")
    assert contents(recover(path)) == contents(first)
    assert len(warnings(path)) == 2
    for file in tmp_path.glob("*.unreadable-*"):
        file.unlink()
    assert warnings(path) == []


def test_a_missing_store_is_replaced_by_the_snapshot(tmp_path: Path) -> None:
    path = tmp_path / "store.json"
    first = running(store(deployment()))
    store_file.save(first, path)
    store_file.save(applied(first, service()), path)
    path.unlink()
    assert contents(recover(path)) == contents(first)
    assert len(warnings(path)) == 1


def test_a_damaged_line_ends_the_journal(tmp_path: Path) -> None:
    """The lines before it are applied, and the journal is set aside."""
    path = tmp_path / "store.json"
    cluster = running(store(deployment()))
    store_file.save(cluster, path)
    writer = StoreFile(path, cluster)
    writer.save(second := applied(cluster, service("second")))
    writer.save(applied(second, service("third")))
    lines = journal_of(path).read_bytes().splitlines(keepends=True)
    assert len(lines) == 2
    journal_of(path).write_bytes(lines[0] + lines[1].replace(b"third", b"th\xffrd"))
    assert contents(recover(path)) == contents(second)
    assert path.exists()
    assert [file.name for file in tmp_path.glob("*.unreadable-*")] == ["store.journal.unreadable-1"]
    assert len(warnings(path)) == 1


def test_the_snapshot_has_its_journal(tmp_path: Path) -> None:
    """So a damaged large store loses little more than its last change."""
    path = tmp_path / "store.json"
    cluster = running(store(deployment()))
    store_file.save(cluster, path)
    StoreFile(path, cluster).save(second := applied(cluster, service("second")))
    store_file.save(applied(second, service("third")), path)
    path.write_bytes(b"")
    assert contents(recover(path)) == contents(second)


def test_no_file_is_renamed_if_the_snapshot_is_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "store.json"
    first = running(store(deployment()))
    store_file.save(first, path)
    store_file.save(applied(first, service()), path)
    for file in (path, store_file.snapshot_of(path)):
        file.write_bytes(b"[]")
    with pytest.raises(
        StoreError, match=r"store.json: .*nor can its snapshot .*store.previous.json"
    ):
        recover(path)
    assert path.exists()
    assert warnings(path) == []
