"""Text → documents: splitting, scalars, syntax errors and limits."""

from __future__ import annotations

from typing import Any

import pytest

from kubenetlab.api.text.documents import MAX_BYTES, read_documents

BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 10)}]\n"
    for before, name in zip("abcdef", "bcdefg", strict=True)
)


def read(text: str | bytes) -> tuple[list[Any], list[str]]:
    documents, problems = read_documents("f.yaml", text.encode() if isinstance(text, str) else text)
    return [document.value for document in documents], [str(problem) for problem in problems]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        pytest.param("a: 1\n---\nb: 2\n", [{"a": 1}, {"b": 2}], id="two documents"),
        pytest.param(
            "---\n---\n# nothing\n---\nb: 2\n...\n",
            [{"b": 2}],
            id="empty documents are passed over",
        ),
        pytest.param("", [], id="empty file"),
        pytest.param("\ufeffa: 1", [{"a": 1}], id="byte order mark"),
        pytest.param("a: 1\r\nb: 2\r\n", [{"a": 1, "b": 2}], id="windows line ends"),
        pytest.param(
            '{"a": 1,\n\t"b": [true, null]}', [{"a": 1, "b": [True, None]}], id="JSON with tabs"
        ),
        pytest.param("{a: 1, b: [x]}", [{"a": 1, "b": ["x"]}], id="flow style that is not JSON"),
        pytest.param("a: |\n  ---\n  x\n", [{"a": "---\nx\n"}], id="an indented --- in a block"),
        pytest.param("<<: {a: 1, b: 1}\nb: 2\n", [{"a": 1, "b": 2}], id="merge key"),
        pytest.param("a: &x {b: 1}\nc: *x\n", [{"a": {"b": 1}, "c": {"b": 1}}], id="alias"),
    ],
)
def test_documents_are_read_as_kubectl_reads_them(text: str, values: list[Any]) -> None:
    """Documents are split and parsed as kubectl does."""
    assert read(text) == (values, [])


