"""HTTP requests from the network of a place, with the whole response."""

from __future__ import annotations

import json
import sys
from typing import Any

from msgspec import Struct, convert

from tests.labs.lab import Lab

_REQUEST = """
import http.client, json, sys
address, port, path = sys.argv[1:]
connection = http.client.HTTPConnection(address, int(port), timeout=2)
try:
    connection.request("GET", path)
    answer = connection.getresponse()
    headers = {name.lower(): value for name, value in answer.getheaders()}
    body = answer.read().decode()
    print(json.dumps({"status": answer.status, "headers": headers, "body": body}))
except OSError as error:
    print(json.dumps({"error": type(error).__name__}))
"""


class HttpReply(Struct, frozen=True):
    """A response, or the kind of the error that occurred instead."""

    status: int = 0
    headers: dict[str, str] = {}
    body: str = ""
    error: str = ""

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def http_get(lab: Lab, place: Any, address: str, port: int, path: str = "/") -> HttpReply:
    """Send a GET request from the network of a place of `inspect`."""
    return convert(
        json.loads(
            lab.inside(place, sys.executable, "-S", "-E", "-c", _REQUEST, address, str(port), path)
        ),
        HttpReply,
    )
