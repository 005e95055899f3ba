"""The store on disk: whatever changes, the next agent reads what the last one meant."""

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
from kubenetlab.lab.store.recovery import recovered, warnings
from kubenetlab.lab.store.store_file import StoreFile, journal_of
from tests.clusters import applied, deployment, pod, running, service, store


def contents(cluster: Cluster) -> object:
    in_order = [
        service.name for service in cluster.all(Service)
    ]  # of two that want the same, the first has it
    return (
        [{obj.key: obj for obj in cluster.all(kind)} for kind in STORED],
        in_order,
        cluster.given,
        cluster.revision,
    )


@pytest.fixture(autouse=True, scope="module")
def of_any_size() -> Iterator[None]:
    """Small stores have a journal, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_file, "MIN_STORE_BYTES", 0)
        yield


CHANGES = st.lists(
    st.tuples(st.sampled_from(["web", "other", "third"]), st.integers(0, 4)), max_size=8
)


@settings(max_examples=30, deadline=None)
@given(changes=CHANGES, dies_at=st.integers(0, 8))
def test_what_was_kept_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[str, int]], dies_at: int
) -> None:
    """Services come, change and go, as objects and as documents; somewhere on the way another agent takes over."""
    path = tmp_path_factory.mktemp("state") / "store.json"
    cluster = running(store(deployment()))
    store_file.save(cluster, path)
    keeper = StoreFile(path, cluster)
    for number, (name, port) in enumerate(changes):
        if number == dies_at:
            keeper = StoreFile(path, None)
            cluster = keeper.adopt(store_file.load(path))
        known = cluster.get(Service, "default", name)
        is_gone = port == 0 and known is not None
        cluster = (
            cluster.with_changes([deletion(known)])
            if is_gone and known
            else applied(cluster, service(name, port + 1))
        )
        keeper.save(cluster)
        assert contents(store_file.load(path)) == contents(cluster)


def test_small_changes_are_appended(tmp_path: Path) -> None:
    """The file itself is left as it is, until the journal is long or much changes at once."""
    path = tmp_path / "store.json"
    cluster = running(store(deployment()))
    store_file.save(cluster, path)
    keeper = StoreFile(path, cluster)
    assert not keeper.save(cluster)
    before = path.stat().st_ino
    small = applied(cluster, service())
    assert keeper.save(small)
    assert path.stat().st_ino == before
    assert journal_of(path).stat().st_size < path.stat().st_size
    large = applied(
        small, "".join(pod(f"p{number}") for number in range(store_file.MAX_LINE_OBJECTS))
    )
    assert keeper.save(large)
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


def test_a_line_that_was_cut_off_counts_for_nothing(tmp_path: Path) -> None:
    """Nor does what belongs to another store."""
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
    """Then the whole store is written again."""
    path = tmp_path / "store.json"
    cluster = running(store(deployment()))
    store_file.save(cluster, path)
    monkeypatch.setattr(store_file, "MAX_JOURNAL_BYTES", 100)
    StoreFile(path, cluster).save(changed := applied(cluster, service()))
    assert not journal_of(path).exists()
    assert contents(store_file.load(path)) == contents(changed)


def replicated(cluster: Cluster, replicas: Any) -> Cluster:
    """The store with a Deployment whose number of replicas is not checked by anybody."""
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
def test_what_could_not_be_read_again_is_not_written(tmp_path: Path, unreadable: Any) -> None:
    """The error names object and field; what else has changed can be kept."""
    path = tmp_path / "store.json"
    cluster = running(store(deployment()))
    store_file.save(cluster, path)
    keeper = StoreFile(path, cluster)
    both = replicated(applied(cluster, service("other")), unreadable)
    with pytest.raises(store_file.UnstorableError, match="Deployment default/web: ") as caught:
        keeper.save(both)
    assert contents(store_file.load(path)) == contents(cluster)
    assert keeper.save(caught.value.readable)
    kept = store_file.load(path)
    assert kept.get(Service, "default", "other") is not None
    found = kept.get(Deployment, "default", "web")
    assert found is not None
    assert found.spec == deployment_of(cluster).spec


def deployment_of(cluster: Cluster) -> Deployment:
    found = cluster.get(Deployment, "default", "web")
    assert found is not None
    return found


@pytest.mark.parametrize(
    "unreadable",
    [{"a": "\ud800"}, {"a": {(1, 2): 3}}, {"a": 10**5000}],
    ids=["surrogate", "key", "digits"],
)
def test_a_document_that_could_not_be_read_again_is_not_written(
    tmp_path: Path, unreadable: Any
) -> None:
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


def test_nesting_beyond_any_limit_is_not_written(tmp_path: Path) -> None:
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
    """The lab goes on from the store before, and the damaged one is kept to be looked at."""
    path = tmp_path / "store.json"
    first = running(store(deployment("web", 3)))
    store_file.save(first, path)
    store_file.save(applied(first, service()), path)
    damaged = DAMAGES[damage](path.read_bytes())
    assert damaged != path.read_bytes()
    path.write_bytes(damaged)
    assert contents(recovered(path)) == contents(first)
    assert not path.exists()
    assert (tmp_path / "store.json.unreadable-1").read_bytes() == damaged
    (warning,) = warnings(path)
    assert str(tmp_path / "store.json.unreadable-1") in warning
    store_file.save(first, path)
    path.write_bytes(b"{}")
    assert contents(recovered(path)) == contents(first)
    assert len(warnings(path)) == 2
    for file in tmp_path.glob("*.unreadable-*"):
        file.unlink()
    assert warnings(path) == []


def test_a_store_that_is_missing_is_replaced_by_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "store.json"
    first = running(store(deployment()))
    store_file.save(first, path)
    store_file.save(applied(first, service()), path)
    path.unlink()
    assert contents(recovered(path)) == contents(first)
    assert len(warnings(path)) == 1


def test_a_damaged_line_ends_the_journal(tmp_path: Path) -> None:
    """What stands before it counts, and the journal is set aside."""
    path = tmp_path / "store.json"
    cluster = running(store(deployment()))
    store_file.save(cluster, path)
    keeper = StoreFile(path, cluster)
    keeper.save(second := applied(cluster, service("second")))
    keeper.save(applied(second, service("third")))
    lines = journal_of(path).read_bytes().splitlines(keepends=True)
    assert len(lines) == 2
    journal_of(path).write_bytes(lines[0] + lines[1].replace(b"third", b"th\xffrd"))
    assert contents(recovered(path)) == contents(second)
    assert path.exists()
    assert [file.name for file in tmp_path.glob("*.unreadable-*")] == ["store.journal.unreadable-1"]
    assert len(warnings(path)) == 1


def test_the_snapshot_has_its_journal(tmp_path: Path) -> None:
    """Of a large store little more than the last change is lost."""
    path = tmp_path / "store.json"
    cluster = running(store(deployment()))
    store_file.save(cluster, path)
    StoreFile(path, cluster).save(second := applied(cluster, service("second")))
    store_file.save(applied(second, service("third")), path)
    path.write_bytes(b"")
    assert contents(recovered(path)) == contents(second)


def test_without_any_store_nothing_is_renamed(tmp_path: Path) -> None:
    path = tmp_path / "store.json"
    first = running(store(deployment()))
    store_file.save(first, path)
    store_file.save(applied(first, service()), path)
    for file in (path, store_file.snapshot_of(path)):
        file.write_bytes(b"[]")
    with pytest.raises(
        StoreError, match=r"store.json: .*nor can its snapshot .*store.previous.json"
    ):
        recovered(path)
    assert path.exists()
    assert warnings(path) == []
