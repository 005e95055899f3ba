"""Failures and warnings as Kubernetes' API answers them: Status objects, and the header `Warning`.

Source: kubernetes.io/docs/reference/using-api/api-concepts; RFC 7234 §5.5 (299: miscellaneous persistent warning).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Final, TypeVar

import msgspec
from msgspec import structs

from kubenetlab.api.decode import found
from kubenetlab.lab.store.readable import FAILURES
from kubenetlab.lab.transport.http import Answer, FdReply
from kubenetlab.programs.http import Request, Response

T = TypeVar("T")
_WARNING: Final = re.compile(r'299 - "([^"]*)"')


class ApiFaultError(Exception):
    """A request that is answered with a Status of failure."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason = code, reason

    @property
    def response(self) -> Response:
        """The answer to the request."""
        status = {
            "apiVersion": "v1",
            "kind": "Status",
            "status": "Failure",
            "code": self.code,
            "reason": self.reason,
            "message": str(self),
        }
        return Response(self.code, msgspec.json.encode(status), "application/json")


def body_of(request: Request, type_: type[T]) -> T:
    """Return a request's body as a value of a type. Raises ApiFaultError (400), naming the field, for anything else."""
    try:
        value = msgspec.json.decode(request.body, type=type_)
    except FAILURES as error:
        fault, _, field = str(error).partition(" - at ")
        where = field.strip("`").removeprefix("$").removeprefix(".")
        message = f"the request's body{f', {where}' if where else ''}: {fault}"
        raise ApiFaultError(400, "BadRequest", message) from None
    return value


def number_of(request: Request, name: str, default: float | None = None) -> float | None:
    """Return a parameter of a request that is a number from 0 up. Raises ApiFaultError (400) for another value."""
    text = request.query.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise ApiFaultError(
            400, "BadRequest", f"{name}: expected a number of at least 0, found {found(text)}"
        )
    return value


def with_warnings(answer: Answer, warnings: Iterable[str]) -> Answer:
    """Return an answer whose head carries warnings, behind those that it carries already."""
    added = [f'299 - "{text.replace(chr(34), chr(39))}"' for text in warnings]
    if not added:
        return answer
    if isinstance(answer, FdReply):
        return structs.replace(
            answer,
            response=structs.replace(
                answer.response, headers=_warning(answer.response.headers, added)
            ),
        )
    return structs.replace(answer, headers=_warning(answer.headers, added))


def _warning(headers: Mapping[str, str], added: Iterable[str]) -> dict[str, str]:
    former = (headers["Warning"],) if "Warning" in headers else ()
    return {**headers, "Warning": ", ".join((*former, *added))}


def warnings_of(header: str) -> list[str]:
    """Return the texts of a header `Warning`."""
    return _WARNING.findall(header)
