"""Words after --allow-unmodelled."""

from __future__ import annotations

from typing import cast

import pytest

from kubenetlab.cli.input.allowed_kinds import is_allowed_kind, refuse_unknown_kinds
from kubenetlab.errors import UsageError
from kubenetlab.lab.client import Client


class FakeClient:
    """A lab with one object of a kind that nothing knows."""

    def given_documents(self) -> list[dict[str, str]]:
        return [{"apiVersion": "example.com/v1", "kind": "Tunnel"}]


LAB = cast(Client, FakeClient())


@pytest.mark.parametrize(
    "word",
    [
        "NetworkPolicy",
        "netpol",
        "networkpolicies.networking.k8s.io",
        "Ingress",
        "ing",
        "ingresses",
        "VirtualService",
        "httpproxies",
        "anp",
        "cnp",
        "GlobalNetworkPolicy",
        "Tunnel",
        "tunnels",
        "Other.example.com",
    ],
)
def test_kinds_of_kubernetes_of_known_projects_and_of_the_lab(word: str) -> None:
    """The lab need not contain them: one command fits many labs."""
    refuse_unknown_kinds(LAB, [word])


@pytest.mark.parametrize(
    ("word", "guess"),
    [
        ("Foo", ""),
        ("NetworkPolcy", "; did you mean NetworkPolicy?"),
        ("Ingres", "; did you mean Ingress?"),
        ("VirtualServce", "; did you mean VirtualService?"),
        ("Tunel", "; did you mean Tunnel?"),
    ],
)
def test_a_word_that_is_no_kind_is_refused(word: str, guess: str) -> None:
    with pytest.raises(UsageError) as caught:
        refuse_unknown_kinds(LAB, ["Ingress", word])
    assert str(caught.value).splitlines() == [
        f'--allow-unmodelled {word}: there is no kind "{word}"{guess}',
        f"  a kind that the lab does not contain needs its API group: {word}.example.com",
    ]


@pytest.mark.parametrize(
    ("kind", "word", "is_allowed"),
    [
        ("NetworkPolicy", "netpol", True),
        ("AdminNetworkPolicy", "anp", True),
        ("ClusterNetworkPolicy", "cnp", True),
        ("CiliumNetworkPolicy", "CNP", True),
        ("CiliumClusterwideNetworkPolicy", "cnp", False),
        ("Ingress", "cnp", False),
    ],
)
def test_short_names_mean_their_kinds(kind: str, word: str, is_allowed: bool) -> None:
    assert is_allowed_kind(kind, word) == is_allowed
