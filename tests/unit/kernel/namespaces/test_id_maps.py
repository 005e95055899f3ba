"""UID and GID maps of an ordinary user's lab."""

from __future__ import annotations

import errno
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenetlab.kernel.namespaces.id_maps import IdRange, Mapper, map_lines, parse_ranges

SUBUID = """\
# a comment
alice:100000:65536
bob:165536:65536
1000:500000:10
alice:wrong:10
alice:7
alice:600000:0

"""


def test_a_range_belongs_to_a_user_name_or_number() -> None:
    """Lines of other users and malformed lines are ignored."""
    assert parse_ranges(SUBUID, {"alice", "1000"}) == (IdRange(100000, 65536), IdRange(500000, 10))
    assert parse_ranges(SUBUID, {"carol", "1001"}) == ()


@given(
    st.lists(
        st.tuples(st.integers(1, 2**31), st.integers(1, 2**16)).map(lambda pair: IdRange(*pair)),
        max_size=500,
    ),
    st.integers(0, 2**31),
)
def test_maps_are_consecutive_inside(ranges: list[IdRange], own: int) -> None:
    """ID 0 is the user, the ranges follow without gaps, and the map has at most 340 lines."""
    parsed = parse_ranges("".join(f"me:{first}:{count}\n" for first, count in ranges), {"me"})
    lines = map_lines(own, parsed)
    assert lines[0] == (0, own, 1)
    assert [(outside, count) for _, outside, count in lines[1:]] == ranges[:339]
    assert all(inside == before + count for (before, _, count), (inside, _, _) in pairwise(lines))


def test_a_missing_program_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check comes before any file is read or process started."""
    monkeypatch.setattr(
        "shutil.which", lambda program: None if program == "newuidmap" else f"/usr/bin/{program}"
    )
    assert Mapper().fault == "the program newuidmap is missing"


def test_a_user_without_a_name_has_no_range(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user needs a name, because newuidmap looks up its caller by name."""

    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr("shutil.which", lambda program: f"/usr/bin/{program}")
    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setattr("os.geteuid", lambda: 4711)
    assert Mapper().fault == "uid 4711 has no name in /etc/passwd, which newuidmap needs"


def test_a_child_that_cannot_be_started_sets_the_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """It raises nothing: the lab is created with root alone."""

    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(
        "kubenetlab.kernel.namespaces.id_maps._own_ranges",
        lambda user: [(IdRange(100000, 65536),)] * 2,
    )
    monkeypatch.setattr("subprocess.Popen", refused)
    assert Mapper().fault == "cannot start newuidmap: Resource temporarily unavailable"
