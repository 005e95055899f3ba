"""The way from a command to a running lab: its API over the Unix socket.

A refused connection means that the lab is dead; the kernel tells who made the socket, and that is the lab's init, in the numbers of
whoever asks: no pid file, no race.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from msgspec import Struct

from kubenetlab.errors import LabError, did_you_mean
from kubenetlab.lab import cleanup, rundir
from kubenetlab.lab.paths import LAB_API

if TYPE_CHECKING:
    from kubenetlab.programs.http import Response

ATTEMPTS = 5
"""A dying agent may take a connection with it: the next one is asked again."""
DOWN_TIMEOUT_S = 1.0
REPLY_TIMEOUT_S = 30.0
"""Far longer than any answer takes: the agent is stopped, or hangs."""
_MAX_FDS = 8
_RECEIVE_BYTES = 256 * 1024


class ApiError(LabError):
    """A Status with `status: Failure`: what the lab's API answered."""

    def __init__(self, status: Mapping[str, Any]) -> None:
        self.status = status
        self.code = int(status.get("code", 500))
        super().__init__(str(status.get("message", "the lab's API refused")))


class Reply(Struct, frozen=True):
    """One answer: its body, decoded, and the descriptors that came with it."""

    status: int
    body: Any
    fds: tuple[int, ...] = ()


