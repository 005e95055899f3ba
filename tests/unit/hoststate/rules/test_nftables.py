"""Transactions of nftables: order of commands, shared objects and rules shared by nodes."""

from __future__ import annotations

from collections.abc import Sequence

from kubenetlab.hoststate.diff import diff
from kubenetlab.hoststate.rules import nftables
from kubenetlab.hoststate.rules.nftables import (
    Chain,
    Collection,
    Element,
    Hook,
    NftObject,
    NftRules,
    SetType,
    Table,
    rule,
)
from kubenetlab.hoststate.rules.nftables.datatypes import VERDICT
from kubenetlab.hoststate.rules.nftables.statements import AnyStatement, Counter, accept, drop, goto
from kubenetlab.hoststate.rules.nftables.transactions import transaction_text
from kubenetlab.hoststate.rules.rulesets import DiffCache, NodeRules, SubjectRules
from kubenetlab.hoststate.state import HostState, contents_of
from tests.unit.hoststate.rule_sets import node_rules, service_rules

VERDICTS = SetType(("ipv4_addr",), VERDICT)


def chain(name: str, *statements: AnyStatement, hook: Hook | None = None) -> Chain:
    """Return a chain with a rule for each statement."""
    return Chain("n", "ip", "t", name, tuple(map(rule, statements)), hook)


def transaction(old: Sequence[NftRules], new: Sequence[NftRules]) -> str:
    """Return the commands of a transaction in nft syntax."""
    return transaction_text(nftables.transaction(old, new))


def replacement(objects: Sequence[NftRules], former: Sequence[tuple[str, str]] = ()) -> str:
    """Return the commands of a replacement in nft syntax."""
    return transaction_text(nftables.replacement(objects, former))


def test_a_transaction_is_in_the_order_of_reference_counts() -> None:
    """Chains are added before elements that refer to them, and deleted after these elements."""
    table, services = Table("n", "ip", "t"), Collection("n", "ip", "t", "m", VERDICTS)
    old: list[NftObject] = [
        table,
        services,
        chain("a", accept),
        chain("b", drop),
        Element("n", "ip", "t", "m", VERDICTS, ("10.0.0.1",), goto("a")),
    ]
    new: list[NftObject] = [
        table,
        services,
        chain("b", Counter(), drop),
        chain("c", drop),
        Element("n", "ip", "t", "m", VERDICTS, ("10.0.0.1",), goto("c"), comment="web"),
    ]
    assert transaction(old, new).splitlines() == [
        "add chain ip t c",
        "delete element ip t m { 10.0.0.1 }",
        "flush chain ip t b",
        "flush chain ip t a",
        "add rule ip t c drop",
        "add rule ip t b counter",
        "add rule ip t b drop",
        'add element ip t m { 10.0.0.1 comment "web" : goto c }',
        "delete chain ip t a",
    ]
    assert transaction(new, new) == ""
    assert replacement(new).splitlines()[:3] == [
        "add table ip t",
        "delete table ip t",
        "add table ip t",
    ]


def test_comments_are_cut_and_cannot_contain_quotes() -> None:
    """Comments in nft have at most 128 bytes and contain no quotes."""
    text = str(Element("n", "ip", "t", "m", VERDICTS, ("1",), comment='a "b" ' + "ü" * 100))
    assert text.count('"') == 2
    assert len(text.split('"')[1].encode()) < 128


def test_a_replacement_deletes_former_tables() -> None:
    """All tables of the objects and of `former` are deleted first."""
    text = replacement([Table("n", "ip", "mine")], [("ip", "mine"), ("ip", "former")])
    assert "delete table ip former" in text
    assert text.count("delete table ip mine") == 1


