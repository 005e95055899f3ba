"""agnhost netexec: says who it is and whom it sees, dials others, exits when told.

Paths: `/` `/hostname` `/clientip` `/echo?msg=&code=` `/healthz` `/exit?code=&wait=` `/dial?host=&port=&request=&protocol=&tries=`
`/redirect?location=&code=` `/shutdown`. Datagrams, and messages by SCTP: `hostname`, `clientip`, `echo TEXT`. There is no `/shell` and no `/upload`.
Source: kubernetes test/images/agnhost/netexec (the texts of answers and errors follow it).
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from kubenetlab.api.durations import duration_s
from kubenetlab.hoststate.programs import Listener
from kubenetlab.names import socket_address
from kubenetlab.programs import DELAY_SHUTDOWN, Setup
from kubenetlab.programs.arguments import misused, options, port_number
from kubenetlab.programs.http import Me, Peer, Request, Response, text

DIAL_TIMEOUT_S = 5.0
MAX_TRIES = 1000


def configure_arguments(words: tuple[str, ...]) -> Setup:
    """The program for the arguments behind `netexec`: HTTP on 8080 and UDP on 8081 unless told otherwise; -1 switches one off."""
    given = options(words)
    try:
        delay_s = int(given.get("delay-shutdown", "0"))
    except ValueError:
        return misused(f'invalid argument "{given["delay-shutdown"]}" for "--delay-shutdown" flag')
    try:
        http, udp, sctp = (
            port_number(given.get(name, default), least=-1)
            for name, default in (("http-port", "8080"), ("udp-port", "8081"), ("sctp-port", "-1"))
        )
    except ValueError as error:
        return misused(str(error))
    ports = (Listener("TCP", http), Listener("UDP", udp), Listener("SCTP", sctp))
    return Setup("netexec", {DELAY_SHUTDOWN: delay_s} if delay_s > 0 else {}, tuple(listener for listener in ports if listener.port > 0))


async def http(request: Request, me: Me) -> Response:
    query = request.query
    match request.path:
        case "/":
            return text(f"NOW: {me.clock()}")
        case "/hostname" | "/hostName":
            return text(me.hostname)
        case "/clientip":
            return text(socket_address(*request.peer))
        case "/echo":
            return _echo(query)
        case "/healthz":
            return text("")
        case "/readyz":
            return text("shutting down", 503) if me.is_stopping else text("ok")
        case "/dial":
            return await _dial(query, me)
        case "/exit" | "/shutdown":
            return _exit(query, me)
        case "/redirect":
            code = query.get("code", "302")
            return Response(int(code) if code.isdigit() else 302, headers={"Location": query.get("location", "/")})
    return text("404 page not found\n", 404)


def datagram(data: bytes, peer: Peer, me: Me) -> bytes | None:
    command, _, rest = data.decode(errors="replace").strip().partition(" ")
    me.log(f"received {command} from {socket_address(*peer)} (UDP)")
    match command.lower():
        case "hostname":
            return me.hostname.encode()
        case "clientip":
            return socket_address(*peer).encode()
        case "echo":
            return rest.encode()
        case "":
            return None
    return f"unknown command: {command}".encode()


def _echo(query: Mapping[str, str]) -> Response:
    code = query.get("code", "")
    if code and not (code.isdigit() and 100 <= int(code) <= 999):
        return text(f"argument 'code' must be an integer or empty, got \"{code}\"\n")
    return text(query.get("msg", ""), int(code) if code else 200)


def _exit(query: Mapping[str, str], me: Me) -> Response:
    code = query.get("code", "0") or "0"
    wait = duration_s(query.get("wait", ""))
    if not code.isdigit() or not 0 <= int(code) <= 127:
        return text(f"argument 'code' must be an integer [0-127] or empty, got \"{code}\"\n")
    if wait is None:
        return text(f"argument 'wait' must be a valid golang duration or empty, got \"{query['wait']}\"\n")
    me.exit(int(code), wait)
    return text("")


async def _dial(query: Mapping[str, str], me: Me) -> Response:
    protocol = query.get("protocol", "http").lower() or "http"
    host, port, request, tries = (query.get(name, "") for name in ("host", "port", "request", "tries"))
    if tries and not (tries.isdigit() and int(tries) <= MAX_TRIES):
        return text(f'tries parameter is invalid. strconv.Atoi: parsing "{tries}": invalid syntax\n', 400)
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
                said = await me.network.exchange(address, int(port), request.encode(), DIAL_TIMEOUT_S, protocol.upper())
                responses.append(said.decode(errors="replace"))
        except OSError as error:
            errors.append(str(error.strerror or error))
    output = {**({"responses": responses} if responses else {}), **({"errors": errors} if errors else {})}
    return Response(200, json.dumps(output, separators=(",", ":")).encode(), "application/json")
