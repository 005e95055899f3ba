"""Command in a fork of the command server: its error is written to a file, for `Lab`."""

from __future__ import annotations

import json
import os
from functools import partial

from kubenetlab import cli, errors
from kubenetlab.api.json_types import JsonObject
from kubenetlab.errors import KubenetlabError, ManifestError


def run(fd: int) -> None:
    """Run the command that `sys.argv` names, and exit.

    fd: descriptor of the file to which an error is written.
    """
    cli.main(partial(write_error, fd))


def write_error(fd: int, error: Exception, is_debug: bool) -> None:
    """Write an error to a file, as JSON that `process.read_error` reads."""
    os.write(fd, json.dumps(_record(error)).encode())


def _record(error: Exception) -> JsonObject:
    """Return the narrowest public type of an error, and the arguments to create it again."""
    type_ = next(
        (base for base in type(error).__mro__ if getattr(errors, base.__name__, None) is base),
        KubenetlabError,
    )
    record: JsonObject = {"type": type_.__name__, "message": str(Exception.__str__(error))}
    if isinstance(error, ManifestError):
        import msgspec

        record["problems"] = msgspec.to_builtins(error.problems)
    return record
