"""Output of processes in pods passes through pipes into logs of bounded size."""

from __future__ import annotations

import os
import select
import subprocess
from pathlib import Path

import pytest

from kubenetlab.lab.processes import output
from kubenetlab.lab.processes.output import CHUNK_BYTES, Outputs

LIMIT = 4 * CHUNK_BYTES


@pytest.fixture(autouse=True)
def small_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "MAX_BYTES", LIMIT)


def test_a_log_is_bounded_while_it_is_written(tmp_path: Path) -> None:
    """The size is checked after each chunk; the end of the output is in the log."""
    poll = select.poll()
    outputs, log = Outputs(poll), tmp_path / "log"
    reading, writing = outputs.open(str(log))
    with subprocess.Popen(
        ["sh", "-c", "yes | head -c 5000000; echo the end"], stdout=writing
    ) as process:
        os.close(writing)
        outputs.set_process(reading, process.pid)
        largest = 0
        while reading in outputs:
            for fd, _ in poll.poll(5000):
                outputs.pump(fd)
                largest = max(largest, log.stat().st_size)
    assert CHUNK_BYTES < largest <= LIMIT
    assert log.read_text().endswith("y\nthe end\n")
    assert not poll.poll(0)


def test_drain_writes_all_output_of_a_process_that_has_exited(tmp_path: Path) -> None:
    """This holds even if a child of the process keeps the pipe open."""
    outputs, log = Outputs(select.poll()), tmp_path / "log"
    reading, writing = outputs.open(str(log))
    process = subprocess.Popen(["sh", "-c", "echo words"], stdout=writing)
    outputs.set_process(reading, process.pid)
    process.wait()
    outputs.drain(process.pid)
    assert log.read_text() == "words\n"
    assert reading in outputs
    os.close(writing)
    outputs.drain(process.pid)
    assert reading not in outputs


def test_a_process_is_not_blocked_by_a_log_that_cannot_be_written(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The loss is logged once; the pipe is still read."""
    outputs = Outputs(select.poll())
    reading, writing = outputs.open(str(tmp_path / "nowhere" / "log"))
    for _ in range(3):
        os.write(writing, b"x" * 1000)
        assert outputs.pump(reading)
    os.close(writing)
    assert not outputs.pump(reading)
    assert capfd.readouterr().err.count("the output of the container is lost") == 1


@pytest.mark.parametrize(("has_times", "files"), [(True, {"log", "log.times"}), (False, {"log"})])
def test_times_are_recorded_in_a_file_beside_the_log(
    tmp_path: Path, has_times: bool, files: set[str]
) -> None:
    """Logs of probes are without times: no client reads them, or deletes them with the log."""
    outputs = Outputs(select.poll())
    reading, writing = outputs.open(str(tmp_path / "log"), has_times=has_times)
    os.write(writing, b"words\n")
    os.close(writing)
    while reading in outputs:
        outputs.pump(reading)
    assert {path.name for path in tmp_path.iterdir()} == files


def test_a_fork_closes_all_pipes_and_logs(tmp_path: Path) -> None:
    """A process in a pod holds no descriptor of another one's log."""
    before = set(os.listdir("/proc/self/fd"))
    outputs = Outputs(select.poll())
    _, writing = outputs.open(str(tmp_path / "log"))
    os.close(writing)
    outputs.close_inherited()
    assert set(os.listdir("/proc/self/fd")) == before
