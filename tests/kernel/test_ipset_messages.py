"""Changes and listings of IP sets by netlink messages: the same as by the program."""

from __future__ import annotations

import shutil
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubenetlab.hoststate.rules.ipset import IpsetRules, Member, Set, parse, update
from kubenetlab.hoststate.rules.ipset_messages import member_messages
from kubenetlab.kernel.netlink import sockets
from kubenetlab.kernel.rules import ipset
from kubenetlab.kernel.rules.backends import RulesError
from kubenetlab.kernel.rules.ipset_listing import read_members
from tests.examples import examples

pytestmark = pytest.mark.skipif(
    shutil.which(ipset.PROGRAM) is None,
    reason=f"the program {ipset.PROGRAM} is not installed (apt-get install ipset)",
)

ADDRESSES = {
    4: st.ip_addresses(network="128.0.0.0/1").map(str),
    6: st.ip_addresses(network="8000::/1").map(str),
}
"""Addresses that no type of sets refuses."""
PORTS = st.builds("{}:{}".format, st.sampled_from(("tcp", "udp", "sctp")), st.integers(1, 65535))
LENGTHS = {4: st.integers(1, 32), 6: st.integers(1, 128)}
TYPES = ("hash:ip", "hash:net", "hash:ip,port", "hash:ip,port,ip", "hash:ip,port,net")


def items_of(type_: str, version: int) -> st.SearchStrategy[str]:
    """Return random members of a type of sets."""
    parts = {
        "ip": ADDRESSES[version],
        "net": st.builds("{}/{}".format, ADDRESSES[version], LENGTHS[version]),
        "port": PORTS,
    }
    words = type_.partition(":")[2].split(",")
    return st.tuples(*(parts[word] for word in words)).map(",".join)


def members(loader: ipset.Ipset) -> dict[str, list[str]]:
    return {name: sorted(items) for name, items in parse(loader.text()).items()}


def listed() -> dict[str, list[str]]:
    with closing(sockets.open_socket(sockets.NETLINK_NETFILTER)) as connection:
        return {name: sorted(items) for name, items in read_members(connection).items()}


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("type_", TYPES)
@settings(max_examples=examples(15))
@given(data=st.data())
def test_messages_change_the_same_members(type_: str, version: int, data: st.DataObject) -> None:
    """Random members are added and deleted, some of them several times."""
    some = data.draw(st.lists(items_of(type_, version), min_size=1, max_size=5))
    commands = st.tuples(st.sampled_from(("add", "del")), st.sampled_from(some))
    changes = data.draw(st.lists(commands, max_size=12))
    create = f"{type_} family {'inet' if version == 4 else 'inet6'}"
    text = "".join(f"{verb} -exist {{}} {item}\n" for verb, item in changes)
    with closing(ipset.open_loader()) as loader:
        loader.restore(f"create -exist P {create}\ncreate -exist M {create}\nflush P\nflush M\n")
        loader.restore(text.format(*["P"] * len(changes)))
        messages = member_messages(text.format(*["M"] * len(changes)), {"M": type_})
        assert messages is not None
        with closing(ipset.NetlinkRequests()) as requests:
            assert requests.apply(messages)
        result = members(loader)
        assert result["M"] == result["P"]
        assert listed() == result
        loader.restore("destroy P\ndestroy M\n")


def test_ports_of_a_bitmap_are_changed() -> None:
    """A set of ports has neither addresses nor protocols."""
    with closing(ipset.open_loader()) as loader:
        ports: list[IpsetRules] = [Set("n", "KUBE-P", "bitmap:port range 0-65535")]
        loader.run(update([], ports))
        full = [*ports, Member("n", "KUBE-P", "0"), Member("n", "KUBE-P", "30080")]
        loader.run(update(ports, full))
        assert members(loader) == listed() == {"KUBE-P": ["0", "30080"]}


SETS: list[IpsetRules] = [
    Set("n", "cali40s:a", "hash:ip family inet"),
    Member("n", "cali40s:a", "192.0.2.1"),
]
MORE: list[IpsetRules] = [*SETS, Member("n", "cali40s:a", "192.0.2.2")]


def without_program(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the program was started")

    monkeypatch.setattr(ipset.Ipset, "_run", refuse)


def test_members_change_without_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """More members than one batch has are added, compared, and deleted again."""
    monkeypatch.setattr(ipset, "CHECK_INTERVAL_S", 0)
    many = [
        *SETS,
        *(
            Member("n", "cali40s:a", f"10.0.{number // 250}.{number % 250}")
            for number in range(600)
        ),
    ]
    with closing(ipset.open_loader()) as loader:
        loader.run(update([], SETS))
        with monkeypatch.context() as patch:
            without_program(patch)
            loader.run(update(SETS, many))
            assert not loader.has_drift()
        assert members(loader) == listed()
        assert len(listed()["cali40s:a"]) == 601
        with monkeypatch.context() as patch:
            without_program(patch)
            loader.run(update(many, SETS))
        assert members(loader) == {"cali40s:a": ["192.0.2.1"]}


def test_refused_messages_are_explained_by_the_program() -> None:
    """The set has gone: the error has the reason and the line, as without messages."""
    with closing(ipset.open_loader()) as loader:
        loader.run(update([], SETS))
        loader.restore("destroy cali40s:a\n")
        with pytest.raises(RulesError, match=r"does not exist\nadd -exist cali40s:a 192.0.2.2"):
            loader.run(update(SETS, MORE))


@pytest.mark.parametrize("item", ["192.0.2.1,tcp:80", "192.0.2.1-192.0.2.9", "2001:db8::1", "web"])
def test_members_of_another_form_are_refused(item: str) -> None:
    """The kernel would ignore what it does not know, so the program decides."""
    wrong: list[IpsetRules] = [*SETS, Member("n", "cali40s:a", item)]
    with closing(ipset.open_loader()) as loader:
        loader.run(update([], SETS))
        if "-" in item:
            loader.run(update(SETS, wrong))
            assert len(members(loader)["cali40s:a"]) == 9
            return
        with pytest.raises(RulesError, match=f"add -exist cali40s:a {item}"):
            loader.run(update(SETS, wrong))
        assert members(loader) == {"cali40s:a": ["192.0.2.1"]}


@pytest.mark.parametrize(
    "type_",
    ["hash:ip family inet timeout 600", "hash:ip family inet comment", "list:set"],
)
def test_sets_of_other_types_are_listed_by_the_program(
    type_: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other processes may have any type: drift of the lab's own sets is still found."""
    monkeypatch.setattr(ipset, "CHECK_INTERVAL_S", 0)
    item = "cali40s:a" if type_ == "list:set" else "192.0.2.9"
    with closing(ipset.open_loader()) as loader:
        loader.run(update([], SETS))
        loader.restore(f"create OTHER {type_}\nadd OTHER {item}\n")
        assert not loader.has_drift()
        loader.restore("add cali40s:a 192.0.2.3\n")
        assert loader.has_drift()


def test_sets_of_another_loader_are_changed_by_the_program() -> None:
    """A new loader does not know the types of existing sets."""
    with closing(ipset.open_loader()) as first, closing(ipset.open_loader()) as second:
        first.run(update([], SETS))
        second.run(update(SETS, MORE))
        assert members(second) == {"cali40s:a": ["192.0.2.1", "192.0.2.2"]}
