"""Open connections at a steady pace; this program runs inside a namespace.

Run as: stream.py ADDRESS PORT PER_SECOND

Each connection that ends prints a line: the name of the server, or `failed: …`. The program ends
when its standard input is closed.
"""

import os
import socket
import sys
import threading
import time

DEADLINE_S = 5.0 * float(os.environ.get("KUBENETLAB_PATIENCE", "1"))


def connect(address: str, port: int) -> str:
    try:
        with socket.create_connection((address, port), DEADLINE_S) as connection:
            connection.sendall(b"GET /hostname HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = connection.makefile("rb").read().decode()
    except OSError as error:
        return f"failed: {error}"
    head, _, body = answer.partition("\r\n\r\n")
    return body.strip() if " 200 " in head.partition("\r\n")[0] else f"failed: {answer!r}"


def main(address: str, port: int, per_second: float) -> None:
    stopping = threading.Event()
    threading.Thread(target=wait_for_end_of_input, args=(stopping,), daemon=True).start()
    due = time.monotonic()
    while not stopping.wait(max(0.0, due - time.monotonic())):
        # A single write per line, because many threads print.
        threading.Thread(
            target=lambda: print(f"{connect(address, port)}\n", end="", flush=True)
        ).start()
        due += 1 / per_second


def wait_for_end_of_input(stopping: threading.Event) -> None:
    sys.stdin.read()
    stopping.set()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
