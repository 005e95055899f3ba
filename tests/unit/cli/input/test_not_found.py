"""Suggestions for objects that do not exist."""

from __future__ import annotations

import pytest

from kubenetlab.cli.input.not_found import suggestion

_PODS = [
    ("default", "client"),
    ("default", "web-6bd7cd67c6-hcxd6"),
    ("default", "db-0"),
    ("shop", "cart"),
    ("store", "cart"),
]


@pytest.mark.parametrize(
    ("namespace", "name", "expected"),
    [
        ("default", "clent", "; did you mean client?"),
        ("default", "web", "; did you mean web-6bd7cd67c6-hcxd6?"),
        ("default", "db", "; did you mean db-0?"),
        ("default", "cart", " in namespace default; there is one with -n shop or -n store"),
        ("shop", "client", " in namespace shop; there is one with -n default"),
        ("shop", "cert", "; did you mean cart?"),
        ("default", "nothing-like-it", ""),
    ],
)
def test_the_nearest_object_is_suggested(namespace: str, name: str, expected: str) -> None:
    assert suggestion(_PODS, namespace, name) == expected


def test_objects_without_a_namespace_have_similar_names_only() -> None:
    assert suggestion([("", "worker"), ("", "worker2")], "", "workr") == "; did you mean worker?"
