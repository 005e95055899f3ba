"""Entry point of the process that runs a command for `Lab` (process.py starts it)."""

from __future__ import annotations

import json
import os
import sys
from functools import partial

from kubenetlab import cli, errors
from kubenetlab.api.json_types import JsonObject
from kubenetlab.errors import KubenetlabError, ManifestError


def main() -> None:
    """Run the command that `sys.argv` names, and exit.

    The first argument is the descriptor of the file to which an error is written.
    """
    fd = int(sys.argv.pop(1))
    os.set_inheritable(fd, False)  # programs of `exec` must not have it
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
