"""Tables of who must reach whom, as files: what is wrong with one is told with its line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kubenetlab.errors import ManifestError
from kubenetlab.observe.check import Verdict, load, with_causes
from kubenetlab.observe.policies import kept_policies


def test_a_table_and_a_plain_list_are_read(tmp_path: Path) -> None:
    """Rows with their lines, what each expects."""
    file = tmp_path / "expect.yaml"
    rows = "- {from: a, to: b, port: 80, allowed: false}\n- {from: a, to: 'svc:b', port: 53, protocol: UDP, expect: reject}\n"
    for text, first in ((rows, 1), (f"name: t\nmanifests: [m.yaml]\nprobes:\n{rows}", 4)):
        file.write_text(text)
        table, places = load(str(file))
        assert [row.expected for row in table.probes] == ["deny", "reject"]
        assert places == [f"{file}:{first}", f"{file}:{first + 1}"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- {from: a, to: b}", ":1  [0]: wanted one of allowed, expect and resolves"),
        ("- {from: a, to: b, allowed: true, expect: deny}", "wanted one of allowed, expect and resolves"),
        ("- {from: a, to: b, expcet: deny}", "unknown field; did you mean expect?"),
        ("- {from: a, to: b, expect: denied}", "wanted one of allow, deny, drop, reject"),
        ("- {from: a, to: 'nod:b', allowed: true}", "wanted [ns/]pod, deploy:"),
        ("- {from: a, to: b, port: 0, allowed: true}", "found 0"),
        ("- {from: a, to: b, allowed: true, source: 10.0.0.1}", "wanted a port, too"),
        ("probes: 3", "wanted a list, found 3"),
        ("a: b: c", ":1  mapping values are not allowed"),
        ("", "wanted one document, found 0"),
        ("name: shop\nprobes: []", ":2  probes: holds no probe"),
        ("[]", ":1  holds no probe"),
        ("name: shop", "probes: holds no probe"),
    ],
)
def test_what_is_wrong_with_a_table(tmp_path: Path, text: str, said: str) -> None:
    """In one report, exit status 2."""
    file = tmp_path / "expect.yaml"
    file.write_text(text)
    with pytest.raises(ManifestError) as caught:
        load(str(file))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("expected", "found", "state", "is_explained"),
    [
        ("deny", "answer", "fails", True),
        ("reject", "answer", "fails", True),
        ("drop", "refused", "fails", False),
        ("allow", "silence", "fails", False),
        ("allow, from 10.244.1.2", "answer, saw 10.244.1.3", "fails", False),
        ("deny", "silence", "holds", False),
    ],
)
def test_what_gets_through_where_policies_are_only_kept(expected: str, found: str, state: Any, is_explained: bool) -> None:
    """A row that fails because something answers says which policies are not modelled; others have other reasons."""
    given = [
        {"kind": "NetworkPolicy", "metadata": {"name": "deny-all", "namespace": "shop"}},
        {"kind": "Ingress", "metadata": {"name": "web", "namespace": "shop"}},
        {"kind": "CiliumClusterwideNetworkPolicy", "metadata": {"name": "all"}},
    ]
    verdict = Verdict("t", "default/client", "svc:shop/web:80/TCP", expected, found, state, "t.yaml:1")
    said = "kept, but not modelled yet: NetworkPolicy shop/deny-all, CiliumClusterwideNetworkPolicy all"
    (found_verdict,) = with_causes([verdict], kept_policies(given))
    assert found_verdict.cause == (said if is_explained else "")
    assert with_causes([verdict], []) == [verdict]
