"""Commands in processes of their own: errors and results arrive as they were raised and printed."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kubenetlab import errors
from kubenetlab.errors import (
    ApplyError,
    BugError,
    KubenetlabError,
    LabError,
    ManifestError,
    Problem,
    RequirementError,
    StoreError,
    UsageError,
)
from kubenetlab.lab.client import ApiError
from kubenetlab.lab.store.store_file import UnstorableError
from kubenetlab.library import process
from kubenetlab.library.command import write_error
from kubenetlab.library.process import Completed, StartedCommand, read_error, run_command
from kubenetlab.library.results import SCHEMA_VERSION, PingMatrix, PingResult, decode_result

PROBLEM = Problem("expected a port", "spec.ports[0]", "Service a/b", "web.yaml", 3, ("try 80",))


def passed_on(error: Exception) -> KubenetlabError:
    """Return an error as the caller gets it."""
    file = os.memfd_create("error")
    try:
        write_error(file, error, False)
        return read_error(json.loads(os.pread(file, 1 << 20, 0)))
    finally:
        os.close(file)


@pytest.mark.parametrize(
    "type_", [UsageError, LabError, RequirementError, StoreError, ApplyError, BugError]
)
def test_an_error_keeps_type_and_message(type_: type[KubenetlabError]) -> None:
    error = type_("worker: no space\n  free some")
    result = passed_on(error)
    assert (type(result), str(result)) == (type_, str(error))


def test_every_error_of_the_tree_is_tested() -> None:
    tree = {
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, KubenetlabError)
    }
    tested = {UsageError, LabError, RequirementError, StoreError, ApplyError, BugError}
    assert tree == tested | {KubenetlabError, ManifestError}


def test_an_error_of_manifests_keeps_its_problems() -> None:
    error = ManifestError([PROBLEM, Problem("second", file="web.yaml", line=9)])
    result = passed_on(error)
    assert isinstance(result, ManifestError)
    assert (result.problems, str(result)) == (error.problems, str(error))


def test_an_internal_error_type_becomes_its_public_base() -> None:
    assert type(passed_on(ApiError({"code": 404, "message": "no pod"}))) is LabError
    unstorable = UnstorableError("cannot be stored", None)  # type: ignore[arg-type]
    assert type(passed_on(unstorable)) is StoreError


@pytest.mark.parametrize(
    ("status", "type_"), [(1, LabError), (2, UsageError), (130, LabError), (-9, LabError)]
)
def test_an_unexpected_status_is_an_error(status: int, type_: type[KubenetlabError]) -> None:
    """The message is what the command printed, without notes and the hint."""
    done = Completed(
        ("up",), status, "", "note: kept: Role a\nnot ready: web\nnext: kubenetlab diff\n"
    )
    with pytest.raises(type_, match=r"\Anot ready: web\Z"):
        done.require(0)
    assert done.require(0, status) is done
    with pytest.raises(type_, match=rf"\Aup: exit status {status}\Z"):
        Completed(("up",), status, "", "").require(0)


def test_a_command_finds_the_modules_of_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files in the working directory do not replace modules of the standard library."""
    (tmp_path / "json.py").write_text("raise SystemExit('wrong module')")
    (tmp_path / "kubenetlab.py").write_text("raise SystemExit('wrong module')")
    monkeypatch.chdir(tmp_path)
    assert run_command(["--version"]).require(0).output.startswith("kubenetlab ")


def test_errors_of_a_command_are_raised() -> None:
    """Those of the program, and those of the parser of options."""
    with pytest.raises(ManifestError) as caught:
        run_command(["plan", "-f", "-"], stdin="kind: Pod\n")
    assert [(problem.file, problem.line) for problem in caught.value.problems] == [("<stdin>", 1)]
    with pytest.raises(UsageError, match="No such option: --colour"):
        run_command(["plan", "--colour"]).require(0)


def test_threads_start_one_server() -> None:
    """The first commands of a process may be those of several threads at the same time."""
    process._server.cache_clear()
    start = threading.Barrier(4)

    def status(_: int) -> int:
        start.wait()
        return run_command(["--version"]).status

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(status, range(4))) == [0] * 4
    assert process._server.cache_info().misses == 1


def test_a_timeout_ends_a_command() -> None:
    with pytest.raises(LabError, match=r"kubenetlab plan has not ended after 0.001 s"):
        run_command(["plan"], timeout_s=0.001)


PING = {
    "schema_version": SCHEMA_VERSION,
    "from": "default/client",
    "to": "svc:default/web",
    "address": "10.96.0.7",
    "port": 80,
    "protocol": "TCP",
    "expected": None,
    "found": "answer",
    "ms": 0.5,
    "body": "",
    "ok": True,
}


def test_a_result_ignores_fields_of_later_versions() -> None:
    """Within a version, fields are only added."""
    result = decode_result(json.dumps(PING | {"later": [1]}), PingResult)
    assert (result.source, result.destination, result.outcome, result.expected) == (
        "default/client",
        "svc:default/web",
        "answer",
        None,
    )
    assert result.is_answered


@pytest.mark.parametrize("version", [0, SCHEMA_VERSION + 1])
def test_another_version_of_the_output_is_refused(version: int) -> None:
    with pytest.raises(LabError, match=f"expected schema_version 1, found {version}"):
        decode_result(json.dumps({"schema_version": version, "pairs": []}), PingMatrix)


def test_the_reason_why_a_command_was_not_started_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """`has_ended` has received it by then, and the server sends it once."""

    def refuse(descriptors: Sequence[int], message: bytes) -> None:
        os.write(descriptors[-1], b"fork: no memory")

    monkeypatch.setattr(process, "_send", refuse)
    with StartedCommand(["list"]) as command:
        assert command.has_ended()
        with pytest.raises(LabError, match="a command was not started: fork: no memory"):
            command.completed()
