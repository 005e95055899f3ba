"""The command server: commands are forks of one process, which ends with the program."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubenetlab.library import process
from kubenetlab.library.process import run_command
from tests.labs.lab import wait_for
from tests.patience import patiently
from tests.process_groups import has_members

MANIFEST = """\
apiVersion: v1
kind: Pod
metadata: {name: a}
spec: {containers: [{name: a, image: nginx}]}
"""


def children(pid: int) -> set[int]:
    """Return the processes that a process has started."""
    return {
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    }


@pytest.fixture
def server() -> Iterator[int]:
    """Start a new command server, and yield its pid."""
    process._server.cache_clear()
    before = children(os.getpid())
    assert version()
    (pid,) = children(os.getpid()) - before
    yield pid
    process._server.cache_clear()


def version() -> str:
    return run_command(["--version"]).require(0).output


def test_all_commands_are_children_of_one_server(server: int) -> None:
    """Threads can run commands at the same time."""
    before = children(os.getpid())
    outputs: list[str] = []
    threads = [threading.Thread(target=lambda: outputs.append(version())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outputs == [version()] * 4
    assert children(os.getpid()) == before


def test_all_preparations_succeed_without_warnings() -> None:
    """An error would only make commands slow, so nothing else reports it."""
    script = (
        "from kubenetlab.library import command_server\n"
        "for prepare in command_server._preparations(): prepare()\n"
    )
    line = [sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_server_that_has_ended_is_replaced(server: int) -> None:
    os.kill(server, signal.SIGKILL)
    os.waitid(os.P_PID, server, os.WEXITED | os.WNOWAIT)
    assert version()
    assert children(os.getpid()) - {server}


def test_a_server_ends_with_its_last_user(server: int) -> None:
    """The socket closes when the program no longer needs the server, or has ended."""
    process._server.cache_clear()
    assert server not in children(os.getpid())
    script = (
        "from kubenetlab.library.process import run_command\n"
        "run_command(['--version'])\n"
        "from pathlib import Path; print(Path('/proc/thread-self/children').read_text())"
    )
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stderr == ""
    assert not Path("/proc", result.stdout.strip()).exists()


def test_a_command_gets_directory_environment_and_input_of_the_call(
    server: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may have changed since the server was started."""
    (tmp_path / "pod.yaml").write_text(MANIFEST)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KUBENETLAB_LAB", "of-the-environment")
    script = run_command(["plan", "-o", "sh", "-f", "pod.yaml"]).require(0).output
    assert "Pod default/a" in script
    assert "The lab of-the-environment" in script
    assert len(script) > 1 << 13
    assert run_command(["plan", "-o", "sh", "-f", "-"], stdin=MANIFEST).require(0).output == script


def test_an_interrupt_ends_a_command(server: int) -> None:
    """The terminal sends SIGINT to the program and to the command, but the server stays."""
    script = (
        "import os, sys\n"
        "from kubenetlab.library.process import run_command\n"
        "run_command(['--version'])\n"
        "print('up', flush=True)\n"
        "run_command(['plan', '-f', sys.argv[1]])\n"
    )
    pipe = os.pipe()  # a manifest without an end: the command waits for it
    program = subprocess.Popen(
        [sys.executable, "-c", script, f"/proc/{os.getpid()}/fd/{pipe[0]}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    try:
        assert program.stdout is not None
        assert program.stdout.readline() == "up\n"
        os.killpg(program.pid, signal.SIGINT)
        _, errors = program.communicate(timeout=patiently(10))
    finally:
        for end in pipe:
            os.close(end)
    assert errors.rstrip().endswith("KeyboardInterrupt")
    wait_for(lambda: not has_members(program.pid), "the end of the command")


WITHOUT_DESCRIPTORS = """
import errno, json, os, socket, sys, tempfile
from kubenetlab.library import command_server

def refuse(pid):
    raise OSError(errno.EMFILE, "too many open files")

os.pidfd_open = refuse
ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
files = [tempfile.TemporaryFile() for _ in range(command_server.DESCRIPTORS - 1)]
reader, _ = os.pipe()  # the command waits for input that does not come
request = {"arguments": ["plan", "-f", "-"], "directory": "/", "environment": {}}
files[0].write(json.dumps(request).encode())
files[0].flush()
os.dup2(reader, files[1].fileno())
server = command_server.Server(ours)
descriptors = [*(os.dup(file.fileno()) for file in files), theirs.detach()]
server._start(descriptors, ends_with_program=False)
print(ours.recv(100).decode())
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print("no process is left")
"""


def test_a_command_that_cannot_be_observed_does_not_run() -> None:
    """The program is told that it was not started: a lab would be made without its knowledge."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_DESCRIPTORS],
        capture_output=True,
        text=True,
        check=False,
        timeout=patiently(20),
    )
    assert done.stdout.splitlines() == ["fork: too many open files", "no process is left"], done
