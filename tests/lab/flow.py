"""One end of a plain TCP stream: measures what a link carries. Run in a lab's hosts."""

import json
import socket
import sys
import time

WARM_UP = 1_500_000
"""Bytes that are not timed: the bucket of a shaped link lets 0.5 MB through at once."""


def receive(port: int) -> None:
    with socket.create_server(("", port)) as server:
        opened = time.perf_counter()
        print("listening", flush=True)
        connection, _ = server.accept()
        with connection:
            buffer = bytearray(1 << 20)
            count, start, started = 0, 0.0, 0
            while got := connection.recv_into(buffer):
                count += got
                if not start and count >= WARM_UP:
                    start, started = time.perf_counter(), count
            end = time.perf_counter()
    print(json.dumps({"bytes": count - started, "seconds": end - start, "all": count, "open": end - opened}))


def send(address: str, port: int, size: int) -> None:
    with socket.create_connection((address, port)) as connection:
        block = bytes(1 << 18)
        while size > 0:
            size -= connection.send(block[:size])


if __name__ == "__main__":
    if sys.argv[1] == "receive":
        receive(int(sys.argv[2]))
    else:
        send(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
