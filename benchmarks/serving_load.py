"""A client that costs little itself: raw keep-alive connections, requests made beforehand."""

import json
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.errors import UnavailableError

TIMEOUT_SECONDS = 30.0
_END = b"\r\n\r\n"
_LENGTH = b"content-length:"


@dataclass(frozen=True)
class Load:
    """What one run of requests took: milliseconds of each, seconds of all, in the given order."""

    milliseconds: NDArray[np.float64]
    seconds: float
    bodies: list[bytes]

    def quantile_ms(self, share: float) -> float:
        """Return a quantile of the latencies, rounded."""
        return round(float(np.quantile(self.milliseconds, share)), 2)

    @property
    def per_second(self) -> float:
        """Return requests answered in a second, rounded."""
        return round(len(self.milliseconds) / self.seconds, 1)


class Connection:
    """One keep-alive connection to the service."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), TIMEOUT_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._left = b""

    def ask(self, request: bytes) -> tuple[int, bytes]:
        """Send a whole request; return the status and the body."""
        self._socket.sendall(request)
        while (end := self._left.find(_END)) < 0:
            self._read()
        head, self._left = self._left[:end].lower(), self._left[end + len(_END) :]
        at = head.index(_LENGTH) + len(_LENGTH)
        length = int(head[at:].split(b"\r\n", 1)[0])
        while len(self._left) < length:
            self._read()
        body, self._left = self._left[:length], self._left[length:]
        return int(head.split(b" ", 2)[1]), body

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _read(self) -> None:
        received = self._socket.recv(1 << 16)
        if not received:
            raise UnavailableError("the service closed the connection; see its log")
        self._left += received


def post(path: str, body: dict[str, Any]) -> bytes:
    """Return a whole POST request of JSON."""
    data = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        f"content-length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


def get(path: str) -> bytes:
    """Return a whole GET request."""
    return f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode()


def run_load(port: int, requests: Sequence[bytes], *, clients: int) -> Load:
    """Send the requests from so many clients, each one at a time on a connection of its own.

    Raises:
        UnavailableError: an answer was not a 200.
    """
    took = np.zeros(len(requests))
    bodies: list[bytes] = [b""] * len(requests)
    failed: list[str] = []

    def client(first: int) -> None:
        connection = Connection(port)
        for place in range(first, len(requests), clients):
            began = time.perf_counter()
            status, bodies[place] = connection.ask(requests[place])
            took[place] = (time.perf_counter() - began) * 1000.0
            if status != 200:
                failed.append(f"{status} {bodies[place][:200]!r}")
                break
        connection.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    if failed:
        raise UnavailableError(f"{len(failed)} clients got no answer; the first: {failed[0]}")
    return Load(took, seconds, bodies)
