"""Output of commands for programs: data with the version of its schema (output_schemas.py)."""

from __future__ import annotations

from typing import Final

from kubenetlab.api.json_types import JsonMapping
from kubenetlab.cli.terminal.printing import print_data

SCHEMA_VERSION: Final = 1
"""Version of the schemas of all outputs.

Within a version, fields are only added. A field that is removed, renamed or changed needs a new
version. Outputs that are lists have no place for a version: in the next one, they become mappings.
"""


def print_document(document: JsonMapping, output: str) -> None:
    """Print the output of a command as JSON or YAML, with the version of its schema."""
    print_data({"schema_version": SCHEMA_VERSION, **document}, output)