def test_only_changed_rules_of_a_node_are_sent() -> None:
    """Transactions and plans contain nothing about subjects whose rules are equal."""
    table, other = Table("n", "ip", "t"), service_rules("other", "10.0.0.9")
    before, after = service_rules("web", "10.0.0.1", "10.0.0.2"), service_rules("web", "10.0.0.2")
    assert transaction(
        [table, node_rules(other, before)],
        [table, node_rules(service_rules("other", "10.0.0.9"), after)],
    ).splitlines() == [
        "flush chain ip t web",
        "flush chain ip t web-10.0.0.1",
        "add rule ip t web numgen random mod 1 vmap { 0 : goto web-10.0.0.2 }",
        "delete chain ip t web-10.0.0.1",
    ]
    (changes,) = diff(
        HostState({"n": contents_of([node_rules(before, other)])}),
        HostState({"n": contents_of([node_rules(other, after)])}),
    ).namespaces
    assert [str(operation) for operation in changes.details()] == [
        "- nft chain ip t web-10.0.0.1: 1 rule",
        "~ nft chain ip t web: 1 rule    (was: nft chain ip t web: 1 rule)",
    ]
    (removed,) = diff(
        HostState({"n": contents_of([node_rules(other)])}), HostState({"n": {}})
    ).namespaces
    assert [str(operation) for operation in removed.details()][
        -1
    ] == "- nft element ip t ips { of other }"


def test_nodes_with_the_same_rules_share_the_transaction() -> None:
    """The transaction is not shared if single objects differ or the tables have to be replaced."""
    table, before, after = (
        Table("n", "ip", "t"),
        node_rules(service_rules("web", "10.0.0.1")),
        node_rules(service_rules("web", "10.0.0.2")),
    )
    extra = Chain("n", "ip", "t", "extra", (rule(accept),))
    cache = DiffCache()
    first = nftables.update([table, before], [table, after], cache=cache)
    assert transaction_text(first).splitlines()[-1] == "delete chain ip t web-10.0.0.1"
    assert nftables.update([table, extra, before], [table, extra, after], cache=cache) is first
    assert nftables.update([table, before], [table, extra, after], cache=cache) != first
    assert nftables.update([table, before], [table, after], cache=cache) is first
    separate = nftables.update([table, before], [table, after], cache=DiffCache())
    assert (separate, separate is first) == (first, False)
    other = node_rules(service_rules("web", "10.0.0.3"))
    assert "10.0.0.3" in nftables.update([table, before], [table, other], cache=cache)
    assert "10.0.0.3" in nftables.update([table, after], [table, other], cache=cache)
    update = nftables.update([table, after], [table, other], cache=cache)
    assert "delete chain ip t web-10.0.0.2" in transaction_text(update)
    commented = node_rules(
        SubjectRules("nftables", "ip", "web", (Chain("", "ip", "t", "web", comment="said"),))
    )
    for extra_objects in ((), (extra,)):
        text = transaction_text(
            nftables.update(
                [table, *extra_objects, before], [table, *extra_objects, commented], cache=cache
            )
        )
        assert "delete table ip t" in text
        assert ("add chain ip t extra" in text) == bool(extra_objects)


def test_shared_objects_exist_as_long_as_a_subject_needs_them() -> None:
    """They are added with the first subject and deleted with the last."""
    table, common = Table("n", "ip", "t"), Chain("", "ip", "t", "common", (rule(accept),))

    def sharing(*names: str) -> NodeRules[NftObject]:
        rules = (
            SubjectRules(
                "nftables",
                "ip",
                name,
                (Chain("", "ip", "t", name, (rule(goto("common")),)),),
                (common,),
            )
            for name in names
        )
        return node_rules(*rules)

    first: list[NftRules] = [table, sharing("a")]
    both: list[NftRules] = [table, sharing("a", "b")]
    assert transaction([table], both).splitlines().count("add rule ip t common accept") == 1
    assert "common accept" not in transaction(first, both)
    assert "delete chain ip t common" not in transaction(both, first)
    assert transaction(first, [table]).splitlines()[-2:] == [
        "delete chain ip t a",
        "delete chain ip t common",
    ]
