"""Files → documents: folders, special files, standard input."""

from __future__ import annotations

import os
import socket
import sys
import threading
from pathlib import Path

import pytest

from kubenetlab.api.manifests.load import load
from kubenetlab.errors import ManifestError
from tests.clusters import deployment, pod

SIMPLE_POD = pod("p").removesuffix("---\n")


def fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


def problem_of(*names: Path | str) -> str:
    with pytest.raises(ManifestError) as caught:
        load([str(name) for name in names])
    return str(caught.value)


def test_a_folder_stands_for_its_manifests(tmp_path: Path) -> None:
    """Subfolders are not read. A missing file is reported."""
    (tmp_path / "b").mkdir()
    (tmp_path / "a.yaml").write_text(deployment("one"))
    (tmp_path / "b" / "d.yaml").write_text(deployment("below"))
    (tmp_path / "c.json").write_text(
        '{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "two"}}'
    )
    (tmp_path / "notes.txt").write_text("not a manifest")
    assert [entry.title for entry in load([str(tmp_path)]).entries] == [
        "Deployment default/one",
        "Namespace two",
    ]
    with pytest.raises(ManifestError) as caught:
        load([str(tmp_path / "missing.yaml"), str(tmp_path / "a.yaml")])
    assert [problem.message for problem in caught.value.problems] == [
        "cannot be read: No such file or directory"
    ]


def test_special_files_in_a_folder_are_reported(tmp_path: Path) -> None:
    """The regular files beside them are read nevertheless."""
    fifo(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_text(SIMPLE_POD.replace("containers", "contaners"))
    (tmp_path / "c.yaml").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "d.yaml"))
        report = problem_of(tmp_path)
    assert f"{tmp_path}/a.yaml  is a FIFO, not a file" in report
    assert f"{tmp_path}/c.yaml  is a device, not a file" in report
    assert f"{tmp_path}/d.yaml  is a socket, not a file" in report
    assert "spec.contaners" in report


def test_a_fifo_is_read_if_a_process_writes_to_it(tmp_path: Path) -> None:
    """As in `-f <(command)`. The loader does not wait for a writer."""
    path = fifo(tmp_path / "f")
    assert "it is a FIFO that no process writes to; start the writer first" in problem_of(path)
    reading, writing = os.pipe()
    with os.fdopen(reading), os.fdopen(writing, "w") as stream:

        def write() -> None:
            with stream:
                stream.write(SIMPLE_POD)

        thread = threading.Thread(target=write)
        thread.start()
        manifests = load([f"/dev/fd/{reading}"])
        thread.join()
    assert [entry.title for entry in manifests.entries] == ["Pod default/p"]


def test_a_socket_an_endless_file_and_closed_stdin_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        assert "cannot be read: it is a socket, not a file" in problem_of(tmp_path / "s")
    assert "too large" in problem_of("/dev/zero")
    monkeypatch.setattr(sys, "stdin", None)
    assert "<stdin>  cannot be read: standard input is closed" in problem_of("-")


def test_a_file_name_may_be_invalid_utf8(tmp_path: Path) -> None:
    """The store accepts only text, so invalid bytes are replaced."""
    path = os.path.join(os.fsencode(tmp_path), b"\xff.yaml")
    Path(os.fsdecode(path)).write_text(SIMPLE_POD)
    (entry,) = load([os.fsdecode(path)]).entries
    assert entry.source.file.encode().endswith("\ufffd.yaml".encode())
