"""Client of a lab's API, which commands use over its Unix socket.

A refused connection means that the lab is dead. The kernel reports the pid of the process that
created the socket, the lab's init, as seen in the caller's PID namespace: there is no pid file, and
no race.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import quote

from msgspec import Struct

from kubenetlab.api.json_types import JsonMapping, JsonObject, JsonValue
from kubenetlab.errors import LabError, did_you_mean
from kubenetlab.lab import cleanup, rundir
from kubenetlab.lab.paths import LAB_API

if TYPE_CHECKING:
    from kubenetlab.lab.transport.exchange import Exchange
    from kubenetlab.observe.inspection import InspectedFault, Inspection
    from kubenetlab.programs.support.http import Response

ATTEMPTS = 5
"""Number of attempts per request: an agent that dies takes its connections with it."""
DOWN_TIMEOUT_S = 1.0
"""Time allowed for init to exit after SIGKILL, in seconds."""
REPLY_TIMEOUT_S = 30.0
"""Time after which an agent is considered to hang: far longer than any request takes."""
_MAX_FDS = 8
_RECEIVE_BYTES = 256 * 1024


class ApiError(LabError):
    """Failure that the lab's API reported, as a Status object."""

    def __init__(self, status: JsonMapping) -> None:
        self.status = status
        self.code = int(status.get("code", 500))
        super().__init__(str(status.get("message", "the lab's API refused")))


class Reply(Struct, frozen=True):
    """Response with its decoded body, and the descriptors that came with it."""

    status: int
    body: JsonValue
    fds: tuple[int, ...] = ()


class Client:
    """Client of one lab. Its methods raise LabError if the lab is not up."""

    def __init__(
        self,
        lab: str,
        timeout_s: float = REPLY_TIMEOUT_S,
        on_warning: Callable[[str], None] | None = None,
    ) -> None:
        """Create a client without connecting.

        on_warning: called with each warning that the API sends; without it, every distinct warning
        is printed once to standard error.
        """
        self.lab = lab
        self._timeout_s = timeout_s
        self._on_warning = on_warning or _print_once
        self._path = str(rundir.run_directory(lab) / rundir.API_SOCKET)

    @property
    def init_pid(self) -> int:
        """Pid of the lab's init, in this process's PID namespace."""
        with self._connect() as connection:
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return int(struct.unpack("iii", credentials)[0])

    def open_init(self) -> int:
        """Open a pidfd of the lab's init, which the caller closes.

        The pid may have been reused before it is opened. It is read from the socket once more
        afterwards: as long as the same init holds the socket, the pid was not reused.

        Raises LabError if the lab is not up.
        """
        pid = self.init_pid
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            raise LabError(
                f"lab {self.lab} has just ended; list the labs that are up with: kubenetlab list"
            ) from None
        try:
            if self.init_pid != pid:
                raise LabError(f"lab {self.lab} has just been created anew; try again")
        except LabError:
            os.close(pidfd)
            raise
        return pidfd

    def get(self, path: str, **query: str) -> JsonValue:
        """Return the decoded body of a GET request."""
        return self.request("GET", path, query=query).body

    def inspect(self) -> Inspection:
        """Return everything that runs, as `inspect -o json` shows it."""
        inspection: Inspection = self.get(f"{LAB_API}/inspect")
        return inspection

    def faults(self) -> list[InspectedFault]:
        """Return the faults that were created with `break`, as `inspect -o json` shows them."""
        return [
            {
                "name": item["metadata"]["name"],
                "fault": item["spec"]["fault"],
                "summary": item["spec"]["summary"],
            }
            for item in self.get(f"{LAB_API}/faults")["items"]
        ]

    def diagnostics(self) -> list[JsonObject]:
        """Return misconfigurations and objects without effect, as plain data (diagnostics/)."""
        items: list[JsonObject] = self.get(f"{LAB_API}/diagnostics")["items"]
        return items

    def given_documents(self) -> list[JsonObject]:
        """Return the documents of kinds that the lab stores without modelling them."""
        items: list[JsonObject] = self.get(f"{LAB_API}/given")["items"]
        return items

    def enter(self, sandbox: str, container: str = "") -> Reply:
        """Return what a process needs to join a sandbox, or one of its containers.

        The reply holds a pidfd of the pause process, which the caller closes, and the contents of
        the sandbox's files.
        """
        return self.request(
            "GET", f"{LAB_API}/enter", query={"netns": sandbox, "container": container}
        )

    def text(self, path: str, **query: str) -> str:
        """Return the body of a GET request as text."""
        return str(self.request("GET", path, query=query).body or "")

    def post(self, path: str, body: object = None, **query: str) -> JsonValue:
        """Return the decoded body of a POST request."""
        return self.request("POST", path, body, query=query).body

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Reply:
        """Send a request and return the reply; repeat it if the agent dies before it answers.

        Every attempt carries the same id, so that the API makes a change only once.
        Raises ApiError if the API reports a failure, LabError if it does not answer.
        """
        from kubenetlab.lab.transport.exchange import Exchange

        target = path + (
            "?" + "&".join(f"{name}={quote(value, safe='')}" for name, value in query.items())
            if query
            else ""
        )
        data = b"" if body is None else json.dumps(body).encode()
        headers = {"Content-Type": content_type, "X-Request-Id": os.urandom(8).hex()}
        for attempt in range(ATTEMPTS):
            exchange = Exchange(method, target, headers, data)
            try:
                fds = self._exchange(exchange)
            except (ConnectionError, TimeoutError) as error:
                if attempt == ATTEMPTS - 1 or isinstance(error, TimeoutError):
                    log = rundir.run_directory(self.lab) / rundir.LOG
                    raise LabError(f"lab {self.lab} does not answer; see {log}") from None
                continue
            self._warn(exchange.headers)
            return _reply(exchange.response, fds)
        raise AssertionError

    def stream(
        self, path: str, deadline: float | None = None, /, **query: str
    ) -> Iterator[JsonValue]:
        """Yield the JSON lines of a streamed response; end with the response or with the lab.

        deadline: time of `time.monotonic()` at which to end at the latest.
        """
        buffer = b""
        for piece in self.stream_parts(path, deadline, **query):
            *lines, buffer = (buffer + piece).split(b"\n")
            yield from (json.loads(line) for line in lines if line)

    def stream_parts(
        self, path: str, deadline: float | None = None, /, **query: str
    ) -> Iterator[bytes]:
        """Yield the parts of a streamed response; end with the response or with the lab.

        deadline: time of `time.monotonic()` at which to end at the latest.
        """
        from kubenetlab.lab.transport.exchange import Exchange
        from kubenetlab.programs.support.http import Response

        target = path + (
            "?" + "&".join(f"{name}={quote(value, safe='')}" for name, value in query.items())
            if query
            else ""
        )
        exchange = Exchange("GET", target, {}, is_stream=True)
        refusal = b""
        with self._connect() as connection:
            with suppress(ConnectionError):  # the first `recv` reports it as well
                connection.sendall(exchange.request_bytes)
            while not exchange.is_complete:
                if deadline is not None:
                    if (left_s := deadline - time.monotonic()) <= 0:
                        return
                    connection.settimeout(left_s)
                try:
                    piece = exchange.feed(connection.recv(_RECEIVE_BYTES))
                except (ConnectionError, TimeoutError):
                    return
                if exchange.status >= 400:
                    refusal += piece
                elif piece:
                    yield piece
        self._warn(exchange.headers)
        if exchange.status >= 400:
            _reply(Response(exchange.status, refusal, exchange.headers.get("content-type", "")), ())

    def _warn(self, headers: Mapping[str, str]) -> None:
        """Pass the warnings in the headers of a response to `on_warning`."""
        if "warning" in headers:
            from kubenetlab.lab.apiserver.statuses import warnings_of

            for text in warnings_of(headers["warning"]):
                self._on_warning(text)

    def kill(self) -> bool:
        """Kill init, and with it the whole lab; return False if the lab was dead already."""
        try:
            init = self.open_init()
        except LabError:
            return False
        try:
            signal.pidfd_send_signal(init, signal.SIGKILL)
            # Init cannot finish exiting until a stopped `shell` command reaps its child process.
            # All other processes of the lab have exited by the end of the timeout.
            select.select([init], [], [], DOWN_TIMEOUT_S)
        except ProcessLookupError:
            pass
        finally:
            os.close(init)
        return True

    def _exchange(self, exchange: Exchange) -> tuple[int, ...]:
        fds: list[int] = []
        with self._connect() as connection:
            connection.settimeout(self._timeout_s)
            connection.sendall(exchange.request_bytes)
            while not exchange.is_complete:
                data, received_fds, *_ = socket.recv_fds(connection, _RECEIVE_BYTES, _MAX_FDS)
                fds += received_fds
                exchange.feed(data)
        return tuple(fds)

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(self._path)
        except OSError:
            connection.close()
            raise LabError(f"no lab {self.lab} is up{_suggestion(self.lab)}") from None
        return connection


