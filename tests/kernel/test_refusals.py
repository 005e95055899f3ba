"""What Linux refuses, for real, is told with the object, its namespace, who wanted it, the errno and what to do."""

from __future__ import annotations

import errno
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kubenetlab.hoststate.address import Address
from kubenetlab.hoststate.diff import Changes, NetnsChanges, Operation
from kubenetlab.hoststate.link import Bridge, LinkUp, Port, Veth
from kubenetlab.hoststate.object import Object, Origin
from kubenetlab.hoststate.route import Route
from kubenetlab.hoststate.rules.nftables import Chain, NftObject, Rule, Table, replacement
from kubenetlab.hoststate.sandbox import Sandbox, Sysctl
from kubenetlab.hoststate.state import HostState, contents_of
from kubenetlab.kernel import syscalls
from kubenetlab.kernel.linux import LinuxKernel
from kubenetlab.kernel.rules import nftables
from kubenetlab.kernel.rules.backends import RulesError
from kubenetlab.lab.agent.error_report import rules_refused

Make = Callable[[], LinuxKernel]
ORIGIN = Origin("cni bridge", "Pod default/web")


def refused(kernel: LinuxKernel, *objects: Object) -> str:
    """What is said when these are added to the namespace `n` as it is; only one of them is refused."""
    operations = tuple(Operation("add", obj, origin=ORIGIN) for obj in objects)
    (failure,) = kernel.apply(Changes((NetnsChanges("n", operations),))).failures
    return str(failure)


def with_namespace(kernel: LinuxKernel, *objects: Object) -> LinuxKernel:
    operations = tuple(
        Operation("add", obj) for obj in (Sandbox("n", "h"), LinkUp("n", "lo"), *objects)
    )
    kernel.apply(Changes((NetnsChanges("n", operations),))).raise_failures()
    return kernel


BRIDGE = Bridge("n", "br0", "0a:58:00:00:00:01")


def test_something_has_its_place(kernel: Make) -> None:
    """A link of that name is there."""
    said = refused(with_namespace(kernel(), BRIDGE), Bridge("n", "br0", "0a:58:00:00:00:02"))
    assert said.splitlines() == [
        "n: cannot add bridge br0 mac 0a:58:00:00:00:02 mtu 1500",
        "  kernel: File exists (EEXIST)      wanted by: cni bridge, for Pod default/web",
        "  → another object has its name or address: find it with kubenetlab exec and ip, "
        "and delete it; the lab retries by itself",
    ]


def test_an_address_that_cannot_be(kernel: Make) -> None:
    """The kernel's own explanation stands before the errno, which alone would mislead."""
    here = with_namespace(kernel(), Sysctl("n", "net/ipv6/conf/all/disable_ipv6", "1"), BRIDGE)
    said = refused(here, Address("n", "br0", "fd00::1/64"))
    assert "n: cannot add address fd00::1/64 dev br0" in said
    assert (
        "(EACCES)      wanted by: cni bridge, for Pod default/web" in said
    )  # newer kernels say why
    assert (
        "  → IPv6 is disabled there: check net.ipv6.conf.*.disable_ipv6 with kubenetlab exec"
        in said
    )


def test_a_device_is_gone(kernel: Make) -> None:
    """Somebody took it away between two rounds."""
    here = with_namespace(kernel(), BRIDGE)
    with here.sandboxes.inside("n"):
        assert os.system("ip link del br0") == 0
    said = refused(here, Address("n", "br0", "10.0.0.1/24"))
    assert "(ENODEV)" in said
    assert (
        "  → the object that it depends on is gone; the lab creates it again and retries by itself"
        in said
    )


def test_what_follows_from_a_refusal_names_that(kernel: Make) -> None:
    """Somebody took the name of a pod's link on its node: neither is the address refused for a reason of its own, nor the port."""
    here = with_namespace(kernel(), BRIDGE, Bridge("n", "veth0", "0a:58:00:00:00:09"))
    veth = Veth("pod", "eth0", "0a:58:00:00:00:02", "n", "veth0")
    inside = (
        Sandbox("pod", "web"),
        LinkUp("pod", "lo"),
        veth,
        Address("pod", "eth0", "10.0.0.2/24"),
        Route("pod", "0.0.0.0/0", "eth0", via="10.0.0.1"),
    )
    port = Port("n", "veth0", "br0", "0a:59:00:00:00:02")
    changes = [
        NetnsChanges("pod", tuple(Operation("add", obj, origin=ORIGIN) for obj in inside)),
        NetnsChanges("n", (Operation("add", port, origin=ORIGIN),)),
    ]
    first, *others = here.apply(Changes(tuple(changes))).failures
    assert "(EEXIST)" in str(first)
    assert "pod: cannot add veth eth0" in str(first)
    assert {str(failure).partition(": it needs ")[2] for failure in others} == {
        "eth0 of pod, which was refused"
    }
    assert {type(failure.operation.object) for failure in others} >= {Address, Route}


def test_a_route_whose_source_was_refused(kernel: Make) -> None:
    """It has a link of its own; it is the address of another one that it lacks."""
    here = with_namespace(kernel(), BRIDGE)
    address, route = (
        Address("n", "eth0", "10.0.0.2/24"),
        Route("n", "10.9.0.0/24", "br0", source="10.0.0.2"),
    )
    changes = Changes((NetnsChanges("n", (Operation("add", address), Operation("add", route))),))
    _, follows = here.apply(changes).failures
    assert str(follows) == f"n: cannot add {route}: it needs 10.0.0.2/24 of n, which was refused"


