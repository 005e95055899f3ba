"""Messages about rules and programs that were refused."""

from __future__ import annotations

import errno

import pytest

from kubenetlab.hoststate.object import Origin
from kubenetlab.hoststate.programs import ListenPort, ProgramRun
from kubenetlab.hoststate.state import HostState, contents_of
from kubenetlab.kernel.advice import DEPENDENCY_FAILED, advice, describe_error
from kubenetlab.kernel.rules.nftables import format_error
from kubenetlab.lab.agent.error_report import (
    condense,
    describe_refused_program,
    describe_refused_rules,
)

RUN = ProgramRun("pod/default/web/1234", "main", 0, "netexec", {}, (ListenPort("TCP", 80),))
DESIRED = HostState(
    {RUN.netns: contents_of([RUN])}, {RUN.netns: {RUN.key: Origin("containers", "Pod default/web")}}
)


def test_a_message_about_a_program_names_its_pod() -> None:
    """The message has the error without Python's number, the object's origin and advice."""
    assert describe_refused_program(
        RUN, "BlockingIOError: [Errno 11] Resource temporarily unavailable", DESIRED
    ).splitlines() == [
        "pod/default/web/1234: cannot start program netexec for container main, "
        "listening on 80/tcp",
        "  reason: BlockingIOError: Resource temporarily unavailable      "
        "wanted by: containers, for Pod default/web",
        "  → a limit of processes is reached: use fewer pods or raise the limit; "
        "kubenetlab doctor shows ulimit -Hu, kernel.pid_max and pids.max",
    ]
    assert describe_refused_program(RUN, "the app worker 0 died", DESIRED).splitlines()[1:] == [
        "  reason: the app worker 0 died      wanted by: containers, for Pod default/web"
    ]


def test_a_message_about_rules_without_an_object_names_only_the_node() -> None:
    """An nft error that names no statement is not attributed to an object."""
    text = "cache initialization failed: Operation not permitted"
    assert describe_refused_rules("node/worker", "nftables", text, DESIRED).splitlines() == [
        "node/worker: cannot load rules",
        f"  nftables: {text}",
        "  → a permission is missing: kubenetlab doctor shows which",
    ]


def test_a_message_about_a_full_map_says_what_to_use_less_of() -> None:
    text = "the map cilium_cidr holds at most 131,072 entries; needed: 140,000"
    assert describe_refused_rules("node/worker", "cilium", text, DESIRED).splitlines() == [
        "node/worker: cannot load rules",
        f"  cilium: {text}",
        "  → name fewer or larger ranges of addresses in network policies; pods inside count, too",
    ]


def test_messages_with_the_same_reason_are_condensed() -> None:
    """The first two of each reason are shown; errors that follow from others are left out."""
    same = [
        f"node/n{number}: cannot add link lo up\n"
        f"  kernel: there is no namespace 'x{number}'      wanted by: fabric, for Node n{number}"
        for number in range(40)
    ]
    other = "node/n7: cannot add bridge cbr0\n  kernel: File exists (EEXIST)"
    consequences = [
        "node/n8: cannot add port b: it needs a of pod, which was refused",
        f"node/n9: cannot add port b\n  kernel: gone\n  → {DEPENDENCY_FAILED}",
    ]
    assert condense([*same[:8], other, *consequences, *same[8:]]).splitlines() == [
        *same[0].splitlines(),
        *same[1].splitlines(),
        "and 38 more with the same reason",
        *other.splitlines(),
    ]


@pytest.mark.parametrize(
    ("number", "text", "message"),
    [
        (errno.EEXIST, "", "File exists (EEXIST)"),
        (
            errno.ENETUNREACH,
            "Nexthop has invalid gateway",
            "Nexthop has invalid gateway (ENETUNREACH)",
        ),
        (0, "no number", "no number"),
    ],
)
def test_the_errno_is_named(number: int, text: str, message: str) -> None:
    """The name follows the kernel's explanation or, without one, the C library's text."""
    assert describe_error(number, text) == message


def test_advice_depends_on_the_object() -> None:
    """ENOSPC of a sandbox is about a limit of namespaces; that of a route has no known cause."""
    assert "namespaces" in advice(errno.ENOSPC, "Sandbox")
    assert advice(errno.ENOSPC, "Route") == ""
    assert "such links" in advice(errno.EOPNOTSUPP, "Veth")


def test_an_nft_error_without_a_position_is_unchanged() -> None:
    """Errors of the library itself refer to no statement of the script."""
    assert format_error(
        "netlink: Error: cache initialization failed: Operation not permitted\n", "add table ip t\n"
    ) == ("netlink: Error: cache initialization failed: Operation not permitted")
