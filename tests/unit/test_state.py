"""The store on disk: whatever changes, the next agent reads what the last one meant."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubenetlab.api.core import Service
from kubenetlab.api.kinds import STORED
from kubenetlab.api.store import Cluster, deletion
from kubenetlab.lab import state
from kubenetlab.lab.state import Keeper, journal_of
from tests.clusters import applied, deployment, pod, running, service, store


def contents(cluster: Cluster) -> object:
    in_order = [service.name for service in cluster.all(Service)]  # of two that want the same, the first has it
    return [{obj.key: obj for obj in cluster.all(kind)} for kind in STORED], in_order, cluster.given, cluster.revision


@pytest.fixture(autouse=True, scope="module")
def of_any_size() -> Iterator[None]:
    """Small stores have a journal, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state, "MIN_STORE_BYTES", 0)
        yield


CHANGES = st.lists(st.tuples(st.sampled_from(["web", "other", "third"]), st.integers(0, 4)), max_size=8)


@settings(max_examples=30, deadline=None)
@given(changes=CHANGES, dies_at=st.integers(0, 8))
def test_what_was_kept_is_read_back(tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[str, int]], dies_at: int) -> None:
    """Services come, change and go, as objects and as documents; somewhere on the way another agent takes over."""
    path = tmp_path_factory.mktemp("state") / "store.json"
    cluster = running(store(deployment()))
    state.save(cluster, path)
    keeper = Keeper(path, cluster)
    for number, (name, port) in enumerate(changes):
        if number == dies_at:
            keeper = Keeper(path, None)
            cluster = keeper.load()
        known = cluster.get(Service, "default", name)
        is_gone = port == 0 and known is not None
        cluster = cluster.with_changes([deletion(known)]) if is_gone and known else applied(cluster, service(name, port + 1))
        keeper.save(cluster)
        assert contents(state.load(path)) == contents(cluster)


def test_small_changes_are_appended(tmp_path: Path) -> None:
    """The file itself is left as it is, until the journal is long or much changes at once."""
    path = tmp_path / "store.json"
    cluster = running(store(deployment()))
    state.save(cluster, path)
    keeper = Keeper(path, cluster)
    assert not keeper.save(cluster)
    before = path.stat().st_ino
    small = applied(cluster, service())
    assert keeper.save(small)
    assert path.stat().st_ino == before
    assert journal_of(path).stat().st_size < path.stat().st_size
    large = applied(small, "".join(pod(f"p{number}") for number in range(state.MAX_LINE_OBJECTS)))
    assert keeper.save(large)
    assert path.stat().st_ino != before
    assert not journal_of(path).exists()
    assert contents(state.load(path)) == contents(large)


def test_a_small_store_is_written_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "store.json"
    cluster = running(store(deployment()))
    state.save(cluster, path)
    monkeypatch.setattr(state, "MIN_STORE_BYTES", 1024 * 1024)
    before = path.stat().st_ino
    Keeper(path, cluster).save(changed := applied(cluster, service()))
    assert path.stat().st_ino != before
    assert not journal_of(path).exists()
    assert contents(state.load(path)) == contents(changed)


def test_a_line_that_was_cut_off_counts_for_nothing(tmp_path: Path) -> None:
    """Nor does what belongs to another store."""
    path = tmp_path / "store.json"
    cluster = running(store(deployment()))
    state.save(cluster, path)
    Keeper(path, cluster).save(changed := applied(cluster, service()))
    whole = journal_of(path).read_bytes()
    journal_of(path).write_bytes(whole + whole[: len(whole) // 2])
    assert contents(state.load(path)) == contents(changed)
    state.save(changed, path)
    journal_of(path).write_bytes(whole)
    assert contents(state.load(path)) == contents(changed)


def test_a_journal_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the whole store is written again."""
    path = tmp_path / "store.json"
    cluster = running(store(deployment()))
    state.save(cluster, path)
    monkeypatch.setattr(state, "MAX_JOURNAL_BYTES", 100)
    Keeper(path, cluster).save(changed := applied(cluster, service()))
    assert not journal_of(path).exists()
    assert contents(state.load(path)) == contents(changed)