@pytest.mark.parametrize(
    ("scalar", "value"),
    [
        ("0644", 420),
        ("0o644", 420),
        ("0x1F", 31),
        ("1_000", 1000),
        ("-017", -15),
        ("1:30", "1:30"),
        ("2001-01-01", "2001-01-01"),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("yes", True),
        ("off", False),
        ("~", None),
        ("10.96.0.10", "10.96.0.10"),
        ("089", 89.0),
        ("18446744073709551615", 2**64 - 1),
        ("18446744073709551616", 18446744073709551616.0),
        ("-9223372036854775809", -9223372036854775809.0),
        ("0x1" + "0" * 16, 2.0**64),
    ],
)
def test_scalars_are_resolved_as_in_kubernetes(scalar: str, value: object) -> None:
    """No timestamps, no base-60 numbers, octal file modes."""
    assert read(f"a: {scalar}") == ([{"a": value}], [])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param(
            "a: 1\n\tb: 2\n",
            "f.yaml:2  a tab in the indentation; YAML allows only spaces there",
            id="tab",
        ),
        pytest.param(
            "a: 1\nb: 2\na: 3\n",
            'f.yaml:3  duplicate key "a"',
            id="duplicate key",
        ),
        pytest.param(
            '{"a": 1, "a": 2}',
            'f.yaml:1  duplicate key "a"',
            id="duplicate key in JSON",
        ),
        pytest.param(
            "a: b: c\n", "f.yaml:1  mapping values are not allowed in this context", id="syntax"
        ),
        pytest.param(
            b"a: 1\nb: \xff\n", "f.yaml:2  not UTF-8: byte 0xff cannot be read", id="not UTF-8"
        ),
        pytest.param(
            "a: \x01b",
            "f.yaml:1  control character #x0001 is not allowed in YAML",
            id="control character",
        ),
        pytest.param(
            BOMB, "f.yaml:6  its aliases expand to more than 200000 values", id="alias bomb"
        ),
        pytest.param(
            "a: &x [*x]\n",
            "f.yaml:1  an alias refers to the value that contains it",
            id="recursive alias",
        ),
        pytest.param("[" * 100_000, "f.yaml:1  nested deeper than 100 levels", id="deep flow"),
        pytest.param("- " * 500 + "a", "f.yaml:1  nested deeper than 100 levels", id="deep block"),
        pytest.param(b"x" * (MAX_BYTES + 1), "f.yaml  too large: more than 16 MB", id="too large"),
        pytest.param(
            "? [a]\n: b\n", "f.yaml:1  a key must be a scalar", id="key that is not a scalar"
        ),
        pytest.param(
            "a: 1\nb: !!bool stable\n",
            'f.yaml:2  "stable" is not a boolean',
            id="tag that does not match the value",
        ),
        pytest.param(
            "a: !!int [1]\n", "f.yaml:1  this sequence is not a number", id="number that is a list"
        ),
        pytest.param(
            "a: !!map [1]\n",
            "f.yaml:1  this sequence is not a mapping",
            id="mapping that is a list",
        ),
        pytest.param(
            "a: !!set {b}\n",
            "f.yaml:1  the tag !!set is not supported in Kubernetes manifests",
            id="set",
        ),
        pytest.param(
            "a: !!timestamp soon\n",
            "f.yaml:1  the tag !!timestamp is not supported in Kubernetes manifests",
            id="timestamp",
        ),
        pytest.param(
            "a: !x b\n",
            "f.yaml:1  the tag !x is not supported in Kubernetes manifests",
            id="custom tag",
        ),
        pytest.param("a: .nan\n", 'f.yaml:1  ".nan" is not a number', id="not a number"),
        pytest.param(
            "a: 1e999\n", 'f.yaml:1  "1e999" is not a number', id="number beyond all bounds"
        ),
        pytest.param(
            "a: " + "9" * 5000, f'f.yaml:1  "{"9" * 20}…" is not a number', id="thousands of digits"
        ),
        pytest.param(
            "a: " + "9" * 4000,
            f'f.yaml:1  "{"9" * 20}…" is not a number',
            id="more digits than a float has",
        ),
        pytest.param(
            '{"a": ' + "9" * 5000 + "}",
            f'f.yaml:1  "{"9" * 20}…" is not a number',
            id="thousands of digits in JSON",
        ),
        pytest.param('{"a": ' * 100_000, "f.yaml:1  nested deeper than 100 levels", id="deep JSON"),
        pytest.param(
            '{"a": 1e999}',
            'f.yaml:1  "1e999" is not a number',
            id="number beyond all bounds in JSON",
        ),
        pytest.param(
            '{"a": "\\ud800"}',
            "f.yaml:1  found invalid Unicode character escape code",
            id="half of a surrogate pair in JSON",
        ),
        pytest.param(
            "a: \x85b\nc: {",
            "f.yaml:2  could not find expected ':'",
            id="line break that only YAML has",
        ),
        pytest.param(
            "a: {b: 1\nc: 2",
            "f.yaml:2  did not find expected ',' or '}'",
            id="end in the last line",
        ),
    ],
)
def test_a_syntax_error_is_reported_with_its_line(text: str | bytes, problem: str) -> None:
    """A document that cannot be read is reported with its line and never crashes the parser."""
    values, problems = read(text)
    assert values == []
    assert problems[0].splitlines()[0] == problem


@pytest.mark.parametrize(
    ("text", "shown", "hint"),
    [
        (
            "containers:\n- name: web\n image: nginx\n",
            "image: nginx",
            "check the indentation of this line",
        ),
        ("spec:\n  host:web\n  port: 1\n", "port: 1", "the space behind each `:`"),
        ("a: @b\n", "a: @b", "a value that begins with this character needs quotes"),
    ],
)
def test_a_message_of_the_parser_has_a_hint_at_the_usual_cause(
    text: str, shown: str, hint: str
) -> None:
    """The parser reports the line at which it stopped; the cause is often an indentation."""
    _, (problem,) = read(text)
    _, line, advice = problem.splitlines()
    assert line.strip() == shown
    assert hint in advice


