"""HTTP from inside a place: the whole answer, as a program there gets it."""

from __future__ import annotations

import json
import sys
from typing import Any

from msgspec import Struct, convert

from tests.labs.lab import Lab

_ASKER = """
import http.client, json, sys
address, port, path = sys.argv[1:]
connection = http.client.HTTPConnection(address, int(port), timeout=2)
try:
    connection.request("GET", path)
    answer = connection.getresponse()
    print(json.dumps({"status": answer.status, "headers": {k.lower(): v for k, v in answer.getheaders()}, "body": answer.read().decode()}))
except OSError as error:
    print(json.dumps({"error": type(error).__name__}))
"""


class Said(Struct, frozen=True):
    """An answer, or the kind of error that came in its place."""

    status: int = 0
    headers: dict[str, str] = {}
    body: str = ""
    error: str = ""

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(lab: Lab, place: Any, address: str, port: int, path: str = "/") -> Said:
    """A GET from the network of a place of `inspect`."""
    return convert(
        json.loads(
            lab.inside(place, sys.executable, "-S", "-E", "-c", _ASKER, address, str(port), path)
        ),
        Said,
    )
