"""Modes on the command line: options, lists, mappings, and mistakes in them."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from kubenetlab.cli.input.mode_options import format_mode_option, parse_mode, split_modes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bridge", {}),
        (
            "bridge,ipam.gateway=last,ipam.rangeEnd=-9",
            {"ipam": {"gateway": "last", "rangeEnd": -9}},
        ),
        ("bridge,list=[a,b],last=true", {"list": ["a", "b"], "last": True}),
        ("bridge,list=[fd00::/64]", {"list": ["fd00::/64"]}),
        ("bridge,list=[]", {"list": []}),
        ("{type: bridge}", {}),
        (" {type: bridge, peers: [{a: 1, b: [x, y]}]}", {"peers": [{"a": 1, "b": ["x", "y"]}]}),
        ('{"type": "bridge", "mask": 26}\n', {"mask": 26}),
    ],
)
def test_a_mode_is_read_as_in_a_cluster_document(text: str, expected: dict[str, object]) -> None:
    assert parse_mode(text) == {"type": "bridge", **expected}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bridge,layout", "expected OPTION=VALUE"),
        ("bridge,list=[a,b", r"expected a list in brackets, such as list=\[a,b\]"),
        (
            "calico,peers=[{address: 192.0.2.1, asNumber: 1}]",
            r"found a mapping; .* document: '{type: calico, peers: \[{…}\]}'",
        ),
        ("calico,backend=vxlan,backend=bgp", '"backend=bgp": backend already has the value vxlan'),
        ("bridge,type=ptp", '"type=ptp": type already has the value bridge'),
        ("bridge,a.b=1,a=2", r'"a=2": a already has the value {'),
        ("bridge,ipam={gateway: last}", r"'{type: bridge, ipam: {…}}'"),
        ("{type: bridge", "expected one mapping, such as"),
        ("{type: bridge},layout=routed", "expected one mapping, such as"),
        ("{type: bridge} {type: ptp}", "expected one mapping, such as|did not find"),
        ("{type: bridge, a: [b}", "did not find expected"),
        ("{type: bridge, a: 1, a: 2}", 'duplicate key "a"'),
        ("{layout: routed}", "expected the field type, such as '{type: bridge"),
        ("{type: 7}", "expected the field type"),
    ],
)
def test_mistakes_name_the_form_that_is_expected(text: str, message: str) -> None:
    with pytest.raises(typer.BadParameter, match=message):
        parse_mode(text)


def test_commas_in_brackets_and_braces_do_not_separate_modes() -> None:
    texts = ["flannel,{type: calico, peers: [{a: 1, b: 2}]},cilium,x=[a,b],weave", "ptp"]
    assert list(split_modes(texts)) == [
        "flannel",
        "{type: calico, peers: [{a: 1, b: 2}]}",
        "cilium,x=[a,b]",
        "weave",
        "ptp",
    ]


words = st.text(st.sampled_from("abcxyz-./"), min_size=1, max_size=6)
scalars = st.one_of(
    st.booleans(), st.integers(-(10**6), 10**6), words.filter(lambda word: word[0] not in "-.")
)
values = st.recursive(
    st.one_of(scalars, st.lists(words, max_size=3)),
    lambda inner: st.dictionaries(words.filter(lambda word: "." not in word), inner, min_size=1),
    max_leaves=4,
)


@given(st.dictionaries(words.filter(lambda word: "." not in word), values, max_size=4))
def test_what_is_shown_can_be_read_again(options: dict[str, object]) -> None:
    """Options as the manual page prints them, and the whole mode as JSON."""
    expected = {"type": "mode", **options}
    text = "".join(f",{format_mode_option(name, value)}" for name, value in options.items())
    assert parse_mode(f"mode{text}") == parse_mode(json.dumps(expected)) == expected


@given(st.text(st.sampled_from("ab{}[],:= .\n"), max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(typer.BadParameter):
        assert isinstance(parse_mode(text)["type"], str)
