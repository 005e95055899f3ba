"""Asks servers who they are and whom they see; a program of its own, run inside a namespace, that knows nothing of the package.

stdin: [["TCP" | "UDP" | "SCTP", address, port], …]; stdout: one answer each, in order:
{"who": hostname, "seen": [address, port], "source": [address, port]} or {"error": "refused" | "silence" | "unreachable" | …}
"""

import errno
import json
import os
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

PATIENCE = float(os.environ.get("KUBENETLAB_PATIENCE", "1"))
"""As in tests/patience.py. What is under way is waited for by it; silence would be, too, so that connecting is not."""
DEADLINE_S = 1.5
"""Longer than TCP waits before it repeats a SYN: over IPv6 it is then that a client on the same machine hears of a refusal by ICMP."""
MAX_AT_A_TIME = 20
WORDS = {errno.ECONNREFUSED: "refused", errno.EHOSTUNREACH: "unreachable", errno.ENETUNREACH: "unreachable"}


def ask_tcp(connection: socket.socket) -> list[str]:
    """Both questions over one connection: a Service's second connection may lead to another pod."""
    stream = connection.makefile("rwb")
    answers = []
    for path in ("/hostname", "/clientip"):
        stream.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        stream.flush()
        if b" 200 " not in (first := stream.readline()):
            raise OSError(f"answered {first.decode(errors='replace').strip()}")
        length = 0
        while line := stream.readline().strip():
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        answers.append(stream.read(length).decode())
    return answers


def ask_by_messages(connection: socket.socket) -> list[str]:
    """One socket: all its datagrams belong to one flow, and so go to one pod. By SCTP it is one association."""
    answers = []
    for question in (b"hostname", b"clientip"):
        connection.send(question)
        answers.append(connection.recv(4096).decode())
    return answers


def ask(protocol: str, address: str, port: int) -> dict[str, Any]:
    kind = socket.SOCK_DGRAM if protocol == "UDP" else socket.SOCK_STREAM
    number = socket.IPPROTO_SCTP if protocol == "SCTP" else 0
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind, number) as connection:
        connection.settimeout(DEADLINE_S)
        try:
            connection.connect((address, port))
            if protocol != "UDP":
                connection.settimeout(DEADLINE_S * PATIENCE)
            who, seen = (ask_tcp if protocol == "TCP" else ask_by_messages)(connection)
        except TimeoutError:
            return {"error": "silence"}
        except OSError as error:
            return {"error": WORDS.get(error.errno or 0, str(error))}
        seen_address, _, seen_port = seen.strip().rpartition(":")
        return {"who": who.strip(), "seen": [seen_address.strip("[]"), int(seen_port)], "source": list(connection.getsockname()[:2])}


if __name__ == "__main__":
    targets = json.load(sys.stdin)
    with ThreadPoolExecutor(MAX_AT_A_TIME) as pool:
        print(json.dumps(list(pool.map(lambda target: ask(*target), targets))))
