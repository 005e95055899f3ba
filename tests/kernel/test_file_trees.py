"""Trees of the files of sandboxes: written, read back, watched, and shown to programs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kubenetlab.hoststate.diff import diff
from kubenetlab.hoststate.files import File
from kubenetlab.hoststate.state import HostState, contents_of
from kubenetlab.kernel.file_trees import FileTrees, FileWatch
from kubenetlab.kernel.namespaces import mounts

NODE = "node/a"
CONFIG = File(NODE, "/etc/bird/bird.conf", "α\r\nrouter id 1.2.3.4;\n", 0o640)
ENV = File(NODE, "/run/flannel/subnet.env", "X=1\n")


def write(trees: FileTrees, *files: File) -> None:
    operations = list(diff(HostState(), HostState({NODE: contents_of(files)})).operations())
    assert trees.apply(NODE, operations) == []


def test_files_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    """Also by another agent, and with a mode that the umask would not allow."""
    os.umask(0o077)
    trees = FileTrees(tmp_path / "files")
    assert trees.read(NODE) == []
    assert not (tmp_path / "files").exists()
    write(trees, CONFIG, ENV)
    for each in (trees, FileTrees(tmp_path / "files")):
        assert each.read(NODE) == [CONFIG, ENV]
        assert each.has_files(NODE)
        assert not each.has_files("node/b")
    trees.remove(ENV)
    trees.remove(ENV)
    assert FileTrees(tmp_path / "files").read(NODE) == [CONFIG]
    trees.forget(NODE)
    assert list((tmp_path / "files").iterdir()) == []


def test_an_edited_file_is_read_as_it_is(tmp_path: Path) -> None:
    """Content and mode may differ, and a deleted file is missing."""
    trees = FileTrees(tmp_path)
    write(trees, CONFIG, ENV)
    (trees.path(NODE) / "etc/bird/bird.conf").write_bytes(b"\xff")
    (trees.path(NODE) / "etc/bird/bird.conf").chmod(0o600)
    (trees.path(NODE) / "run/flannel/subnet.env").unlink()
    assert trees.read(NODE) == [File(NODE, CONFIG.path, "\N{REPLACEMENT CHARACTER}", 0o600)]


@pytest.mark.parametrize("replaced", ["run/flannel", "run/flannel/subnet.env"])
def test_a_link_in_a_tree_never_leads_outside(tmp_path: Path, replaced: str) -> None:
    """Programs of a node may create links; the machine's files must not be read or changed."""
    outside = tmp_path / "outside"
    outside.mkdir()
    secret = outside / "subnet.env"
    secret.write_text("secret\n")
    trees = FileTrees(tmp_path / "files")
    write(trees, ENV)
    (trees.path(NODE) / "run/flannel/subnet.env").unlink()
    path = trees.path(NODE) / replaced
    if path.is_dir():
        path.rmdir()
    path.symlink_to(outside if replaced == "run/flannel" else secret)
    assert trees.read(NODE) == []
    (operation,) = diff(HostState(), HostState({NODE: contents_of([ENV])})).operations()
    failures = trees.apply(NODE, [operation])
    assert secret.read_text() == "secret\n"
    assert list(outside.iterdir()) == [secret]
    assert bool(failures) == (replaced == "run/flannel")
    assert trees.read(NODE) == ([] if failures else [ENV])


def test_a_pipe_in_place_of_a_file_blocks_nothing(tmp_path: Path) -> None:
    """It is not the file that was written, so it is replaced."""
    trees = FileTrees(tmp_path)
    write(trees, ENV)
    path = trees.path(NODE) / "run/flannel/subnet.env"
    path.unlink()
    os.mkfifo(path)
    assert trees.read(NODE) == []
    write(trees, ENV)
    assert trees.read(NODE) == [ENV]


@pytest.mark.parametrize(
    "edit",
    [
        lambda path: path.write_text("y"),
        lambda path: path.unlink(),
        lambda path: path.chmod(0o600),
        lambda path: path.rename(path.with_suffix(".old")),
    ],
    ids=["write", "delete", "mode", "rename"],
)
def test_an_edit_is_reported(tmp_path: Path, edit: Callable[[Path], object]) -> None:
    """The namespace is named once; afterwards nothing has changed."""
    trees = FileTrees(tmp_path)
    write(trees, ENV)
    watch = FileWatch()
    watch.add(NODE, trees.path(NODE), [ENV, CONFIG])
    assert watch.read() == set()
    edit(trees.path(NODE) / "run/flannel/subnet.env")
    assert watch.read() == {NODE}
    assert watch.read() == set()


def test_programs_of_a_node_see_its_files(tmp_path: Path) -> None:
    """In place of the machine's directories, whether or not the machine has them."""
    existing = next(path for path in sorted(Path("/etc").iterdir()) if path.is_dir())
    trees = FileTrees(tmp_path / "files")
    files = [
        ENV,
        File(NODE, f"{existing}/a.conf", "a\n"),
        File(NODE, "/etc/no-such-directory/net.d/b.conf", "b\n"),
    ]
    write(trees, *files)
    before = sorted(os.listdir("/etc"))
    mounts.tool("hosts\n", "resolv\n", (), str(trees.path(NODE)))
    for file in files:
        assert Path(file.path).read_text() == file.content
    assert sorted(os.listdir("/etc")) == sorted([*before, "no-such-directory"])
    assert Path("/etc/hosts").read_text() == "hosts\n"
    assert Path("/etc/passwd").read_text().startswith("root:")
    Path("/run/flannel/new").write_text("writable")
    with pytest.raises(OSError, match="Read-only"):
        Path("/etc/new").write_text("read-only")
