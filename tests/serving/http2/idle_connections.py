"""Opens connections that say nothing more, in a process of its own: PORT COUNT.

Each line that comes on stdin is a question, and a line answers it: ``ping``, how many connections
answer a PING now; ``more``, what one connection more gets, as ``repr``.
"""

import contextlib
import socket
import sys

from hlserve.serving.transports.http2 import frames

HELLO = frames.PREFACE + frames.settings({})
PING = b"are you?"
TIMEOUT_S = 60


def main() -> None:
    port, count = map(int, sys.argv[1:])
    idle = [connected(port) for _ in range(count)]
    for connection in idle:
        assert connection.recv(9)  # the server took it
    print(len(idle), flush=True)
    for line in sys.stdin:
        print(pinged(idle) if line.strip() == "ping" else repr(all_of(connected(port))), flush=True)


def connected(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.sendall(HELLO)
    return connection


def pinged(idle: list[socket.socket]) -> int:
    for connection in idle:
        connection.sendall(frames.ping(PING))
    answer = frames.ping(PING, is_ack=True)
    return sum(ends_with(connection, answer) for connection in idle)


def ends_with(connection: socket.socket, end: bytes) -> bool:
    data = b""
    while not data.endswith(end):
        part = connection.recv(65_536)
        if not part:
            return False
        data += part
    return True


def all_of(connection: socket.socket) -> bytes:
    """Until the server closes."""
    data = b""
    with connection, contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65_536):
            data += part
    return data


if __name__ == "__main__":
    main()
