"""schema: what manifests may hold, in the form that editors read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from kubenetlab.cli.completion import candidates
from kubenetlab.cli.modes import FAMILIES
from kubenetlab.cli.screen import data

if TYPE_CHECKING:
    from kubenetlab.api.meta import Resource


def schema(
    kind: Annotated[
        str | None,
        typer.Argument(
            metavar="KIND",
            help="One kind alone; by default any document.",
            show_default=False,
            autocompletion=candidates("readable_kinds"),
        ),
    ] = None,
) -> None:
    """Print the JSON Schema of what manifests may hold, for editors. Example: kubenetlab schema cluster

    An editor with the YAML language server takes it from a file's first line: # yaml-language-server: $schema=lab.schema.json
    """
    from kubenetlab.api.schema import schema_of_documents, schema_of_kind

    data(schema_of_documents(_modes()) if kind is None else schema_of_kind(_read_kind(kind), _modes()), "json")


def _read_kind(word: str) -> type[Resource]:
    """The kind that a word names, as for `get`. Raises UsageError for what no manifest may hold, or what has no schema."""
    from kubenetlab.api.kinds import WRITABLE, find_kind
    from kubenetlab.errors import UsageError, did_you_mean

    kind = find_kind(word)
    if kind in WRITABLE:
        return kind
    known = [each.kind.lower() for each in WRITABLE]
    fault = f"the lab makes its {kind.plural} itself and reads none" if kind else f'there is no kind "{word}"{did_you_mean(word, known)}'
    raise UsageError(f"schema: {fault}\n  read: {', '.join(known)}; others are kept as they are")


def _modes() -> dict[str, dict[str, Any]]:
    """Field of `networking` → name of a mode → its options."""
    from kubenetlab.datapath.modes import known, load

    families: list[tuple[Any, str]] = [(family, field.rpartition(".")[2]) for family, field, _ in FAMILIES]
    return {field: {name: type(load(family, name, {})) for name in known(family)} for family, field in families}