def running_labs() -> list[str]:
    """Return the names of all labs that are up, and remove the remains of the dead ones."""
    known = {name: rundir.is_alive(name) for name in rundir.lab_names()}
    cleanup.remove_remains([name for name, is_alive in known.items() if not is_alive])
    return [name for name, is_alive in known.items() if is_alive]


def select_lab(lab: str | None) -> Client:
    """Return a client of the named lab, or of the only lab that is up.

    Raises LabError if the lab is not up, or if no name is given and not exactly one lab is up.
    """
    if lab is not None:
        client = Client(lab)
        client._connect().close()
        return client
    if (only := only_running()) is None:
        raise LabError("no lab is up; create one with: kubenetlab up")
    return Client(only)


def only_running() -> str | None:
    """Return the only lab that is up, or None. Raises LabError if several labs are up."""
    labs = running_labs()
    if len(labs) > 1:
        raise LabError(f"several labs are up: {', '.join(labs)}; choose one with --lab NAME")
    return labs[0] if labs else None


def _suggestion(lab: str) -> str:
    """Return the end of an error message: the labs that are up, or how to create one."""
    labs = running_labs()
    return (
        f"; up {'is' if len(labs) == 1 else 'are'}: {', '.join(labs)}{did_you_mean(lab, labs)}"
        if labs
        else f"; create it with: kubenetlab up --lab {lab}"
    )


@cache
def _print_once(warning: str) -> None:
    print(f"warning: {warning}", file=sys.stderr, flush=True)


def _reply(response: Response, fds: tuple[int, ...]) -> Reply:
    is_json = response.content_type.startswith("application/json")
    body = (
        json.loads(response.body)
        if is_json and response.body
        else response.body.decode(errors="replace")
    )
    if response.status >= 400:
        raise ApiError(
            body if isinstance(body, dict) else {"code": response.status, "message": body.strip()}
        )
    return Reply(response.status, body, fds)
