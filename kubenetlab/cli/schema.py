"""schema: what manifests may hold, and what commands print, as JSON Schema."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from kubenetlab.cli.input.completion import candidates
from kubenetlab.cli.terminal.printing import print_data

if TYPE_CHECKING:
    from kubenetlab.api.meta import Resource


def schema(
    kind: Annotated[
        str | None,
        typer.Argument(
            metavar="KIND",
            help="One kind alone, or an output such as output/check; by default any document.",
            show_default=False,
            autocompletion=candidates("manifest_kinds"),
        ),
    ] = None,
) -> None:
    """Print the JSON Schema of what manifests may hold, for editors. Example: kubenetlab schema cluster

    With output/NAME it is that of what a command prints with -o json: output/list, output/check, output/ping and others. An editor with the YAML language server takes it from a file's first line: # yaml-language-server: $schema=lab.schema.json
    """
    from kubenetlab.api.schema import schema_of_documents, schema_of_kind

    if kind is not None and kind.startswith("output"):
        print_data(_of_output(kind.partition("/")[2]), "json")
        return
    print_data(
        schema_of_documents(_modes())
        if kind is None
        else schema_of_kind(_read_kind(kind), _modes()),
        "json",
    )


def _of_output(name: str) -> dict[str, Any]:
    """Return the schema of what a command prints. Raises UsageError for an unknown name."""
    from kubenetlab.cli.terminal.output_schemas import OUTPUTS, schema_of
    from kubenetlab.errors import UsageError, did_you_mean

    if name not in OUTPUTS:
        guess = did_you_mean(name, OUTPUTS) if name else ""
        raise UsageError(f"schema: wanted output/ and one of {', '.join(OUTPUTS)}{guess}")
    return schema_of(name)


def _read_kind(word: str) -> type[Resource]:
    """The kind that a word names, as for `get`. Raises UsageError for what no manifest may hold, or what has no schema."""
    from kubenetlab.api.kinds import WRITABLE, find_kind
    from kubenetlab.errors import UsageError, did_you_mean

    kind = find_kind(word)
    if kind in WRITABLE:
        return kind
    known = [each.kind.lower() for each in WRITABLE]
    fault = (
        f"the lab makes its {kind.plural} itself and reads none"
        if kind
        else f'there is no kind "{word}"{did_you_mean(word, known)}'
    )
    raise UsageError(f"schema: {fault}\n  read: {', '.join(known)}; others are kept as they are")


def _modes() -> dict[str, dict[str, Any]]:
    """Field of `networking` → name of a mode → its options."""
    from kubenetlab.datapath.modes import FAMILIES, known, load

    return {
        family.field: {name: type(load(family.name, name, {})) for name in known(family.name)}
        for family in FAMILIES.values()
    }
