"""agnhost netexec: says who it is and whom it sees, dials others, exits when told.

Paths: `/` (and every path that is not listed) `/hostname` `/clientip` `/header?key=` `/echo?msg=&code=` `/healthz` `/readyz`
`/exit?code=&wait=&timeout=` `/shutdown` `/dial?host=&port=&request=&protocol=&tries=` `/redirect?location=&code=`. Datagrams, and
messages by SCTP: `hostname`, `clientip`, `echo TEXT`. There is no `/shell` and no `/upload`: they answer 501.
Source: kubernetes test/images/agnhost/netexec/netexec.go (1.33); the texts of answers and errors follow it.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qs, quote, urlsplit

from msgspec import structs

from kubenetlab.api.containers import Container
from kubenetlab.api.durations import duration_s
from kubenetlab.api.ip import is_address
from kubenetlab.hoststate.programs import ListenPort
from kubenetlab.names import socket_address
from kubenetlab.programs import DELAY_SHUTDOWN, Setup
from kubenetlab.programs.arguments import misused, options, port_number
from kubenetlab.programs.http import Peer, PodIdentity, Request, Response, text
from kubenetlab.programs.tls import TLS, tls_option

OPTIONS: Final = frozenset(
    (
        "http-port",
        "udp-port",
        "sctp-port",
        "udp-listen-addresses",
        "http-override",
        "delay-shutdown",
        "tls-cert-file",
        "tls-private-key-file",
    )
)
"""The flags that are modelled."""

DIAL_TIMEOUT_S = 5.0
MAX_TRIES = 1000
_NOT_MODELLED: Final = ("/shell", "/upload")
_FORM_TYPE: Final = "application/x-www-form-urlencoded"


def configure_arguments(words: tuple[str, ...], container: Container) -> Setup:
    """Return the setup for the arguments behind `netexec`.

    HTTP on 8080 and UDP on 8081 unless they say otherwise; -1 switches UDP and SCTP off.
    """
    given = options(words)
    addresses = [part for part in given.get("udp-listen-addresses", "").split(",") if part]
    if wrong := next((address for address in addresses if not is_address(address)), ""):
        return misused(f"parseAddress: invalid address {wrong}")
    try:
        delay_s = int(given.get("delay-shutdown", "0"))
    except ValueError:
        return misused(f'invalid argument "{given["delay-shutdown"]}" for "--delay-shutdown" flag')
    try:
        http = port_number(given.get("http-port", "8080"))
        udp = port_number(given.get("udp-port", "8081"), least=-1)
        sctp = port_number(given.get("sctp-port", "-1"), least=-1)
    except ValueError as error:
        return misused(str(error))
    ports = (
        ListenPort("TCP", http),
        *(ListenPort("UDP", udp, address) for address in sorted(set(addresses)) or ("",)),
        ListenPort("SCTP", sctp),
    )
    listeners = tuple(listener for listener in ports if listener.port > 0)
    chosen: dict[str, Any] = {DELAY_SHUTDOWN: delay_s} if delay_s > 0 else {}
    if override := given.get("http-override", ""):
        chosen["http_override"] = override
    if certificate := given.get("tls-cert-file", ""):
        chosen[TLS] = tls_option(certificate, given.get("tls-private-key-file", ""), container)
    if len(listeners) == 1:
        chosen["is_unready"] = True
    return Setup("netexec", chosen, listeners)


async def http(request: Request, me: PodIdentity) -> Response:
    """Answer a request; with --http-override as if it were another one, of nobody and without headers."""
    if override := me.options.get("http_override"):
        request = structs.replace(
            request, method="GET", target=override, peer=("", 0), headers={}, body=b""
        )
    values = _form(request)
    match request.path:
        case "/hostname" | "/hostName":
            return text(me.hostname)
        case "/clientip":
            return text(socket_address(*request.peer) if request.peer[0] else "")
        case "/header":
            return text(_header(request, values.get("key", "")))
        case "/echo":
            return _echo(values)
        case "/healthz":
            return text("", _ready_status(me))
        case "/readyz":
            return (
                text("shutting down", 503)
                if me.is_stopping
                else text("" if me.options.get("is_unready") else "ok", _ready_status(me))
            )
        case "/dial":
            return await _dial(request.query, me)
        case "/exit":
            return _exit(values, me)
        case "/shutdown":
            me.exit(0, 0.0)
            return text("")
        case "/redirect":
            return _redirect(request, values)
        case path if path in _NOT_MODELLED:
            return text(
                f"{path} is not modelled: built-in programs run no commands and keep no files\n",
                501,
            )
    return text(f"NOW: {me.clock()}")  # Go's ServeMux gives "/" whatever no other pattern matches


def datagram(data: bytes, peer: Peer, me: PodIdentity) -> bytes | None:
    """Answer a datagram, whose case does not count; what is not known gets no answer."""
    command = data.decode(errors="replace").strip().lower()
    me.log(f"received {command.partition(' ')[0]} from {socket_address(*peer)} (UDP)")
    if command == "hostname":
        return me.hostname.encode()
    if command == "clientip":
        return socket_address(*peer).encode()
    return command.removeprefix("echo ").encode() if command.startswith("echo ") else None


def _ready_status(me: PodIdentity) -> int:
    """The server calls itself ready when its UDP or SCTP server has started: never, where both are switched off."""
    return 412 if me.options.get("is_unready") else 200


def _form(request: Request) -> Mapping[str, str]:
    """The first value of each parameter, of a form in the body before those of the query."""
    is_form = request.method in ("POST", "PUT", "PATCH") and request.headers.get(
        "content-type", ""
    ).startswith(_FORM_TYPE)
    body = (
        parse_qs(request.body.decode(errors="replace"), keep_blank_values=True) if is_form else {}
    )
    return {**request.query, **{name: values[0] for name, values in body.items()}}


def _header(request: Request, key: str) -> str:
    """One header's value, or all of them as JSON; names as Go writes them, and without Host."""
    if key:
        return request.headers.get(key.lower(), "")
    found = {
        "-".join(part.capitalize() for part in name.split("-")): [value]
        for name, value in request.headers.items()
        if name != "host"
    }
    return json.dumps(dict(sorted(found.items())), separators=(",", ":"))


