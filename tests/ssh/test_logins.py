"""Many hosts behind one jump, side by side: OpenSSH drops logins at random beyond ten at a time."""

import threading
import time
from unittest import mock

from rdtops.ssh.connection import Connection
from rdtops.ssh.hosts import Hop, Host
from rdtops.ssh.login import fabric_chain
from rdtops.ssh.login.fabric_chain import LOGINS

JUMP = Hop(name="bastion", address="192.0.2.1", user="robot")


class Door:
    """Stands for the login to one hop, and counts who is in it."""

    def __init__(self) -> None:
        self.inside, self.most, self.lock = 0, 0, threading.Lock()

    def open(self) -> None:
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        time.sleep(0.05)
        with self.lock:
            self.inside -= 1

    client = mock.MagicMock()
    is_connected = True


def test_hosts_behind_one_jump_log_in_to_it_a_few_at_a_time_and_to_themselves_at_once(monkeypatch):
    doors = {"bastion": Door(), "host": Door()}
    monkeypatch.setattr(fabric_chain, "way_to", lambda *_: None)
    monkeypatch.setattr(fabric_chain, "_link", lambda hop, *_: doors["bastion" if hop is JUMP else "host"])
    hosts = [Host(name=f"h{n}", address=f"198.51.100.{n}", user="robot", jumps=(JUMP,)) for n in range(3 * LOGINS)]
    threads = [threading.Thread(target=Connection(host).open) for host in hosts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert doors["bastion"].most == LOGINS
    assert doors["host"].most > 0
