"""How refusals read that come from other hands than the kernel's own netlink."""

from __future__ import annotations

import errno

import pytest

from kubenetlab.hoststate.object import Origin
from kubenetlab.hoststate.programs import ListenPort, ProgramRun
from kubenetlab.hoststate.state import HostState, contents_of
from kubenetlab.kernel.advice import WAITS, advice, said
from kubenetlab.kernel.rules.nftables import readable
from kubenetlab.lab.agent.error_report import condensed, program_refused, rules_refused

RUN = ProgramRun("pod/default/web/1234", "main", 0, "netexec", {}, (ListenPort("TCP", 80),))
DESIRED = HostState(
    {RUN.netns: contents_of([RUN])}, {RUN.netns: {RUN.key: Origin("containers", "Pod default/web")}}
)


def test_a_program_that_cannot_start_names_its_pod() -> None:
    """What a process of the lab met, with what to do, and without Python's numbers."""
    assert program_refused(
        RUN, "BlockingIOError: [Errno 11] Resource temporarily unavailable", DESIRED
    ).splitlines() == [
        "pod/default/web/1234: cannot start program netexec for container main, listening on 80/tcp",
        "  reason: BlockingIOError: Resource temporarily unavailable      wanted by: containers, for Pod default/web",
        "  → a limit of processes is reached: kubenetlab doctor shows ulimit -Hu, kernel.pid_max and pids.max; "
        "fewer pods, or a higher limit",
    ]
    assert program_refused(RUN, "the app worker 0 died", DESIRED).splitlines()[1:] == [
        "  reason: the app worker 0 died      wanted by: containers, for Pod default/web"
    ]


def test_rules_of_nobody_in_particular() -> None:
    """Where nft names no statement, none is guessed."""
    text = "cache initialization failed: Operation not permitted"
    assert rules_refused("node/worker", "nftables", text, DESIRED).splitlines() == [
        "node/worker: cannot load rules",
        f"  nftables: {text}",
        "  → a permission is lacking: kubenetlab doctor says which",
    ]


def test_many_refusals_for_one_reason_are_one() -> None:
    """The first ones are shown, whoever wanted them; a reason of its own stands by itself, and what follows from others is left out."""
    alike = [
        f"node/n{number}: cannot add link lo up\n  kernel: there is no namespace 'x{number}'      wanted by: fabric, for Node n{number}"
        for number in range(40)
    ]
    other = "node/n7: cannot add bridge cbr0\n  kernel: File exists (EEXIST)"
    follows = [
        "node/n8: cannot add port b: it needs a of pod, which was refused",
        f"node/n9: cannot add port b\n  kernel: gone\n  → {WAITS}",
    ]
    assert condensed([*alike[:8], other, *follows, *alike[8:]]).splitlines() == [
        *alike[0].splitlines(),
        *alike[1].splitlines(),
        "and 38 more with the same reason",
        *other.splitlines(),
    ]


@pytest.mark.parametrize(
    ("number", "text", "words"),
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
def test_the_errno_is_named(number: int, text: str, words: str) -> None:
    """Behind the kernel's explanation, or what the C library calls it."""
    assert said(number, text) == words


def test_advice_depends_on_the_object() -> None:
    """No space is about namespaces for a sandbox, and nothing we know of for a route."""
    assert "namespaces" in advice(errno.ENOSPC, "Sandbox")
    assert advice(errno.ENOSPC, "Route") == ""
    assert "such links" in advice(errno.EOPNOTSUPP, "Veth")


def test_what_nft_says_without_a_place_stays_as_it_is() -> None:
    """A complaint of the library itself."""
    assert readable(
        "netlink: Error: cache initialization failed: Operation not permitted\n", "add table ip t\n"
    ) == ("netlink: Error: cache initialization failed: Operation not permitted")
