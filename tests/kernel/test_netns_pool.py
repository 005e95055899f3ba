"""The pool of preallocated network namespaces."""

from __future__ import annotations

import os
import select
from collections.abc import Callable

import pytest

from kubenetlab.datapath import plan
from kubenetlab.datapath.sandboxes import loopback_and_sysctls
from kubenetlab.hoststate.diff import diff
from kubenetlab.hoststate.sandbox import Sandbox
from kubenetlab.hoststate.state import HostState
from kubenetlab.kernel.linux import LinuxKernel
from kubenetlab.kernel.namespaces.netns_pool import MIN_COUNT, NetnsPool, preallocate
from tests.clusters import FAMILIES, decided, deployment, store
from tests.kernel.states import netlink


def make_pool(count: int) -> NetnsPool:
    """Return a pool with at most `count` namespaces, at least one of which exists."""
    source = preallocate(count)
    assert source is not None
    select.select([source.socket], [], [], 10)
    return NetnsPool(source)


def test_the_pools_process_ends_when_the_pool_is_opened() -> None:
    """It creates no more namespaces then; all of them differ."""
    pool = make_pool(5 * MIN_COUNT)
    fds = list(iter(pool.take, None))
    os.wait()
    assert 0 < len({os.fstat(fd).st_ino for fd in fds}) == len(fds) <= 5 * MIN_COUNT
    for fd in fds:
        os.close(fd)
    pool.close()


def test_namespaces_outlive_the_process_that_created_them() -> None:
    """The process may exit without reading the pool's message, which the kernel reports first."""
    source = preallocate(5 * MIN_COUNT)
    assert source is not None
    pool = NetnsPool(source)
    os.waitid(os.P_ALL, 0, os.WEXITED)
    fds = list(iter(pool.take, None))
    assert fds
    for fd in fds:
        os.close(fd)
    pool.close()


def test_few_namespaces_are_open_at_a_time() -> None:
    """Namespaces that were not received are freed with the socket."""
    before = len(os.listdir("/proc/self/fd"))
    pool = make_pool(5 * MIN_COUNT)
    fd = pool.take()
    assert fd is not None
    assert before + 1 < len(os.listdir("/proc/self/fd")) <= before + 1 + 64
    os.close(fd)
    pool.close()
    assert len(os.listdir("/proc/self/fd")) == before
    assert pool.take() is None
    os.wait()


def test_small_labs_have_no_pool() -> None:
    """Creating namespaces ahead takes longer than it saves there."""
    assert preallocate(MIN_COUNT - 1) is None


def test_a_sandbox_uses_a_namespace_of_the_pool(
    kernel: Callable[[], LinuxKernel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sandbox's namespace is the one taken, and its descriptor is closed."""
    sandboxes = kernel().sandboxes
    sandboxes.netns_pool = pool = make_pool(MIN_COUNT)
    taken: list[int] = []

    def take() -> int | None:
        fd = NetnsPool.take(pool)
        assert fd is not None
        taken.append(os.fstat(fd).st_ino)
        return fd

    monkeypatch.setattr(pool, "take", take)
    before = len(os.listdir("/proc/self/fd"))
    sandbox = Sandbox("n", "host")
    sandboxes.hold(sandbox, sandboxes.network(sandbox, lambda: None, pool.take()))
    fd = sandboxes.open("n")
    assert [os.fstat(fd).st_ino] == taken
    os.close(fd)
    sandboxes.close_netns_pool()
    assert len(os.listdir("/proc/self/fd")) == before - 1
    assert sandboxes.netns_pool is None
    sandboxes.remove("n")
    os.wait()


@pytest.mark.parametrize("family", FAMILIES)
def test_namespaces_of_the_pool_are_completed(
    kernel: Callable[[], LinuxKernel], monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    """Only sandboxes that begin like the pool's namespaces take one.

    In the end all sandboxes are alike, also those for which the pool had none.
    """
    desired = netlink(
        plan(
            store(FAMILIES[family] + deployment(replicas=4)),
            decided("routed", "dynamic"),
        )
    )
    source = preallocate(MIN_COUNT, tuple(loopback_and_sysctls("", has_ipv6=family != "ipv4")))
    assert source is not None
    select.select([source.socket], [], [], 10)
    linux = kernel()
    linux.sandboxes.netns_pool = pool = NetnsPool(source)
    taken: list[int] = []
    limit = 4

    def take() -> int | None:
        fd = NetnsPool.take(pool) if len(taken) < limit else None
        if fd is not None:
            taken.append(os.fstat(fd).st_ino)
        return fd

    monkeypatch.setattr(pool, "take", take)
    linux.apply(diff(HostState(), desired)).raise_failures()
    linux.sandboxes.close_netns_pool()
    assert str(diff(HostState(linux.observe(desired.namespaces)), desired)) == ""
    inodes = {
        netns: os.stat(f"/proc/{pid}/ns/net").st_ino for netns, pid in linux.sandboxes.pids.items()
    }
    nodes = {inodes[netns] for netns in desired.namespaces if netns.startswith("node/")}
    assert len(taken) == limit
    assert set(taken) < set(inodes.values()) - nodes