def test_an_error_in_one_document_does_not_hide_those_in_the_next() -> None:
    """Each document is parsed separately."""
    values, problems = read("a: 1\n---\nb: [\n---\nc: 1\n---\nd: *x\n")
    assert values == [{"a": 1}, {"c": 1}]
    assert [problem.split("  ")[0] for problem in problems] == ["f.yaml:4", "f.yaml:7"]


def test_a_path_leads_to_the_line_of_its_field() -> None:
    """The path of a missing field leads to the line of the field above it."""
    (document,), _ = read_documents("f.yaml", b"# head\na:\n  b:\n  - c: 1\n  - c: 2\n")
    assert [
        document.line_of(path)
        for path in (("a",), ("a", "b", 1, "c"), ("a", "b", 1, "x"), ("nothing",))
    ] == [2, 5, 5, 2]


def test_text_that_only_looks_like_a_number_is_an_error() -> None:
    """The pattern of YAML accepts text that cannot be converted to a number."""
    for text in ("a: 0x_", "a: " + "9" * 5000):
        _, problems = read_documents("f.yaml", text.encode())
        assert ["is not a number" in problem.message for problem in problems] == [True]


def test_deeply_nested_json_is_rejected() -> None:
    """It is rejected before any function recurses into it."""
    _, problems = read_documents("f.json", ('{"a":' * 600 + "1" + "}" * 600).encode())
    assert [problem.message for problem in problems] == ["nested deeper than 100 levels"]


def test_a_message_shows_only_the_beginning_of_a_long_line() -> None:
    (problem,) = read("a: " + "9" * 5000)[1]
    assert len(problem) < 400


def test_numbers_in_json_have_the_same_bounds_as_in_yaml() -> None:
    assert read('{"a": 18446744073709551616, "b": -1}') == ([{"a": 2.0**64, "b": -1}], [])


@pytest.mark.parametrize(("levels", "is_too_deep"), [(100, False), (101, True)])
@pytest.mark.parametrize("text", ["[", '{"a":'], ids=["list", "mapping"])
def test_json_has_the_same_maximum_depth_as_yaml(text: str, levels: int, is_too_deep: bool) -> None:
    _, problems = read(
        text * levels + ("" if text == "[" else "1") + ("]" if text == "[" else "}") * levels
    )
    assert bool(problems) == is_too_deep


def test_concatenated_files_are_read() -> None:
    """A byte order mark before a later document, as in files from Windows, is ignored."""
    documents, problems = read_documents(
        "m.yaml",
        b'\xef\xbb\xbfa: 1\r\n---\r\n\xef\xbb\xbfb: 2\r\nd: 3\r\n---\r\nc: "\xef\xbb\xbf"\r\n',
    )
    assert [document.value for document in documents] == [
        {"a": 1},
        {"b": 2, "d": 3},
        {"c": "\ufeff"},
    ]
    assert problems == []


def test_a_stream_of_json_objects_is_read() -> None:
    """As `jq -c ".items[]"` prints objects and kubectl reads them; each has its own line."""
    documents, problems = read_documents("m.json", b'{"a": 1}{"b": 2}\n\n{\n  "c":\n 3}\n')
    assert [(document.value, document.first_line) for document in documents] == [
        ({"a": 1}, 1),
        ({"b": 2}, 1),
        ({"c": 3}, 3),
    ]
    assert documents[2].line_of(("c",)) == 4
    assert problems == []
    _, (problem,) = read_documents("m.json", b'{"a": 1}\n{"b": 2\n')
    assert problem.line in (2, 3)
