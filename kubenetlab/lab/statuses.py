"""Failures and warnings as Kubernetes' API answers them: Status objects, and the header `Warning`.

Source: kubernetes.io/docs/reference/using-api/api-concepts; RFC 7234 §5.5 (299: miscellaneous persistent warning).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import msgspec
from msgspec import structs

from kubenetlab.lab.http import Answer, Handover
from kubenetlab.programs.http import Response

_WARNING: Final = re.compile(r'299 - "([^"]*)"')


class ApiFaultError(Exception):
    """A request that is answered with a Status of failure."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason = code, reason

    @property
    def response(self) -> Response:
        """The answer to the request."""
        status = {"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": self.code, "reason": self.reason, "message": str(self)}
        return Response(self.code, msgspec.json.encode(status), "application/json")


def with_warnings(answer: Answer, warnings: Iterable[str]) -> Answer:
    """Return an answer whose head carries warnings, too."""
    header = ", ".join(f'299 - "{text.replace(chr(34), chr(39))}"' for text in warnings)
    if not header:
        return answer
    if isinstance(answer, Handover):
        return structs.replace(answer, response=structs.replace(answer.response, headers={**answer.response.headers, "Warning": header}))
    headers = {**answer.headers, "Warning": header}
    return structs.replace(answer, headers=headers)


def warnings_of(header: str) -> list[str]:
    """Return the texts of a header `Warning`."""
    return _WARNING.findall(header)
