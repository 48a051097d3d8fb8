"""Askpass: the program with which `ssh` asks a person: it hands the question to rdtops, and the answer to `ssh`.

    askpass.py SOCKET KIND QUESTION     # KIND: SSH_ASKPASS_PROMPT of ssh(1)
"""

import socket
import sys

GIVEN = b"+"  # before an answer; without it there is none


def main(door: str, kind: str, question: str) -> None:
    with socket.socket(socket.AF_UNIX) as way:
        way.connect(door)
        way.sendall(f"{kind}\n{question}".encode("utf-8", "replace"))
        way.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: way.recv(4096), b""))
    if not answer.startswith(GIVEN):
        raise SystemExit(1)
    sys.stdout.buffer.write(answer[len(GIVEN):])


if __name__ == "__main__":
    main(*sys.argv[1:])
