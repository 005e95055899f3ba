"""kubectl's JSONPath templates: examples of its documentation, and other common templates."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenetlab.cli.input.jsonpath import parse, sort_key, values
from kubenetlab.errors import UsageError

LIST: dict[str, Any] = {
    "kind": "List",
    "items": [
        {
            "kind": "None",
            "metadata": {"name": "127.0.0.1", "labels": {"kubernetes.io/hostname": "127.0.0.1"}},
            "status": {
                "capacity": {"cpu": "4"},
                "addresses": [{"type": "LegacyHostIP", "address": "127.0.0.1"}],
                "ready": True,
            },
        },
        {
            "kind": "None",
            "metadata": {"name": "127.0.0.2"},
            "status": {
                "capacity": {"cpu": "8"},
                "addresses": [
                    {"type": "LegacyHostIP", "address": "127.0.0.2"},
                    {"type": "x", "address": "y"},
                ],
            },
        },
    ],
    "users": [
        {"name": "myself", "user": {}},
        {"name": "e2e", "user": {"username": "admin", "password": "secret"}},
    ],
}


@pytest.mark.parametrize(
    ("template", "filled"),
    [
        ("{.kind}", "List"),
        ("{['kind']}", "List"),
        (".kind", "List"),
        ("kind is {.kind}", "kind is List"),
        ("{..name}", "127.0.0.1 127.0.0.2 myself e2e"),
        ("{.items[*].metadata.name}", "127.0.0.1 127.0.0.2"),
        ("{$.items[0].kind}", "None"),
        ("{.users[0].name}", "myself"),
        ("{.items[-1:].metadata.name}", "127.0.0.2"),
        ("{.items[*]['metadata']['name']}", "127.0.0.1 127.0.0.2"),
        ('{.users[?(@.name=="e2e")].user.password}', "secret"),
        (
            "{range .items[*]}[{.metadata.name}, {.status.capacity}] {end}",
            '[127.0.0.1, {"cpu":"4"}] [127.0.0.2, {"cpu":"8"}] ',
        ),
        ("{range .items[*]}{.metadata.name}{'\\t'}{end}", "127.0.0.1\t127.0.0.2\t"),
        ('{range .items[*]}{.metadata.name}{"\\n"}{end}', "127.0.0.1\n127.0.0.2\n"),
        ("{.items[*].metadata.labels.kubernetes\\.io/hostname}", "127.0.0.1"),
        (
            "{range .items[*]}{range .status.addresses[*]}{.type}={.address};{end}{end}",
            "LegacyHostIP=127.0.0.1;LegacyHostIP=127.0.0.2;x=y;",
        ),
        ("{range .items[*].metadata.name}<{@}>{end}", "<127.0.0.1><127.0.0.2>"),
        ("{.items[*].metadata.labels['kubernetes\\.io/hostname']}", "127.0.0.1"),
        (
            "{.items[*]['metadata.name', 'status.capacity']}",
            '127.0.0.1 127.0.0.2 {"cpu":"4"} {"cpu":"8"}',
        ),
        ("{.users[?(@['name']=='e2e')].user['username','password']}", "admin secret"),
        ("{range .items[*]['metadata']}<{.name}>{end}", "<127.0.0.1><127.0.0.2>"),
        ("{.nothing.here}", ""),
        ("{.items[0].status.ready}", "true"),
    ],
)
def test_templates(template: str, filled: str) -> None:
    """A template prints what kubectl prints; a missing field gives nothing."""
    assert parse(template).fill(LIST) == filled


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{.items[*", "not closed"),
        ("{range .items[*]}x", "{range …} without {end}"),
        ("{end}", "{end} without {range …}"),
        ("{.items[}", "{.items[}"),
        ("{.a[?(}", "{.a[?(}"),
    ],
)
def test_an_invalid_template_is_a_usage_error(template: str, message: str) -> None:
    """The error quotes the template."""
    with pytest.raises(UsageError) as caught:
        parse(template)
    assert message in str(caught.value)


@given(st.text(alphabet="{}.[]*@$?()='\"\\ abrngedi0:,", max_size=30))
def test_any_text_is_a_template_or_a_usage_error(template: str) -> None:
    """Parsing and filling raise no other exception."""
    try:
        assert isinstance(parse(template).fill(LIST), str)
    except UsageError:
        pass


def test_sorting() -> None:
    """Numbers sort by value, strings as text; documents without the field come first."""
    documents: list[dict[str, Any]] = [{"n": 10, "t": "b"}, {"n": 9, "t": "a"}, {"t": "c"}]
    by_number = sorted(documents, key=lambda document: sort_key(".n", document))
    assert [document.get("n") for document in by_number] == [None, 9, 10]
    by_text = sorted(documents, key=lambda document: sort_key("{.t}", document))
    assert [document["t"] for document in by_text] == ["a", "b", "c"]
    assert values(".n", documents[0]) == [10]
