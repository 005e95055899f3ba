"""agnhost netexec: reports its hostname and its client, dials other servers, exits on request.

Paths: `/` (and every path that is not listed) `/hostname` `/clientip` `/header?key=`
`/echo?msg=&code=` `/healthz` `/readyz` `/exit?code=&wait=&timeout=` `/shutdown`
`/dial?host=&port=&request=&protocol=&tries=` `/redirect?location=&code=`. Datagrams, and messages
over SCTP: `hostname`, `clientip`, `echo TEXT`. `/shell` and `/upload` answer 501.
Source: kubernetes test/images/agnhost/netexec/netexec.go (1.33); the texts of answers and errors
follow it.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import parse_qs, quote, urlsplit

from msgspec import structs

from kubenetlab.api.containers import Container
from kubenetlab.api.values.durations import duration_s
from kubenetlab.api.values.ip import is_address
from kubenetlab.hoststate.programs import ListenPort, ProgramOptions
from kubenetlab.names import socket_address
from kubenetlab.programs import DELAY_SHUTDOWN, Setup
from kubenetlab.programs.support.arguments import misused, options, port_number
from kubenetlab.programs.support.http import Peer, ProgramContext, Request, Response, text
from kubenetlab.programs.support.tls import TLS, tls_option

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
"""Modelled flags."""

DIAL_TIMEOUT_S = 5.0
MAX_TRIES = 1000
_FORM_TYPE: Final = "application/x-www-form-urlencoded"


def configure_arguments(words: tuple[str, ...], container: Container) -> Setup:
    """Return the setup for the arguments after `netexec`.

    HTTP listens on 8080 and UDP on 8081 by default; -1 switches UDP and SCTP off.
    """
    flags = options(words)
    addresses = [part for part in flags.get("udp-listen-addresses", "").split(",") if part]
    if invalid := next((address for address in addresses if not is_address(address)), ""):
        return misused(f"parseAddress: invalid address {invalid}")
    try:
        delay_s = int(flags.get("delay-shutdown", "0"))
    except ValueError:
        return misused(f'invalid argument "{flags["delay-shutdown"]}" for "--delay-shutdown" flag')
    try:
        http = port_number(flags.get("http-port", "8080"))
        udp = port_number(flags.get("udp-port", "8081"), least=-1)
        sctp = port_number(flags.get("sctp-port", "-1"), least=-1)
    except ValueError as error:
        return misused(str(error))
    ports = (
        ListenPort("TCP", http),
        *(ListenPort("UDP", udp, address) for address in sorted(set(addresses)) or ("",)),
        ListenPort("SCTP", sctp),
    )
    listeners = tuple(listener for listener in ports if listener.port > 0)
    program_options: ProgramOptions = {DELAY_SHUTDOWN: delay_s} if delay_s > 0 else {}
    if override := flags.get("http-override", ""):
        program_options["http_override"] = override
    if certificate := flags.get("tls-cert-file", ""):
        program_options[TLS] = tls_option(
            certificate, flags.get("tls-private-key-file", ""), container
        )
    if len(listeners) == 1:
        program_options["is_unready"] = True
    return Setup("netexec", program_options, listeners)


async def http(request: Request, context: ProgramContext) -> Response:
    """Answer a request.

    With --http-override every request is answered as a GET of that path without client and headers.
    """
    if override := context.options.get("http_override"):
        request = structs.replace(
            request, method="GET", target=override, peer=("", 0), headers={}, body=b""
        )
    if request.path == "/dial":
        return await _dial(request.query, context)
    # Go's ServeMux routes every path that no other pattern matches to "/".
    return _ANSWERS.get(request.path, _now)(request, context)


def datagram(data: bytes, peer: Peer, context: ProgramContext) -> bytes | None:
    """Answer a datagram, ignoring case; unknown commands get no answer."""
    command = data.decode(errors="replace").strip().lower()
    context.log(f"received {command.partition(' ')[0]} from {socket_address(*peer)} (UDP)")
    if command == "hostname":
        return context.hostname.encode()
    if command == "clientip":
        return socket_address(*peer).encode()
    return command.removeprefix("echo ").encode() if command.startswith("echo ") else None


def _now(request: Request, context: ProgramContext) -> Response:
    return text(f"NOW: {context.clock()}")


def _hostname(request: Request, context: ProgramContext) -> Response:
    return text(context.hostname)


def _client_ip(request: Request, context: ProgramContext) -> Response:
    return text(socket_address(*request.peer) if request.peer[0] else "")


def _healthz(request: Request, context: ProgramContext) -> Response:
    return text("", _ready_status(context))


def _readyz(request: Request, context: ProgramContext) -> Response:
    """Answer as /healthz, but with 503 while the server shuts down."""
    if context.is_stopping:
        return text("shutting down", 503)
    return text("" if context.options.get("is_unready") else "ok", _ready_status(context))


def _shutdown(request: Request, context: ProgramContext) -> Response:
    context.exit(0, 0.0)
    return text("")


def _not_modelled(request: Request, context: ProgramContext) -> Response:
    reason = "built-in programs run no commands and keep no files"
    return text(f"{request.path} is not modelled: {reason}\n", 501)


def _ready_status(context: ProgramContext) -> int:
    """Return the status of the health paths.

    The server is ready when its UDP or SCTP server has started, so never when both are off.
    """
    return 412 if context.options.get("is_unready") else 200


def _form(request: Request) -> Mapping[str, str]:
    """Return the first value of each parameter; a form in the body overrides the query."""
    is_form = request.method in ("POST", "PUT", "PATCH") and request.headers.get(
        "content-type", ""
    ).startswith(_FORM_TYPE)
    body = (
        parse_qs(request.body.decode(errors="replace"), keep_blank_values=True) if is_form else {}
    )
    return {**request.query, **{name: values[0] for name, values in body.items()}}


def _header(request: Request, context: ProgramContext) -> Response:
    """Return one header's value, or all headers as JSON.

    Names are written as Go does, and Host is left out.
    """
    if key := _form(request).get("key", ""):
        return text(request.headers.get(key.lower(), ""))
    headers = {
        "-".join(part.capitalize() for part in name.split("-")): [value]
        for name, value in request.headers.items()
        if name != "host"
    }
    return text(json.dumps(dict(sorted(headers.items())), separators=(",", ":")))


def _redirect(request: Request, context: ProgramContext) -> Response:
    """Answer as Go's http.Redirect: a relative location is resolved against the request's path."""
    import html  # imported here: both take 3 ms, and the path is rarely requested
    from http import HTTPStatus

    values = _form(request)
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


def _echo(request: Request, context: ProgramContext) -> Response:
    values = _form(request)
    code = values.get("code", "")
    if code and not (code.isdigit() and 100 <= int(code) <= 999):
        return text(f"argument 'code' must be an integer or empty, got \"{code}\"\n")
    return text(values.get("msg", ""), int(code) if code else 200)


def _exit(request: Request, context: ProgramContext) -> Response:
    values = _form(request)
    code = values.get("code", "0") or "0"
    for name in ("timeout", "wait"):
        if duration_s(values.get(name, "")) is None:
            expected = "must be a valid golang duration or empty"
            return text(f"argument '{name}' {expected}, got \"{values[name]}\"\n")
    if not code.isdigit() or not 0 <= int(code) <= 127:
        return text(f"argument 'code' must be an integer [0-127] or empty, got \"{code}\"\n")
    context.exit(int(code), duration_s(values.get("wait", "")) or 0.0)
    return text("")


async def _dial(query: Mapping[str, str], context: ProgramContext) -> Response:
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
        address = await context.network.resolve(host)
    except OSError as error:
        return text(f"host and/or port param are invalid. {error.strerror or error}\n", 400)
    responses, errors = [], []
    for _ in range(int(tries or 1)):
        try:
            if protocol == "http":
                answer = await context.network.get(
                    address, int(port), f"/{request}", DIAL_TIMEOUT_S
                )
                responses.append(answer.body.decode(errors="replace"))
            else:
                reply = await context.network.exchange(
                    address, int(port), request.encode(), DIAL_TIMEOUT_S, protocol.upper()
                )
                responses.append(reply.decode(errors="replace"))
        except OSError as error:
            errors.append(str(error.strerror or error))
    output = {
        **({"responses": responses} if responses else {}),
        **({"errors": errors} if errors else {}),
    }
    return Response(200, json.dumps(output, separators=(",", ":")).encode(), "application/json")


_ANSWERS: Final[Mapping[str, Callable[[Request, ProgramContext], Response]]] = {
    "/hostname": _hostname,
    "/hostName": _hostname,
    "/clientip": _client_ip,
    "/header": _header,
    "/echo": _echo,
    "/healthz": _healthz,
    "/readyz": _readyz,
    "/exit": _exit,
    "/shutdown": _shutdown,
    "/redirect": _redirect,
    "/shell": _not_modelled,
    "/upload": _not_modelled,
}
"""Path → function that answers it, except /dial."""
