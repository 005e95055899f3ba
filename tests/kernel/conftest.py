"""Isolation of the tests in this folder: each runs in its own namespaces.

Network, mounts, host name and IPC are separate, and the test is PID 1 of its PID namespace, so
everything it creates is freed when it ends, in whatever way.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kubenetlab.kernel import syscalls
from kubenetlab.kernel.linux import LinuxKernel
from kubenetlab.kernel.namespaces import pause
from kubenetlab.kernel.namespaces.sandboxes import Sandboxes
from tests.conftest import NEEDS_ROOT
from tests.kernel.service_node import FAMILIES, Addresses

_ALL = (
    syscalls.CLONE_NEWNS
    | syscalls.CLONE_NEWPID
    | syscalls.CLONE_NEWNET
    | syscalls.CLONE_NEWUTS
    | syscalls.CLONE_NEWIPC
)
_SKIPPED = 77


def pytest_itemcollected(item: pytest.Item) -> None:
    """Run the tests of this folder on the emulated kernel, too, unless they are marked."""
    if not item.get_closest_marker("first_kernel"):
        item.add_marker(pytest.mark.kernel)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run the test in a child in new namespaces, and raise its failure here, as text."""
    if Path(pyfuncitem.fspath).parent != Path(__file__).parent:
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    status, message = _run_in_namespaces(lambda: pyfuncitem.obj(**arguments))
    if status == _SKIPPED:
        pytest.skip(message)
    if status:
        pytest.fail(message or f"ended with status {status}", pytrace=False)
    return True


def _run_in_namespaces(test: Callable[[], Any]) -> tuple[int, str]:
    reading, writing = os.pipe()
    outer = os.fork()
    if outer == 0:
        try:
            syscalls.unshare(_ALL)
        except OSError as error:
            reason = f"this machine lets us make no namespaces: {error.strerror}"
            os.write(writing, (NEEDS_ROOT if os.geteuid() else reason).encode())
            os._exit(_SKIPPED)
        inner = os.fork()
        if inner == 0:
            _run(test, writing)
        _, status = os.waitpid(inner, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        message = pipe.read().decode(errors="replace")
    _, status = os.waitpid(outer, 0)
    return os.waitstatus_to_exitcode(status), message


def _run(test: Callable[[], Any], writing: int) -> None:
    try:
        syscalls.mount("none", "/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
        syscalls.mount("proc", "/proc", "proc")
        syscalls.mount("tmpfs", "/run", "tmpfs")
        test()
        status = 0
    except pytest.skip.Exception as skipped:
        os.write(writing, str(skipped.msg).encode())
        status = _SKIPPED
    except BaseException:
        os.write(writing, traceback.format_exc()[-60_000:].encode())
        status = 1
    sys.stdout.flush()
    os._exit(status)


@pytest.fixture
def kernel() -> Callable[[], LinuxKernel]:
    """Return a function that creates a LinuxKernel for the lab `t`; call it inside the test."""

    def make() -> LinuxKernel:
        pause.install(Path("/run/pause"))
        return LinuxKernel(Sandboxes("t", "/run/pause"))

    return make


@pytest.fixture(params=[4, 6], ids=["IPv4", "IPv6"])
def addresses(request: pytest.FixtureRequest) -> Addresses:
    """Return the addresses of a cluster, for each IP family."""
    return FAMILIES[request.param]
