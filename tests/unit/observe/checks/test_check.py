"""Truth tables as files: problems are reported with their line."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from kubenetlab.diagnostics import Connection
from kubenetlab.errors import ManifestError
from kubenetlab.observe.checks.html_report import PageNote, render_page
from kubenetlab.observe.checks.junit import Note, write
from kubenetlab.observe.checks.truth_table import load
from kubenetlab.observe.checks.verdicts import RowProbe, RowVerdict, verdict_of
from tests.unit.observe.policies.worlds import world


def test_a_table_and_a_plain_list_are_read(tmp_path: Path) -> None:
    """Each row has its line and its expectation."""
    file = tmp_path / "expect.yaml"
    rows = (
        "- {from: a, to: b, port: 80, allowed: false}\n- {from: a, to: 'svc:b', port: 53, "
        "protocol: UDP, expect: reject}\n"
    )
    for text, first in ((rows, 1), (f"name: t\nmanifests: [m.yaml]\nprobes:\n{rows}", 4)):
        file.write_text(text)
        table, places = load(str(file))
        assert [row.expected for row in table.probes] == ["deny", "reject"]
        assert places == [f"{file}:{first}", f"{file}:{first + 1}"]


def test_a_table_may_have_a_version(tmp_path: Path) -> None:
    """Without one it is version 1, and so is a plain list."""
    file = tmp_path / "expect.yaml"
    row = "{from: a, to: b, expect: deny}"
    for text in (f"version: 1\nprobes: [{row}]", f"probes: [{row}]", f"[{row}]"):
        file.write_text(text)
        table, _ = load(str(file))
        assert table.version == 1


def test_only_the_version_of_a_table_with_an_unknown_one_is_reported(tmp_path: Path) -> None:
    """All other fields may have another meaning in that version."""
    file = tmp_path / "expect.yaml"
    file.write_text("version: 7\nchecks: [{client: a, server: b}]")
    with pytest.raises(ManifestError) as caught:
        load(str(file))
    assert [problem.path for problem in caught.value.problems] == ["version"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- {from: a, to: b}", ":1  [0]: expected one of allowed, expect and resolves"),
        (
            "- {from: a, to: b, allowed: true, expect: deny}",
            "expected one of allowed, expect and resolves",
        ),
        ("- {from: a, to: b, expcet: deny}", "unknown field; did you mean expect?"),
        ("- {from: a, to: b, expect: denied}", "expected one of allow, deny, drop, reject"),
        ("- {from: a, to: 'nod:b', allowed: true}", "expected [ns/]pod, deploy:"),
        ("- {from: a, to: b, port: 0, allowed: true}", "found 0"),
        ("- {from: a, to: pod/b, allowed: true, source: 10.0.0.1}", "a port is required, too"),
        (
            "- {from: a, to: b, port: 80, expect: deny, source: 10.0.0.1}",
            "source: a server sees a source only where the row expects allow",
        ),
        (
            "- {from: a, to: b, port: 80, allowed: true, source: '10.0.0.1:80'}",
            'expected an IP address, found "10.0.0.1:80"',
        ),
        (
            "- {from: a, to: b, resolves: true, source: 10.0.0.1}",
            "source: a row with resolves sends nothing",
        ),
        (
            "- {from: a, to: 'svc:b:80', protocol: ICMP, allowed: false}",
            "protocol: a ping has no port, but port is 80",
        ),
        ("- {from: a, to: pod/b, protocol: UDP, allowed: false}", "protocol: UDP needs a port"),
        (
            "- {from: a, to: 'node:worker', resolves: false}",
            "to: resolves is about a name: expected a Service or a DNS name",
        ),
        ("- {from: a, to: 10.0.0.1, resolves: false}", "to: resolves is about a name"),
        ("probes: 3", "expected a list, found 3"),
        ("a: b: c", ":1  mapping values are not allowed"),
        ("", "expected one document, found 0"),
        ("name: shop\nprobes: []", ":2  probes: holds no probe"),
        ("[]", ":1  holds no probe"),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}",
            ":2  this is a manifest, not a table of checks",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}",
            "to make a lab of this file: kubenetlab up -f ",
        ),
        ("kind: Pod\n---\nkind: Service", ":1  this is a manifest, not a table of checks"),
        ("- {from: a, to: b, allowed: true}\n---\n[]", "expected one document, found 2"),
        ("name: shop", "probes: holds no probe"),
        (
            "name: shop\nversion: 2\nprobes: [{from: a, to: b, expects: deny}]",
            "expect.yaml:2  version: expected 1, found 2\n",
        ),
        ("version: 2\nprobes: []", " reads: 1"),
        ("version: '1'\nprobes: [{from: a, to: b, expect: deny}]", 'expected 1, found "1"'),
        ("version: true\nprobes: [{from: a, to: b, expect: deny}]", "expected 1, found true"),
        ("version: null\nprobes: [{from: a, to: b, expect: deny}]", "expected 1, found nothing"),
    ],
)
def test_problems_of_a_table_are_reported_with_their_line(
    tmp_path: Path, text: str, said: str
) -> None:
    """One report lists every problem, with exit status 2."""
    file = tmp_path / "expect.yaml"
    file.write_text(text)
    with pytest.raises(ManifestError) as caught:
        load(str(file))
    assert said in str(caught.value)


def _verdict(expected: str, **fields: Any) -> RowVerdict:
    return RowVerdict(
        "t",
        "default/client",
        "svc:shop/web:80/TCP",
        expected,
        "answer",
        "holds",
        "t.yaml:1",
        **fields,
    )


@pytest.mark.parametrize(
    "expected", ["deny", "reject", "drop", "does not resolve", "deny, from 10.244.1.2"]
)
def test_rows_that_expect_no_connection(expected: str) -> None:
    """Such rows accept a misconfigured target."""
    assert _verdict(expected).is_expected_to_fail


@pytest.mark.parametrize("expected", ["allow", "resolves", "allow, from 10.244.1.2"])
def test_rows_that_expect_a_connection(expected: str) -> None:
    """Such rows accept no misconfiguration."""
    assert not _verdict(expected).is_expected_to_fail


def test_junit_has_stable_names_and_places(tmp_path: Path) -> None:
    """Test cases have file and line, and numbers where names repeat; accepted diagnostics pass."""
    failing = RowVerdict(
        "t",
        "default/web-1",
        "default/web-2",
        "deny",
        "answer",
        "fails",
        "t.yaml:3",
        1.0,
        "deploy/web[0] → deploy/web[1]",
    )
    verdicts = [_verdict("allow", name="deploy/web[0] → svc/shop/web:80/TCP")] * 2 + [failing]
    notes = [
        Note("NetworkPolicy a: not-enforced", "m", "p.yaml:7", is_accepted)
        for is_accepted in (False, True)
    ]
    write(str(tmp_path / "junit.xml"), verdicts, notes, {0: ["remark"], 2: ["why"]}, 0.5)
    suite = ElementTree.parse(tmp_path / "junit.xml").getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("5", "2")
    cases = [
        (case.get("name"), case.get("file"), case.get("line"), case.find("failure") is not None)
        for case in suite
    ]
    assert cases == [
        ("deploy/web[0] → svc/shop/web:80/TCP", "t.yaml", "1", False),
        ("deploy/web[0] → svc/shop/web:80/TCP (2)", "t.yaml", "1", False),
        ("deploy/web[0] → deploy/web[1]", "t.yaml", "3", True),
        ("NetworkPolicy a: not-enforced", "p.yaml", "7", True),
        ("NetworkPolicy a: not-enforced (2)", "p.yaml", "7", False),
    ]
    assert [entry.text for entry in suite.iter("system-out")] == ["remark", "accepted: m"]
    assert [entry.text for entry in suite.iter("failure")] == [
        "t.yaml:3\ndefault/web-1 → default/web-2\nwhy",
        "p.yaml:7\nm",
    ]


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("{from: a, to: b, port: 80, family: IPv6, expect: deny}", "default/b:80/TCP IPv6"),
        ("{from: a, to: b, family: IPv4, expect: deny}", "default/b IPv4"),
        ("{from: a, to: b, port: 80, expect: deny}", "default/b:80/TCP"),
    ],
)
def test_results_show_the_family_of_their_row(tmp_path: Path, text: str, target: str) -> None:
    """Rows about the same destination in both families would look the same."""
    file = tmp_path / "expect.yaml"
    file.write_text(f"- {text}")
    table, (place,) = load(str(file))
    (row,) = table.probes
    lab = world("")
    probe = RowProbe(
        row, place, "", Connection(), lab.places["client"], "default/b", "10.244.1.9", 80
    )
    assert verdict_of(table, probe, "silence", "holds").target == target


HOSTILE = "\x1b[31m<script>&"
"""Reply of a program: no report may contain it as it is."""


def test_reports_escape_replies_of_programs(tmp_path: Path) -> None:
    """XML has no control characters, and a page must not run what a program has sent."""
    verdict = RowVerdict(
        "t", "default/client", HOSTILE, "allow", HOSTILE, "fails", "t.yaml:1", name=HOSTILE
    )
    report = tmp_path / "junit.xml"
    write(str(report), [verdict, verdict], [Note(HOSTILE, HOSTILE, "", False)], {0: [HOSTILE]}, 1)
    failure = ElementTree.parse(report).getroot().find("testcase/failure")
    assert failure is not None
    assert "<script>" in failure.get("message", "")
    note = PageNote("error", HOSTILE, HOSTILE, HOSTILE)
    page = render_page(HOSTILE, [verdict, verdict], [note], {0: [HOSTILE]}, 1)
    for text in (report.read_text(), page):
        assert "\x1b" not in text
        assert "<script>" not in text
