"""schema: print JSON Schemas of manifests and of the output of commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from kubenetlab.api.json_types import JsonObject
from kubenetlab.cli.input.completion import candidates
from kubenetlab.cli.terminal.printing import print_data

if TYPE_CHECKING:
    from kubenetlab.api.meta import Resource


def schema(
    kind: Annotated[
        str | None,
        typer.Argument(
            metavar="KIND",
            help="A kind, or an output such as output/check. Default: all kinds.",
            show_default=False,
            autocompletion=candidates("manifest_kinds"),
        ),
    ] = None,
) -> None:
    """Print the JSON Schema of manifests, for editors, or of a command's output.

    output/NAME is the schema of the data that a command prints with -o json,
    such as output/list, output/check or output/ping.
    An editor with the YAML language server uses the schema that is named in
    the first line of a file: # yaml-language-server: $schema=lab.schema.json

    Example: kubenetlab schema cluster
    """
    from kubenetlab.api.schema.schema import schema_of_documents, schema_of_kind

    if kind is not None and kind.startswith("output"):
        print_data(_of_output(kind.partition("/")[2]), "json")
        return
    print_data(
        schema_of_documents(mode_options())
        if kind is None
        else schema_of_kind(_read_kind(kind), mode_options()),
        "json",
    )


def _of_output(name: str) -> JsonObject:
    """Return the schema of a command's output. Raises UsageError for an unknown name."""
    from kubenetlab.cli.terminal.output_schemas import OUTPUTS, schema_of
    from kubenetlab.errors import UsageError, did_you_mean

    if name not in OUTPUTS:
        guess = did_you_mean(name, OUTPUTS) if name else ""
        raise UsageError(f"schema: expected output/ and one of {', '.join(OUTPUTS)}{guess}")
    return schema_of(name)


def _read_kind(word: str) -> type[Resource]:
    """Return the kind that a word names, as for `get`.

    Raises UsageError for an unknown kind, and for a kind that manifests cannot contain.
    """
    from kubenetlab.api.kinds import WRITABLE, find_kind
    from kubenetlab.errors import UsageError, did_you_mean

    kind = find_kind(word)
    if kind in WRITABLE:
        return kind
    known = [writable.kind.lower() for writable in WRITABLE]
    problem = (
        f"manifests cannot contain {kind.plural}: the lab creates them itself"
        if kind
        else f'there is no kind "{word}"{did_you_mean(word, known)}'
    )
    raise UsageError(
        f"schema: {problem}\n  kinds: {', '.join(known)}; objects of other kinds have no schema"
    )


def mode_options() -> dict[str, JsonObject]:
    """Return the types of the modes' options, by field of `networking` and name of the mode."""
    from kubenetlab.datapath.modes import FAMILIES, known, load

    return {
        family.field: {name: type(load(family.name, name, {})) for name in known(family.name)}
        for family in FAMILIES.values()
    }
