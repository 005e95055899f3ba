"""Processes that `exec` and `shell` start: inherited attributes, terminal and end."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.labs.isolated_lab import OWNERS, isolated_lab, machine_directory
from tests.labs.lab import Lab, cmdline, wait_for
from tests.labs.owner_commands import owner_command
from tests.labs.terminal import on_terminal


@pytest.fixture(scope="module")
def marker() -> Iterator[Path]:
    """Yield a directory of the machine that is visible inside and writable for every user."""
    yield from machine_directory()


@pytest.fixture(scope="module", params=OWNERS)
def lab(request: pytest.FixtureRequest, marker: Path) -> Iterator[Lab]:
    """Yield a lab of root, and one of an ordinary user."""
    yield from isolated_lab(request.param, marker)


@pytest.fixture(autouse=True)
def no_marks(marker: Path) -> Iterator[None]:
    """Check after each test that nothing was written to the machine's directory."""
    yield
    assert list(marker.iterdir()) == []


def test_programs_inherit_no_descriptors_of_the_caller(lab: Lab, marker: Path) -> None:
    """A directory that the caller has open would give access to writable files."""
    directory = os.open(marker, os.O_RDONLY | os.O_DIRECTORY)
    command = owner_command(
        lab,
        "exec",
        "client",
        "--",
        "sh",
        "-c",
        f"ls /proc/self/fd; touch /proc/self/fd/{directory}/x",
    )
    result = command.run(status=1, pass_fds=[directory])
    os.close(directory)
    assert result.stdout.split() == ["0", "1", "2", "3"]


def _set_unusual_attributes() -> None:
    for number in (signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,))
    os.umask(0o777)


def test_programs_do_not_inherit_signals_and_umask_of_the_caller(lab: Lab) -> None:
    """Examples are nohup, a background process of a script, and a strict umask."""
    command = owner_command(
        lab, "exec", "client", "--", "grep", "-E", "^(SigBlk|SigIgn|Umask)", "/proc/self/status"
    )
    result = command.run(preexec_fn=_set_unusual_attributes, restore_signals=False)
    assert result.stdout.split() == ["Umask:", "0022", "SigBlk:", "0" * 16, "SigIgn:", "0" * 16]


INJECTION = """\
import fcntl, os
for request in (0x5412, 0x541C, 0x5412 + (1 << 32)):
    for path in ("/dev/tty", "/proc/self/fd/0"):
        try:
            fd = os.open(path, os.O_RDWR)
            fcntl.ioctl(fd, request & 0xFFFFFFFF, b"x")
            print("typed", hex(request), path)
        except OSError as error:
            print("refused", error.errno)
print("end")
"""


def test_a_program_cannot_type_into_the_terminal(lab: Lab) -> None:
    """The caller's shell would execute the text after the end of the program."""
    if not Path("/usr/bin/python3").exists():
        pytest.skip("python3 is not installed")
    _, drawn = on_terminal(
        owner_command(lab, "exec", "client", "--", "python3", "-S", "-E", "-c", INJECTION).execute
    )
    assert "typed" not in drawn
    assert drawn.count("refused 1\r\n") == 6


def test_a_shell_controls_its_terminal(lab: Lab) -> None:
    """Job control works; a manifest's PROMPT_COMMAND runs with the files inside."""
    _, drawn = on_terminal(
        owner_command(lab, "shell", "hostile").execute,
        ("[hostile /]", "sleep 1000 & jobs; kill %1; echo at-$(hostname)\n"),
        ("at-hostile", "exit\n"),
    )
    assert "Running" in drawn
    assert "prompted" in drawn
    assert "no job control" not in drawn


def test_a_program_ends_with_its_command(lab: Lab) -> None:
    """It also ends when the command is killed, although it has fewer privileges."""
    command = owner_command(lab, "exec", "client", "--", "sleep", "4711")
    process = command.start()

    def sleeping() -> list[int]:
        return [
            pid for pid in lab.pids() + children(process.pid) if b"sleep\x004711" in cmdline(pid)
        ]

    wait_for(sleeping, "the program")
    pids = sleeping()
    process.kill()
    process.wait()
    wait_for(
        lambda: not [pid for pid in pids if b"sleep\x004711" in cmdline(pid)],
        "the end of the program",
    )


def children(pid: int) -> list[int]:
    try:
        return [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]
    except OSError:
        return []