class Client:
    """One lab, by name. Raises LabError from its methods when that lab is not up."""

    def __init__(
        self,
        lab: str,
        timeout_s: float = REPLY_TIMEOUT_S,
        on_warning: Callable[[str], None] | None = None,
    ) -> None:
        """`on_warning` gets what users must know of the lab; without it, that is printed to standard error, each sentence once."""
        self.lab = lab
        self._timeout_s = timeout_s
        self._on_warning = on_warning or _print_once
        self._path = str(rundir.of(lab) / rundir.API_SOCKET)

    @property
    def init_pid(self) -> int:
        """The lab's init, in this process's PID namespace."""
        with self._connect() as connection:
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return int(struct.unpack("iii", credentials)[0])

    def open_init(self) -> int:
        """Open a pidfd of the lab's init, which the caller closes.

        Raises LabError when the lab is not up. The socket names a pid, which may be another process's by the time it is opened: only
        where the lab still answers after that, by the same init, has it been the init's all the time.
        """
        pid = self.init_pid
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            raise LabError(
                f"lab {self.lab} has just ended; see what is up with: kubenetlab list"
            ) from None
        try:
            if self.init_pid != pid:
                raise LabError(f"lab {self.lab} has just been made anew; try again")
        except LabError:
            os.close(pidfd)
            raise
        return pidfd

    def get(self, path: str, **query: str) -> Any:
        return self.request("GET", path, query=query).body

    def inspect(self) -> Any:
        """What runs, as `inspect -o json` shows it."""
        return self.get(f"{LAB_API}/inspect")

    def diagnostics(self) -> list[Any]:
        """Return what is not enforced or misconfigured, as plain data (kubenetlab/diagnostics)."""
        found: list[Any] = self.get(f"{LAB_API}/diagnostics")["items"]
        return found

    def given(self) -> list[Any]:
        """The documents as users wrote them."""
        found: list[Any] = self.get(f"{LAB_API}/given")["items"]
        return found

    def enter(self, sandbox: str, container: str = "") -> Reply:
        """What is needed to act in a sandbox, or as one of its containers: descriptors, which the caller closes, and its files."""
        return self.request(
            "GET", f"{LAB_API}/enter", query={"netns": sandbox, "container": container}
        )

    def text(self, path: str, **query: str) -> str:
        """An answer that is no JSON."""
        return str(self.request("GET", path, query=query).body or "")

    def post(self, path: str, body: Any = None, **query: str) -> Any:
        return self.request("POST", path, body, query=query).body

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Reply:
        """Raises ApiError when the API says no. What changes something carries an id, so that to send it again does no harm."""
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
                    raise LabError(
                        f"lab {self.lab} does not answer; see {rundir.of(self.lab) / rundir.LOG}"
                    ) from None
                continue
            self._warn(exchange.headers)
            return _reply(exchange.response, fds)
        raise AssertionError

    def stream(self, path: str, **query: str) -> Iterator[Any]:
        """The JSON lines of an answer that goes on, as they come; ends with the answer or with the lab."""
        buffer = b""
        for piece in self.pieces(path, **query):
            *lines, buffer = (buffer + piece).split(b"\n")
            yield from (json.loads(line) for line in lines if line)

    def pieces(self, path: str, **query: str) -> Iterator[bytes]:
        """An answer that goes on, as it comes; ends with the answer or with the lab."""
        from kubenetlab.lab.transport.exchange import Exchange
        from kubenetlab.programs.http import Response

        target = path + (
            "?" + "&".join(f"{name}={quote(value, safe='')}" for name, value in query.items())
            if query
            else ""
        )
        exchange = Exchange("GET", target, {}, is_stream=True)
        refusal = b""
        with self._connect() as connection:
            connection.sendall(exchange.request_bytes)
            while not exchange.is_complete:
                try:
                    piece = exchange.feed(connection.recv(_RECEIVE_BYTES))
                except ConnectionError:
                    return
                if exchange.status >= 400:
                    refusal += piece
                elif piece:
                    yield piece
        self._warn(exchange.headers)
        if exchange.status >= 400:
            _reply(Response(exchange.status, refusal, exchange.headers.get("content-type", "")), ())

    def _warn(self, headers: Mapping[str, str]) -> None:
        """Hand over the warnings that the API sends along with every answer, each once."""
        if "warning" in headers:
            from kubenetlab.lab.apiserver.statuses import warnings_of

            for text in warnings_of(headers["warning"]):
                self._on_warning(text)

    def kill(self) -> bool:
        """Ends the lab: kills init, and with it everything. False when it was dead already."""
        try:
            init = self.open_init()
        except LabError:
            return False
        try:
            signal.pidfd_send_signal(init, signal.SIGKILL)
            select.select(
                [init], [], [], DOWN_TIMEOUT_S
            )  # a stopped `shell` can hold init in the kernel; all else is gone by then
        except ProcessLookupError:
            pass
        finally:
            os.close(init)
        return True

    def _exchange(self, exchange: Any) -> tuple[int, ...]:
        fds: list[int] = []
        with self._connect() as connection:
            connection.settimeout(self._timeout_s)
            connection.sendall(exchange.request_bytes)
            while not exchange.is_complete:
                data, found, *_ = socket.recv_fds(connection, _RECEIVE_BYTES, _MAX_FDS)
                fds += found
                exchange.feed(data)
        return tuple(fds)

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(self._path)
        except OSError:
            connection.close()
            raise LabError(f"no lab {self.lab} is up{_others(self.lab)}") from None
        return connection


def running() -> list[str]:
    """The names of all labs that are up; links of those that are not any more are cleared away."""
    known = {name: rundir.is_alive(name) for name in rundir.names()}
    cleanup.clear_links([name for name, is_alive in known.items() if not is_alive])
    return [name for name, is_alive in known.items() if is_alive]


def choose(lab: str | None) -> Client:
    """The lab named, or the only one that is up. Raises LabError when there is no such lab, or no telling which is meant."""
    if lab is not None:
        client = Client(lab)
        client._connect().close()
        return client
    if (only := only_running()) is None:
        raise LabError("no lab is up; make one with: kubenetlab up")
    return Client(only)


def only_running() -> str | None:
    """The only lab that is up, or None. Raises LabError when there are several: there is no telling which is meant."""
    labs = running()
    if len(labs) > 1:
        raise LabError(f"several labs are up: {', '.join(labs)}; say which with --lab NAME")
    return labs[0] if labs else None


def _others(lab: str) -> str:
    labs = running()
    return (
        f"; up {'is' if len(labs) == 1 else 'are'}: {', '.join(labs)}{did_you_mean(lab, labs)}"
        if labs
        else "; make one with: kubenetlab up"
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
