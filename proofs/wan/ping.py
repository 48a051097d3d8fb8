"""Ping: round trips and loss of a line, measured from inside a namespace; many machines have no `ping`.

    python -m proofs.wan.ping 192.0.2.2 --count 200 --interval 0.01
"""

from __future__ import annotations

import argparse
import json
import os
import select
import socket
import statistics
import struct
import sys
import time
from dataclasses import asdict, dataclass

_ECHO, _REPLY = 8, 0  # ICMP types
_LAST_REPLY_S = 1.0


@dataclass(frozen=True)
class Echo:
    sent: int
    answered: int
    rtt_ms: float  # the median; 0 without replies

    @property
    def loss_percent(self) -> float:
        """Loss of both directions together."""
        return 100 * (1 - self.answered / self.sent)


def ping(address: str, count: int, interval_s: float) -> Echo:
    """Measure round trips. Raise OSError when there is no route to the address."""
    sent_s: dict[int, float] = {}
    round_trips_s: list[float] = []
    identifier = os.getpid() & 0xFFFF
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as line:
        for number in range(count):
            sent_s[number] = time.monotonic()
            line.sendto(_packet(identifier, number), (address, 0))
            _hear(line, identifier, sent_s, round_trips_s, interval_s)
        _hear(line, identifier, sent_s, round_trips_s, _LAST_REPLY_S)
    rtt_ms = statistics.median(round_trips_s) * 1000 if round_trips_s else 0.0
    return Echo(count, len(round_trips_s), rtt_ms)


def _hear(line: socket.socket, identifier: int, sent_s: dict[int, float], round_trips_s: list[float],
          for_s: float) -> None:
    """Receive replies for this time, at most until none is outstanding."""
    deadline_s = time.monotonic() + for_s
    while sent_s and (left_s := deadline_s - time.monotonic()) > 0:
        if not select.select([line], [], [], left_s)[0]:
            return
        packet = line.recv(2048)
        kind, _, _, owner, number = struct.unpack_from("!BBHHH", packet, (packet[0] & 15) * 4)
        if kind == _REPLY and owner == identifier and number in sent_s:
            round_trips_s.append(time.monotonic() - sent_s.pop(number))


def _packet(identifier: int, number: int) -> bytes:
    body = bytes(48)
    head = struct.pack("!BBHHH", _ECHO, 0, 0, identifier, number)
    return struct.pack("!BBHHH", _ECHO, 0, _checksum(head + body), identifier, number) + body


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m proofs.wan.ping", description=__doc__)
    parser.add_argument("address")
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--interval", type=float, default=0.2, help="seconds")
    options = parser.parse_args()
    try:
        echo = ping(options.address, options.count, options.interval)
    except OSError as error:
        sys.stderr.write(f"{options.address}: {error.strerror}\n")
        return 1
    sys.stdout.write(json.dumps(asdict(echo)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
