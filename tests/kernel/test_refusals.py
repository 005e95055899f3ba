"""Failures of real operations: message, object, origin, errno and advice."""

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
from kubenetlab.hoststate.links.bridge import Bridge
from kubenetlab.hoststate.links.existing import LinkUp
from kubenetlab.hoststate.links.veth import Port, Veth
from kubenetlab.hoststate.object import Object, Origin
from kubenetlab.hoststate.route import Route
from kubenetlab.hoststate.rules.nftables import Chain, NftObject, Table, replacement, rule
from kubenetlab.hoststate.rules.nftables.statements import Counter, jump
from kubenetlab.hoststate.rules.nftables.transactions import transaction_text
from kubenetlab.hoststate.sandbox import Sandbox, Sysctl
from kubenetlab.hoststate.state import HostState, contents_of
from kubenetlab.kernel import syscalls
from kubenetlab.kernel.linux import LinuxKernel
from kubenetlab.kernel.rules import nftables
from kubenetlab.kernel.rules.backends import RulesError
from kubenetlab.lab.agent.error_report import describe_refused_rules

Make = Callable[[], LinuxKernel]
ORIGIN = Origin("cni bridge", "Pod default/web")


def failure_message(kernel: LinuxKernel, *objects: Object) -> str:
    """Return the message for adding objects to namespace `n`, one of which is refused."""
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


def test_another_link_has_the_name(kernel: Make) -> None:
    """The message has the complete form."""
    message = failure_message(
        with_namespace(kernel(), BRIDGE), Bridge("n", "br0", "0a:58:00:00:00:02")
    )
    assert message.splitlines() == [
        "n: cannot add bridge br0 mac 0a:58:00:00:00:02 mtu 1500",
        "  kernel: File exists (EEXIST)      wanted by: cni bridge, for Pod default/web",
        "  → another object has its name or address: find it with kubenetlab exec and ip, "
        "and delete it; the lab retries by itself",
    ]


def test_an_address_is_refused_while_ipv6_is_disabled(kernel: Make) -> None:
    """The kernel's explanation precedes the errno, which alone would mislead."""
    linux = with_namespace(kernel(), Sysctl("n", "net/ipv6/conf/all/disable_ipv6", "1"), BRIDGE)
    message = failure_message(linux, Address("n", "br0", "fd00::1/64"))
    assert "n: cannot add address fd00::1/64 dev br0" in message
    assert (
        "(EACCES)      wanted by: cni bridge, for Pod default/web" in message
    )  # newer kernels say why
    assert (
        "  → IPv6 is disabled there: check net.ipv6.conf.*.disable_ipv6 with kubenetlab exec"
        in message
    )


def test_the_device_of_an_address_is_gone(kernel: Make) -> None:
    """The device was deleted between two reconcile passes."""
    linux = with_namespace(kernel(), BRIDGE)
    with linux.sandboxes.inside("n"):
        assert os.system("ip link del br0") == 0
    message = failure_message(linux, Address("n", "br0", "10.0.0.1/24"))
    assert "(ENODEV)" in message
    assert (
        "  → the object that it depends on is gone; the lab creates it again and retries by itself"
        in message
    )


def test_a_consequence_names_the_refused_object(kernel: Make) -> None:
    """The name of a pod's link is taken on its node.

    Address, route and port then name the refused link instead of errors of their own.
    """
    linux = with_namespace(kernel(), BRIDGE, Bridge("n", "veth0", "0a:58:00:00:00:09"))
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
    first, *consequences = linux.apply(Changes(tuple(changes))).failures
    assert "(EEXIST)" in str(first)
    assert "pod: cannot add veth eth0" in str(first)
    assert {str(failure).partition(": it needs ")[2] for failure in consequences} == {
        "eth0 of pod, which was refused"
    }
    assert {type(failure.operation.object) for failure in consequences} >= {Address, Route}


def test_a_route_names_its_refused_source_address(kernel: Make) -> None:
    """The route's device exists; the source address on another device does not."""
    linux = with_namespace(kernel(), BRIDGE)
    address, route = (
        Address("n", "eth0", "10.0.0.2/24"),
        Route("n", "10.9.0.0/24", "br0", source="10.0.0.2"),
    )
    changes = Changes((NetnsChanges("n", (Operation("add", address), Operation("add", route))),))
    _, follows = linux.apply(changes).failures
    assert str(follows) == f"n: cannot add {route}: it needs 10.0.0.2/24 of n, which was refused"


def test_a_sysctl_is_read_only(kernel: Make) -> None:
    """The sysctl belongs to the whole machine: the kernel forbids writing it in a namespace."""
    message = failure_message(
        with_namespace(kernel()), Sysctl("n", "net/netfilter/nf_conntrack_count", "1")
    )
    assert "n: cannot add sysctl net.netfilter.nf_conntrack_count = 1" in message
    assert "(EACCES)" in message or "(EPERM)" in message
    assert "  → this sysctl cannot be written here" in message


def test_a_sysctl_does_not_exist(kernel: Make) -> None:
    """The advice mentions that a module may have to be loaded."""
    message = failure_message(with_namespace(kernel()), Sysctl("n", "net/ipv4/no_such", "1"))
    assert "kernel: No such file or directory (ENOENT)" in message
    assert "this kernel has no such sysctl, or its module is not loaded: run" in message


