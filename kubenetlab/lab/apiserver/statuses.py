"""Responses of the API: JSON, Status objects for failures, and warnings in the header `Warning`.

Source: kubernetes.io/docs/reference/using-api/api-concepts; RFC 7234 §5.5 (299: miscellaneous
persistent warning).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Final, TypeVar

import msgspec
from msgspec import structs

from kubenetlab.api.text.decode import found
from kubenetlab.lab.store.readable import FAILURES
from kubenetlab.lab.transport.http import Answer, FdReply
from kubenetlab.programs.support.http import Request, Response

T = TypeVar("T")
_WARNING: Final = re.compile(r'299 - "([^"]*)"')


class ApiFaultError(Exception):
    """Error that the API answers with a Status of failure."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason = code, reason

    @property
    def response(self) -> Response:
        """The response to the request that caused the error."""
        status = {
            "apiVersion": "v1",
            "kind": "Status",
            "status": "Failure",
            "code": self.code,
            "reason": self.reason,
            "message": str(self),
        }
        return json_response(status, self.code)


def json_response(body: object, code: int = 200) -> Response:
    """Return a response with a JSON body."""
    return Response(code, msgspec.json.encode(body), "application/json")


def body_of(request: Request, type_: type[T]) -> T:
    """Decode the body of a request as a value of `type_`.

    Raises ApiFaultError (400), which names the invalid field.
    """
    try:
        value = msgspec.json.decode(request.body, type=type_)
    except FAILURES as error:
        problem, _, field = str(error).partition(" - at ")
        path = field.strip("`").removeprefix("$").removeprefix(".")
        message = f"the request's body{f', {path}' if path else ''}: {problem}"
        raise ApiFaultError(400, "BadRequest", message) from None
    return value


def number_of(request: Request, name: str, default: float | None = None) -> float | None:
    """Return a query parameter that is a finite number of at least 0; `default` if it is missing.

    Raises ApiFaultError (400) for any other value.
    """
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


def is_enabled(request: Request, name: str) -> bool:
    """Return True if a query parameter is `true` or `1`."""
    return request.query.get(name) in ("true", "1")


def with_warnings(answer: Answer, warnings: Iterable[str]) -> Answer:
    """Return a copy of an answer with warnings added to its header `Warning`."""
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
