"""Fields of the JSON output: within a version of the schemas, none is removed or changed.

`outputs-N.txt` lists all fields of version N with their types.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import pytest
from jsonschema import Draft202012Validator
from msgspec import Struct, to_builtins
from msgspec.structs import fields as msgspec_fields

from kubenetlab.cli.terminal.output_documents import SCHEMA_VERSION
from kubenetlab.cli.terminal.output_schemas import OUTPUTS, schema_of
from kubenetlab.lab.overview import LabSummary
from kubenetlab.library import results
from kubenetlab.library.policy_explanation import PolicyExplanation
from kubenetlab.library.results import CheckResult, PingMatrix, PingResult, PingSeries

RECORDED = Path(__file__).with_name(f"outputs-{SCHEMA_VERSION}.txt")


def fields(schema: dict[str, Any], path: str) -> Iterator[str]:
    """Yield one line for each field of a schema: path, type, and `optional`."""
    for name, value in schema.get("properties", {}).items():
        type_ = value.get("const", value.get("type", "any"))
        types = " or ".join(type_) if isinstance(type_, list) else str(type_)
        optional = "" if name in schema["required"] else ", optional"
        yield f"{path}.{name}: {types}{optional}"
        yield from fields(value, f"{path}.{name}")
    if isinstance(schema.get("items"), dict):
        yield from fields(schema["items"], f"{path}[]")


def current() -> list[str]:
    return [line for name in OUTPUTS for line in fields(schema_of(name), name)]


def test_no_field_is_removed_or_changed_within_a_version() -> None:
    """Such a change needs a new SCHEMA_VERSION, and a new file of this name."""
    assert [line for line in RECORDED.read_text().splitlines() if line not in current()] == []


def test_new_fields_are_recorded() -> None:
    """Add the lines of this message to the file: from now on the fields stay."""
    assert [line for line in current() if line not in RECORDED.read_text().splitlines()] == []


@pytest.mark.parametrize("name", OUTPUTS)
def test_output_of_a_later_version_matches_the_schema(name: str) -> None:
    """A program can validate with the schema of the version that it was written for."""
    schema = schema_of(name)

    def closed(value: Any) -> Iterator[Any]:
        if isinstance(value, dict):
            if value.get("additionalProperties") is False:
                yield value
            for inner in value.values():
                yield from closed(inner)

    assert list(closed(schema)) == []
    assert list(closed(schema_of(name, allows_more=False)))


def test_a_document_of_another_version_does_not_match() -> None:
    """A program that validates its input notices the change."""
    validator = Draft202012Validator(schema_of("inspect-place"))
    place: dict[str, Any] = {"name": "node:worker", "netns": None, "rules": ""}
    place |= {"objects": [], "foreign": []}
    assert validator.is_valid({"schema_version": SCHEMA_VERSION, **place, "new": 1})
    assert not validator.is_valid({"schema_version": SCHEMA_VERSION + 1, **place})
    assert not validator.is_valid(place)


@pytest.mark.parametrize(
    ("name", "type_"),
    [
        ("ping", PingResult),
        ("ping-count", PingSeries),
        ("ping-matrix", PingMatrix),
        ("check", CheckResult),
        ("explain-policy", PolicyExplanation),
    ],
)
def test_the_results_in_python_have_the_fields_of_the_schema(
    name: str, type_: type[Struct]
) -> None:
    """And require none that the schema does not require."""
    assert results.SCHEMA_VERSION == SCHEMA_VERSION
    assert list(different(type_, schema_of(name), name)) == []


def different(type_: type[Struct], schema: dict[str, Any], path: str) -> Iterator[str]:
    """Yield the fields that only a struct or only a schema has, or that only a struct requires."""
    fields = {field.encode_name: field for field in msgspec_fields(type_)}
    names = set(schema["properties"]) - {"schema_version"}
    yield from (f"{path}.{name}" for name in sorted(names ^ set(fields)))
    for name in sorted(names & set(fields)):
        if fields[name].required and name not in schema["required"]:
            yield f"{path}.{name}: required"
        items = schema["properties"][name].get("items")
        if isinstance(own := fields[name].type, type) and issubclass(own, Struct):
            yield from different(own, schema["properties"][name], f"{path}.{name}")
        for inner in get_args(fields[name].type):
            if items and isinstance(inner, type) and issubclass(inner, Struct):
                yield from different(inner, items, f"{path}.{name}[]")


@pytest.mark.parametrize("state", ["no answer", "private"])
def test_a_lab_about_which_nothing_is_known_fits_the_schema(
    state: Literal["no answer", "private"],
) -> None:
    """Its agent does not answer, or it belongs to another user."""
    lab = to_builtins(LabSummary("demo", "root", state, 1, 0.5, 9, 4096))
    validator = Draft202012Validator(schema_of("list", allows_more=False))
    assert [error.message for error in validator.iter_errors([lab])] == []