def test_a_value_of_a_sysctl_is_refused(kernel: Make) -> None:
    """No advice is given where the kernel's message says everything."""
    message = failure_message(
        with_namespace(kernel()), Sysctl("n", "net/ipv4/ip_default_ttl", "100000")
    )
    assert message.splitlines()[1:] == [
        "  kernel: Invalid argument (EINVAL)      wanted by: cni bridge, for Pod default/web"
    ]


def test_a_limit_of_namespaces_is_reached(kernel: Make) -> None:
    """The kernel's errno for it is about disk space."""
    try:
        syscalls.unshare(
            syscalls.CLONE_NEWUSER
            | syscalls.CLONE_NEWNET
            | syscalls.CLONE_NEWUTS
            | syscalls.CLONE_NEWIPC
        )
    except OSError as error:
        pytest.skip(
            f"no user namespace can be created here: {error.strerror}; see kubenetlab doctor"
        )
    Path("/proc/self/uid_map").write_text("0 0 1")
    linux = kernel()
    Path("/proc/sys/user/max_net_namespaces").write_text("1")
    message = failure_message(linux, Sandbox("n", "h"))
    assert "n: cannot add sandbox, hostname h" in message
    assert "kernel: unshare: No space left on device (ENOSPC)" in message
    assert "a limit of namespaces is reached" in message


def test_too_many_files_are_open(kernel: Make) -> None:
    """The advice names the limit."""
    linux = with_namespace(kernel(), BRIDGE)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, before[1]))
    message = failure_message(linux, Address("n", "br0", "10.0.0.1/24"))
    resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert "kernel: Too many open files (EMFILE)" in message
    assert "raise the hard limit" in message


@pytest.mark.first_kernel  # a thousand ports take long to emulate
def test_a_bridge_is_full(kernel: Make) -> None:
    """The kernel allows 1,023 ports, and has an errno of its own for one more."""
    pairs = [
        obj
        for number in range(1024)
        for obj in (
            Veth("n", f"a{number}", "0a:58:00:00:00:02", "n", f"b{number}"),
            Port("n", f"b{number}", "br0", "0a:58:00:00:00:03"),
        )
    ]
    message = failure_message(with_namespace(kernel(), BRIDGE), *pairs)
    assert "cannot add port b1023 of br0" in message
    assert f"({errno.errorcode[errno.EXFULL]})" in message
    assert "a bridge has 1,023 ports at most" in message


@pytest.mark.parametrize("backend", ["library", "program"])
def test_the_rejected_rule_is_shown_with_a_mark(backend: str) -> None:
    """The message quotes the rejected statement, not the first one of the transaction.

    It has the rule's origin and the number of further errors.
    """
    if (backend == "program" and shutil.which("nft") is None) or (
        backend == "library" and not nftables.has_library()
    ):
        pytest.skip(f"{backend} is not installed (apt-get install nftables)")
    chains = [
        Chain("n", "ip", "t", name, (rule(Counter()), rule(jump(to))))
        for name, to in (("a", "b"), ("b", "c"), ("d", "e"))
    ]
    objects: list[NftObject] = [Table("n", "ip", "t"), *chains]
    desired = HostState(
        {"n": contents_of(objects)},
        {"n": {chain.key: Origin("proxy nftables", f"Service {chain.name}") for chain in chains}},
    )
    loader = nftables.LibraryNft() if backend == "library" else nftables.ProgramNft()
    with pytest.raises(RulesError) as caught:
        loader.run(transaction_text(replacement(objects)))
    loader.close()
    message = describe_refused_rules("n", "nftables", str(caught.value), desired)
    assert message.splitlines() == [
        "n: cannot load rules: nft chain ip t b: 2 rules",
        "  nftables: Could not process rule: No such file or directory      wanted by: proxy "
        "nftables, for Service b",
        "    add rule ip t b jump c",
        "                         ^",
        "    and 1 more",
        "  → a chain, set or kernel module that the rule names does not exist; "
        "the next attempt replaces all tables of the node",
    ]


def test_a_syntax_error_is_shown_with_its_line() -> None:
    """The program rejects it before the kernel is involved."""
    loader = nftables.open_loader()
    with pytest.raises(RulesError) as caught:
        loader.run_commands(
            "add table ip t\nadd chain ip t c\nadd rule ip t c ip sadr 10.0.0.1 drop\n"
        )
    loader.close()
    assert str(caught.value).splitlines()[:2] == [
        "syntax error, unexpected string",
        "add rule ip t c ip sadr 10.0.0.1 drop",
    ]


def test_a_long_statement_is_cut_off_around_the_error() -> None:
    """A report of a thousand elements keeps only those near the error."""
    elements = ", ".join(f"10.0.{number // 250}.{number % 250}" for number in range(1000))
    loader = nftables.open_loader()
    with pytest.raises(RulesError) as caught:
        loader.run_commands(
            f"add table ip t\nadd set ip t s {{ type ipv4_addr ; }}\nadd element ip t s "
            f"{{ {elements}, bad/address }}\n"
        )
    loader.close()
    _, statement, mark, *_ = str(caught.value).splitlines()
    assert len(statement) < 250
    assert statement.startswith("add element ip t s { 10.0.0.0, ")
    assert "^" in mark
