"""Network namespaces that are made ahead."""

from __future__ import annotations

import os
import select
from collections.abc import Callable

import pytest

from kubenetlab.api.lab import Decisions
from kubenetlab.datapath import plan
from kubenetlab.datapath.sandboxes import loopback_and_sysctls
from kubenetlab.hoststate.diff import diff
from kubenetlab.hoststate.sandbox import Sandbox
from kubenetlab.hoststate.state import HostState
from kubenetlab.kernel.linux import LinuxKernel
from kubenetlab.kernel.namespaces.netns_pool import MIN_COUNT, NetnsPool, ahead
from tests.clusters import FAMILIES, deployment, store
from tests.kernel.states import netlink


def blanks(count: int) -> NetnsPool:
    """At most so many, one of which is there at least."""
    source = ahead(count)
    assert source is not None
    select.select([source.socket], [], [], 10)
    return NetnsPool(source)


def test_they_come_from_a_process_that_ends() -> None:
    """Each is another one, and no more are made when it has been said that there are enough."""
    there = blanks(5 * MIN_COUNT)
    found = list(iter(there.take, None))
    os.wait()
    assert 0 < len({os.fstat(fd).st_ino for fd in found}) == len(found) <= 5 * MIN_COUNT
    for fd in found:
        os.close(fd)
    there.close()


def test_they_are_there_when_who_made_them_is_gone() -> None:
    """It ended without reading that there are enough, of which the kernel tells us first."""
    source = ahead(5 * MIN_COUNT)
    assert source is not None
    there = NetnsPool(source)
    os.waitid(os.P_ALL, 0, os.WEXITED)
    found = list(iter(there.take, None))
    assert found
    for fd in found:
        os.close(fd)
    there.close()


def test_few_are_open_at_one_time() -> None:
    """The others wait in the socket, and with it they are gone."""
    before = len(os.listdir("/proc/self/fd"))
    there = blanks(5 * MIN_COUNT)
    fd = there.take()
    assert fd is not None
    assert before + 1 < len(os.listdir("/proc/self/fd")) <= before + 1 + 64
    os.close(fd)
    there.close()
    assert len(os.listdir("/proc/self/fd")) == before
    assert there.take() is None
    os.wait()


def test_for_few_there_is_no_time() -> None:
    """Nothing is made ahead for a small lab."""
    assert ahead(MIN_COUNT - 1) is None


def test_a_sandbox_takes_one_that_is_there(
    kernel: Callable[[], LinuxKernel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stands in that very namespace, of which no descriptor is left."""
    sandboxes = kernel().sandboxes
    sandboxes.blanks = there = blanks(MIN_COUNT)
    taken: list[int] = []

    def take() -> int | None:
        fd = NetnsPool.take(there)
        assert fd is not None
        taken.append(os.fstat(fd).st_ino)
        return fd

    monkeypatch.setattr(there, "take", take)
    before = len(os.listdir("/proc/self/fd"))
    sandbox = Sandbox("n", "host")
    sandboxes.hold(sandbox, sandboxes.network(sandbox, lambda: None, there.take()))
    fd = sandboxes.open("n")
    assert [os.fstat(fd).st_ino] == taken
    os.close(fd)
    sandboxes.close_blanks()
    assert len(os.listdir("/proc/self/fd")) == before - 1
    assert sandboxes.blanks is None
    sandboxes.remove("n")
    os.wait()


@pytest.mark.parametrize("family", FAMILIES)
def test_what_pods_begin_with_is_there(
    kernel: Callable[[], LinuxKernel], monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    """Only what begins so takes one; in the end all are as if they had been made now, and so are those for which there were none left."""
    wanted = netlink(
        plan(
            store(FAMILIES[family] + deployment(replicas=4)),
            Decisions(pod_layout="routed", neighbors="dynamic"),
        )
    )
    source = ahead(MIN_COUNT, tuple(loopback_and_sysctls("", has_ipv6=family != "ipv4")))
    assert source is not None
    select.select([source.socket], [], [], 10)
    here = kernel()
    here.sandboxes.blanks = there = NetnsPool(source)
    taken: list[int] = []
    few = 4

    def take() -> int | None:
        fd = NetnsPool.take(there) if len(taken) < few else None
        if fd is not None:
            taken.append(os.fstat(fd).st_ino)
        return fd

    monkeypatch.setattr(there, "take", take)
    here.apply(diff(HostState(), wanted)).raise_failures()
    here.sandboxes.close_blanks()
    assert str(diff(HostState(here.observe(wanted.namespaces)), wanted)) == ""
    made = {
        netns: os.stat(f"/proc/{pid}/ns/net").st_ino for netns, pid in here.sandboxes.pids.items()
    }
    nodes = {made[netns] for netns in wanted.namespaces if netns.startswith("node/")}
    assert len(taken) == few
    assert set(taken) < set(made.values()) - nodes