def _redirect(request: Request, values: Mapping[str, str]) -> Response:
    """Go's http.Redirect: a relative location counts from the request's path."""
    import html  # with the next one 3 ms, for a path that is seldom asked
    from http import HTTPStatus

    location, code = values.get("location", ""), values.get("code", "") or "302"
    if not code.lstrip("-").isdigit():
        return text(f"argument 'code' must be an integer or empty, got \"{code}\"\n")
    parts = urlsplit(location)
    if not (parts.scheme or parts.netloc):
        path, mark, query = (
            location
            if location.startswith("/")
            else posixpath.dirname(request.path) + "/" + location
        ).partition("?")
        clean = "/" + posixpath.normpath(path).lstrip("/")
        location = (f"{clean}/" if path.endswith("/") and clean != "/" else clean) + mark + query
    status = int(code)
    phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else ""
    body = f'<a href="{html.escape(location)}">{phrase}</a>.\n\n' if request.method == "GET" else ""
    quoted = quote(location, safe="%/?#[]@!$&'()*+,;=:~ \"<>\\^`{|}")
    return Response(status, body.encode(), "text/html; charset=utf-8", {"Location": quoted})


def _echo(query: Mapping[str, str]) -> Response:
    code = query.get("code", "")
    if code and not (code.isdigit() and 100 <= int(code) <= 999):
        return text(f"argument 'code' must be an integer or empty, got \"{code}\"\n")
    return text(query.get("msg", ""), int(code) if code else 200)


def _exit(query: Mapping[str, str], me: PodIdentity) -> Response:
    code = query.get("code", "0") or "0"
    for name in ("timeout", "wait"):
        if duration_s(query.get(name, "")) is None:
            return text(
                f"argument '{name}' must be a valid golang duration or empty, got \"{query[name]}\"\n"
            )
    if not code.isdigit() or not 0 <= int(code) <= 127:
        return text(f"argument 'code' must be an integer [0-127] or empty, got \"{code}\"\n")
    me.exit(int(code), duration_s(query.get("wait", "")) or 0.0)
    return text("")


async def _dial(query: Mapping[str, str], me: PodIdentity) -> Response:
    protocol = query.get("protocol", "http").lower() or "http"
    host, port, request, tries = (
        query.get(name, "") for name in ("host", "port", "request", "tries")
    )
    if tries and not (tries.isdigit() and int(tries) <= MAX_TRIES):
        return text(
            f'tries parameter is invalid. strconv.Atoi: parsing "{tries}": invalid syntax\n', 400
        )
    if not request:
        return text("request parameter not specified. <nil>\n", 400)
    if protocol not in ("http", "udp", "sctp"):
        return text(f"unsupported protocol. {protocol}\n", 400)
    try:
        if not port.isdigit() or not 0 < int(port) < 65536:
            raise OSError(f"address {port}: invalid port")
        address = await me.network.resolve(host)
    except OSError as error:
        return text(f"host and/or port param are invalid. {error.strerror or error}\n", 400)
    responses, errors = [], []
    for _ in range(int(tries or 1)):
        try:
            if protocol == "http":
                answer = await me.network.get(address, int(port), f"/{request}", DIAL_TIMEOUT_S)
                responses.append(answer.body.decode(errors="replace"))
            else:
                said = await me.network.exchange(
                    address, int(port), request.encode(), DIAL_TIMEOUT_S, protocol.upper()
                )
                responses.append(said.decode(errors="replace"))
        except OSError as error:
            errors.append(str(error.strerror or error))
    output = {
        **({"responses": responses} if responses else {}),
        **({"errors": errors} if errors else {}),
    }
    return Response(200, json.dumps(output, separators=(",", ":")).encode(), "application/json")