def test_a_setting_that_is_read_only(kernel: Make) -> None:
    """It is the whole machine's: the kernel lets nobody write it in a namespace."""
    said = refused(with_namespace(kernel()), Sysctl("n", "net/netfilter/nf_conntrack_count", "1"))
    assert "n: cannot add sysctl net.netfilter.nf_conntrack_count = 1" in said
    assert "(EACCES)" in said or "(EPERM)" in said
    assert "  → this sysctl cannot be written here" in said


def test_a_setting_that_does_not_exist(kernel: Make) -> None:
    """With its module it would."""
    said = refused(with_namespace(kernel()), Sysctl("n", "net/ipv4/no_such", "1"))
    assert "kernel: No such file or directory (ENOENT)" in said
    assert "this kernel has no such sysctl, or its module is not loaded: run" in said


def test_a_value_that_is_refused(kernel: Make) -> None:
    """Nobody knows better than the kernel: no advice."""
    said = refused(with_namespace(kernel()), Sysctl("n", "net/ipv4/ip_default_ttl", "100000"))
    assert said.splitlines()[1:] == [
        "  kernel: Invalid argument (EINVAL)      wanted by: cni bridge, for Pod default/web"
    ]


def test_a_namespace_that_may_not_be_made(kernel: Make) -> None:
    """A limit of the user namespace is an errno about disks."""
    try:
        syscalls.unshare(
            syscalls.CLONE_NEWUSER
            | syscalls.CLONE_NEWNET
            | syscalls.CLONE_NEWUTS
            | syscalls.CLONE_NEWIPC
        )
    except OSError as error:
        pytest.skip(f"no user namespace can be made here: {error.strerror}; see kubenetlab doctor")
    Path("/proc/self/uid_map").write_text("0 0 1")
    here = kernel()
    Path("/proc/sys/user/max_net_namespaces").write_text("1")
    said = refused(here, Sandbox("n", "h"))
    assert "n: cannot add sandbox, hostname h" in said
    assert "kernel: unshare: No space left on device (ENOSPC)" in said
    assert "a limit of namespaces is reached" in said


def test_too_many_open_files(kernel: Make) -> None:
    """An errno that says so."""
    here = with_namespace(kernel(), BRIDGE)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, before[1]))
    said = refused(here, Address("n", "br0", "10.0.0.1/24"))
    resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert "kernel: Too many open files (EMFILE)" in said
    assert "raise the hard limit" in said


@pytest.mark.first_kernel  # a thousand ports take long to emulate
def test_a_full_bridge(kernel: Make) -> None:
    """The kernel takes 1,023 ports, and has an errno of its own for one more."""
    pairs = [
        obj
        for number in range(1024)
        for obj in (
            Veth("n", f"a{number}", "0a:58:00:00:00:02", "n", f"b{number}"),
            Port("n", f"b{number}", "br0", "0a:58:00:00:00:03"),
        )
    ]
    said = refused(with_namespace(kernel(), BRIDGE), *pairs)
    assert "cannot add port b1023 of br0" in said
    assert f"({errno.errorcode[errno.EXFULL]})" in said
    assert "a bridge has 1,023 ports at most" in said


@pytest.mark.parametrize("way", ["library", "program"])
def test_a_rule_that_nft_does_not_take(way: str) -> None:
    """The statement that is wrong, not the first of the transaction, with a mark; whose it is, and how many more there are."""
    if (way == "program" and shutil.which("nft") is None) or (
        way == "library" and not nftables.has_library()
    ):
        pytest.skip(f"{way} is not here (apt-get install nftables)")
    chains = [
        Chain("n", "ip", "t", name, (Rule("counter"), Rule(f"jump {to}")))
        for name, to in (("a", "b"), ("b", "c"), ("d", "e"))
    ]
    objects: list[NftObject] = [Table("n", "ip", "t"), *chains]
    desired = HostState(
        {"n": contents_of(objects)},
        {"n": {chain.key: Origin("proxy nftables", f"Service {chain.name}") for chain in chains}},
    )
    here = nftables.LibraryNft() if way == "library" else nftables.ProgramNft()
    with pytest.raises(RulesError) as caught:
        here.run(replacement(objects))
    here.close()
    said = rules_refused("n", "nftables", str(caught.value), desired)
    assert said.splitlines() == [
        "n: cannot load rules: nft chain ip t b: 2 rules",
        "  nftables: Could not process rule: No such file or directory      wanted by: proxy nftables, for Service b",
        "    add rule ip t b jump c",
        "                         ^",
        "    and 1 more",
        "  → a chain, set or kernel module that the rule names does not exist; "
        "the next attempt replaces all tables of the node",
    ]


def test_a_syntax_that_nft_does_not_know() -> None:
    """Told before the kernel is asked."""
    here = nftables.open_here()
    with pytest.raises(RulesError) as caught:
        here.run("add table ip t\nadd chain ip t c\nadd rule ip t c ip sadr 10.0.0.1 drop\n")
    here.close()
    assert str(caught.value).splitlines()[:2] == [
        "syntax error, unexpected string",
        "add rule ip t c ip sadr 10.0.0.1 drop",
    ]


def test_a_long_statement_is_shown_where_it_is_wrong() -> None:
    """Of a thousand elements, the few around the mark."""
    elements = ", ".join(f"10.0.{number // 250}.{number % 250}" for number in range(1000))
    here = nftables.open_here()
    with pytest.raises(RulesError) as caught:
        here.run(
            f"add table ip t\nadd set ip t s {{ type ipv4_addr ; }}\nadd element ip t s {{ {elements}, bad/address }}\n"
        )
    here.close()
    _, statement, mark, *_ = str(caught.value).splitlines()
    assert len(statement) < 250
    assert statement.startswith("add element ip t s { 10.0.0.0, ")
    assert "^" in mark
