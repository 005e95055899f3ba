"""tests/upstream/comparison.py and tests/labs/kernel_listing.py, with listings as text."""

from __future__ import annotations

import pytest

from tests.labs.kernel_listing import sections
from tests.upstream.comparison import Named, findings

OURS = """\
[node n1]
link flannel.1 vxlan mtu 1450 mac 0a:5c:ac:12:00:03 up
link veth6cb8eb1b veth mtu 1450 mac 0a:59:0a:f4:01:02 up
route 10.244.2.0/24 via 10.244.2.0 dev flannel.1 proto static onlink
neighbor 10.244.2.0 lladdr 0a:5c:ac:12:00:04 dev flannel.1
table ip flannel chain postrtg
  ip saddr 10.244.1.0/24 return

[node n2]
link flannel.1 vxlan mtu 1450 mac 0a:5c:ac:12:00:04 up
"""
THEIRS = (
    OURS.replace("0a:5c:ac:12:00:03", "ae:12:34:56:78:9a")
    .replace("0a:5c:ac:12:00:04", "2e:00:00:00:00:01")
    .replace("0a:59:0a:f4:01:02", "56:aa:aa:aa:aa:aa")
    .replace("6cb8eb1b", "01234567")
)
PROTOCOL = Named(r" proto (static|boot)", "the routes are static")
UNUSED = Named(r" brd \S+", "no broadcast address")


def test_an_entry_has_its_indented_lines() -> None:
    assert sections(OURS)["node n1"][-1] == (
        "table ip flannel chain postrtg\n  ip saddr 10.244.1.0/24 return"
    )


def test_random_names_and_macs_are_no_differences() -> None:
    """A MAC stands for its link, also in the neighbours of other nodes."""
    assert not findings(OURS, THEIRS, ()).unnamed


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("mtu 1450 mac 2e", "mtu 1500 mac 2e"),
        ("lladdr 2e:00:00:00:00:01", "lladdr ae:12:34:56:78:9a"),
        ("  ip saddr 10.244.1.0/24 return", "  ip saddr 10.244.1.0/24 accept"),
    ],
    ids=["a link", "the MAC of another link", "a rule"],
)
def test_other_differences_are_found(old: str, new: str) -> None:
    """Both entries are shown, the lab's with a minus."""
    assert old in THEIRS
    result = findings(OURS, THEIRS.replace(old, new), ()).unnamed
    assert sorted(difference.is_ours for difference in result) == [False, True]


def test_only_the_named_property_may_differ() -> None:
    """The rest of the entry must be equal; names without a difference are left out."""
    theirs = THEIRS.replace("proto static", "proto boot")
    result = findings(OURS, theirs, (PROTOCOL, UNUSED))
    assert (result.unnamed, result.named) == ([], [PROTOCOL])
    result = findings(OURS, theirs.replace(" onlink", ""), (PROTOCOL, UNUSED))
    assert [str(difference) for difference in result.unnamed] == [
        "[node n1] + route 10.244.2.0/24 via 10.244.2.0 dev flannel.1",
        "[node n1] - route 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink",
    ]
