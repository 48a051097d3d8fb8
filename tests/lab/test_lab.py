"""What the lab promises, over real SSH and with both kinds of server."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

import rdtops
from rdtops.errors import LabError
from rdtops.lab import keys, lab_processes, packages
from rdtops.lab.fake_gpus import Failure, FakeGpuProcess, Gpus
from rdtops.lab.lab_processes import LabProcess
from rdtops.lab.packages import SystemProgram
from rdtops.lab.ports import Ports, first_job_id, free_ports
from rdtops.lab.server import ID_VARIABLE
from rdtops.lab.site import HOSTS, NAMES, Lab
from rdtops.ssh import inventory
from tests.lab.conftest import running_lab
from tests.lab.unix_users import python_for, unix_user

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module", params=["openssh", "asyncssh"])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    yield from running_lab(tmp_path_factory, request.param)


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Lab]:
    """A lab of this test alone, not up yet, in a folder too deep for tmux's sockets."""
    lab = Lab(tmp_path / ("d" * 80), Ports.free())
    yield lab
    lab.down()


def _hears_hang_ups() -> None:
    """Under nohup they are ignored, and it is by one that ssh ends the ssh of its ProxyJump."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def ssh(lab: Lab, *arguments: str, config: Path | None = None, stdin: bytes = b"",
        connect_timeout_s: int = 10) -> subprocess.CompletedProcess[bytes]:
    command = ["ssh", "-F", str(config or lab.ssh_config), "-o", f"ConnectTimeout={connect_timeout_s}", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, timeout=60, check=False,
                          preexec_fn=_hears_hang_ups)


def output(lab: Lab, host: str, line: str) -> str:
    done = ssh(lab, host, line)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


def altered(lab: Lab, tmp_path: Path, old: str, new: str) -> Path:
    """A copy of the lab's ssh_config with one thing changed."""
    config = tmp_path / "ssh_config"
    config.write_text(lab.ssh_config.read_text().replace(old, new))
    return config


def test_no_two_workers_of_a_test_run_take_the_same_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", "3")
    taken = []
    for worker in ("gw0", "gw1", "gw2"):
        monkeypatch.setenv("PYTEST_XDIST_WORKER", worker)
        of_jobs = {20_000 + first_job_id() + number for number in range(999)}
        taken.append({*free_ports(2_900)} | of_jobs)
    assert [len(ports) for ports in taken] == [3_899] * 3
    assert len(set.union(*taken)) == 3 * 3_899


# --- getting in


@pytest.mark.parametrize("host", HOSTS)
def test_a_command_reaches_the_host_through_the_jump(site: Lab, host: str) -> None:
    done = ssh(site, host, 'echo "$RDTOPS_LAB $PWD $(command -v python3)"; echo oops >&2; exit 7')
    assert done.stdout.decode().split() == [host, str(site.home(host)), str(Path(sys.executable).parent / "python3")]
    assert (done.returncode, done.stderr.decode().strip()) == (7, "oops")


def test_a_host_refuses_everybody_but_the_jump(site: Lab) -> None:
    done = ssh(site, "-o", "ProxyJump=none", "lab", "true")
    assert done.returncode == 255
    assert "refused" in (site.folder("lab") / "server.log").read_text()


def test_one_host_is_no_way_into_the_other(site: Lab) -> None:
    line = f"bash -c 'exec 3<>/dev/tcp/127.0.0.1/{site.ports.lab2} && head -c 4 <&3'"
    assert b"SSH-" not in ssh(site, "lab", line).stdout


def test_the_jump_gives_no_session(site: Lab) -> None:
    assert ssh(site, "lab-jump", "echo in").stdout == b""
    assert ssh(site, "-s", "lab-jump", "sftp").returncode == 255


def test_the_jump_forwards_to_the_hosts_only(site: Lab) -> None:
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        done = ssh(site, "-W", f"127.0.0.1:{elsewhere.getsockname()[1]}", "lab-jump")
    assert done.returncode == 255
    assert b"forwarding failed" in done.stderr


def test_another_key_is_refused(site: Lab, tmp_path: Path) -> None:
    keys.make(tmp_path / "other")
    config = altered(site, tmp_path, str(site.identity_file), str(tmp_path / "other"))
    done = ssh(site, "lab", "true", config=config)
    assert done.returncode == 255
    assert b"Permission denied" in done.stderr


@pytest.mark.parametrize("name", ["lab-jump", "lab"])
def test_an_unknown_host_key_is_refused_on_either_hop(site: Lab, tmp_path: Path, name: str) -> None:
    known = tmp_path / "known_hosts"
    entry = f"[127.0.0.1]:{site.ports.of(name)} "
    known.write_text("".join(
        line for line in site.known_hosts.read_text().splitlines(keepends=True) if not line.startswith(entry)))
    done = ssh(site, "lab", "true", config=altered(site, tmp_path, str(site.known_hosts), str(known)))
    assert b"Host key verification failed" in done.stderr


def test_many_connections_at_once(site: Lab) -> None:
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda n: output(site, HOSTS[n % 2], f"echo {n}"), range(8)))
    assert results == [str(n) for n in range(8)]


# --- what a session is


def test_input_and_output_are_binary_and_end(site: Lab) -> None:
    content = secrets.token_bytes(8 << 20)
    done = ssh(site, "lab", "tee copy | md5sum; cat copy >&2", stdin=content)
    assert done.stdout.decode().split()[0] == hashlib.md5(content).hexdigest()
    assert done.stderr == content


def test_a_session_sees_nothing_of_the_users_environment(
        site: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", "/nowhere/agent")
    monkeypatch.setenv("MY_SECRET", "secret")
    site.stop_server("lab")
    site.start_server("lab")
    names = {line.partition("=")[0] for line in output(site, "lab", "env").splitlines()}
    assert not names & {"SSH_AUTH_SOCK", "MY_SECRET", "PYTHONPATH", "OLDPWD", "SSH_ORIGINAL_COMMAND"}
    assert {"HOME", "USER", "PATH", "SHELL", "SSH_CONNECTION", "TMUX_TMPDIR", "RDTOPS_LAB"} <= names


def test_a_login_shell_keeps_the_hosts_programs(site: Lab) -> None:
    assert output(site, "lab", "bash -lc 'command -v nvidia-smi'") == str(site.folder("lab") / "bin" / "nvidia-smi")


def test_a_terminal_is_a_terminal(site: Lab) -> None:
    if site.status()[0].backend == "openssh" and b"PTY allocation" in ssh(site, "-tt", "lab", "true").stderr:
        pytest.skip("sshd without root has no terminal to give on this machine's devpts")
    done = ssh(site, "-tt", "lab", "test -t 0 && test -t 1 && tty && exit 5")
    assert done.stdout.startswith(b"/dev/pts/")
    assert done.returncode == 5


def test_files_travel_by_sftp(site: Lab, tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"\0\xff" * 1000)
    for source, target in ((tmp_path / "there", "lab:~/travelled"), ("lab:travelled", tmp_path / "back")):
        subprocess.run(["scp", "-q", "-F", site.ssh_config, source, target], check=True, timeout=30)
    assert (tmp_path / "back").read_bytes() == (site.home("lab") / "travelled").read_bytes() == b"\0\xff" * 1000


@pytest.mark.skipif(not shutil.which("rsync"), reason="no rsync here")
def test_folders_travel_by_rsync(site: Lab, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    subprocess.run(["rsync", "-a", "-e", f"ssh -F {site.ssh_config}", f"{tmp_path}/", "lab2:folder/"],
                   check=True, timeout=30)
    assert (site.home("lab2") / "folder" / "file").read_text() == "content"


def test_a_port_of_the_host_can_be_forwarded(site: Lab) -> None:
    with socket.create_server(("127.0.0.1", 0)) as service, ThreadPoolExecutor() as pool:
        service.settimeout(10)
        client = pool.submit(ssh, site, "-W", f"127.0.0.1:{service.getsockname()[1]}", "lab")
        connection, _ = service.accept()
        with connection:
            connection.sendall(b"hello")
        assert client.result().stdout == b"hello"


# --- up and down


def test_up_twice_starts_nothing(site: Lab) -> None:
    before = [row.pid for row in site.status()]
    ready = site.up()
    assert ready.started == ()
    assert "already" in ready.words
    assert [row.pid for row in site.status()] == before


@pytest.mark.parametrize("name", NAMES)
def test_up_repairs_a_killed_server(site: Lab, name: str) -> None:
    pid = next(row.pid for row in site.status() if row.name == name)
    assert pid is not None
    os.kill(pid, 9)
    _until(lambda: not next(row.up for row in site.status() if row.name == name))
    assert site.up().started == (name,)
    assert output(site, "lab", "echo back") == "back"


def test_a_recycled_pid_is_not_taken_for_the_server(site: Lab) -> None:
    ours = LabProcess.of(os.getpid())
    assert ours is not None
    site.stop_server("lab")
    LabProcess(ours.pid, ours.started_ticks - 1, ours.boot_id).write(site.folder("lab") / "process")
    assert not next(row.up for row in site.status() if row.name == "lab")
    assert site.up().started == ("lab",)


def test_a_taken_port_is_named_with_its_owner(site: Lab) -> None:
    site.stop_server("lab2")
    with socket.create_server(("127.0.0.1", site.ports.lab2)), pytest.raises(LabError) as raised:
        site.up()
    assert str(site.ports.lab2) in raised.value.message
    assert f"pid {os.getpid()}" in raised.value.message
    assert site.up().started == ("lab2",)


@pytest.fixture
def at_the_usual_ports(tmp_path: Path) -> Iterator[Callable[[str], Lab]]:
    """Labs in folders of these names that named no ports, as that of a clone; none is up."""
    labs: list[Lab] = []

    def lab(name: str) -> Lab:
        labs.append(Lab(tmp_path / name))
        return labs[-1]

    yield lab
    for one in labs:
        one.down()


def _ports(lab: Lab) -> set[int]:
    return {row.port for row in lab.status()}


def test_two_labs_that_come_up_at_the_same_moment_have_ports_of_their_own_and_keep_them(
        at_the_usual_ports: Callable[[str], Lab]) -> None:
    labs = [at_the_usual_ports(name) for name in ("one", "two")]
    with ThreadPoolExecutor() as pool:
        list(pool.map(Lab.up, labs))
    before = [_ports(lab) for lab in labs]
    assert len(set.union(*before)) == 6
    assert [output(lab, "lab", "echo $HOME") for lab in labs] == [str(lab.home("lab")) for lab in labs]
    labs[1].down()
    labs[1].up()
    assert [_ports(lab) for lab in labs] == before


def test_a_lab_goes_out_of_the_way_of_another_program(at_the_usual_ports: Callable[[str], Lab],
                                                      tmp_path: Path) -> None:
    lab = at_the_usual_ports("one")
    usual = Ports()
    with _listening(usual.jump):
        ready = lab.up()
        assert not {usual.jump, usual.lab, usual.lab2} & _ports(lab)
        assert f"other programs have its ports, so it has {lab.ports.words}" in ready.words
        assert output(lab, "lab2", "echo in") == "in"
        lab.write_inventory(tmp_path / "hosts.toml", {})
        assert {hop.port for hop in inventory.load(tmp_path / "hosts.toml").host("lab").route} < _ports(lab)
    assert lab.up().started == ()


@contextmanager
def _listening(port: int) -> Iterator[None]:
    """Somebody listens on this port: we do, or whoever does already."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            stack.enter_context(socket.create_server(("127.0.0.1", port)))
        yield


def test_detached_work_outlives_its_connection_and_the_server(site: Lab) -> None:
    pid = _detached(site, "lab")
    site.stop_server("lab")
    site.start_server("lab")
    assert LabProcess.of(pid)


@pytest.mark.skipif(not shutil.which("tmux"), reason="no tmux here")
def test_down_leaves_nothing_running(site: Lab) -> None:
    backend = site.status()[0].backend
    detached = [_detached(site, host) for host in HOSTS]
    output(site, "lab", "tmux -L rdt -f /dev/null new-session -d -s train 'sleep 600'")
    tmux = int(output(site, "lab", "tmux -L rdt display-message -p '#{pid}'"))
    lab_id = output(site, "lab", f"echo ${ID_VARIABLE}")
    assert site.down() >= len(NAMES) + len(detached) + 1
    assert not [pid for pid in (*detached, tmux) if LabProcess.of(pid)]
    assert not lab_processes.with_environment(ID_VARIABLE, lab_id)
    assert not any(row.up for row in site.status())
    assert site.down() == 0
    assert site.up(backend).started == NAMES


@pytest.mark.skipif(not shutil.which("tmux"), reason="no tmux here")
def test_tmux_works_below_a_long_path(fresh: Lab) -> None:
    fresh.up()
    output(fresh, "lab", "tmux -L rdt -f /dev/null new-session -d -s train 'sleep 600'")
    folder = Path(output(fresh, "lab", "echo $TMUX_TMPDIR"))
    assert folder.exists()
    fresh.down()
    assert not folder.exists()


def test_another_backend_takes_over(fresh: Lab) -> None:
    before = fresh.up().backend
    other = {"openssh": "asyncssh", "asyncssh": "openssh"}[before]
    try:
        started = fresh.up(other).started
    except LabError as error:
        pytest.skip(f"only {before} here: {error.message}")
    assert started == NAMES
    assert output(fresh, "lab", "echo in") == "in"
    assert fresh.up().started == ()  # auto keeps what runs


def test_a_lab_whose_folder_was_removed_comes_up_again(fresh: Lab) -> None:
    fresh.up()
    shutil.rmtree(fresh.root)
    assert fresh.up().started == NAMES


def test_an_unknown_backend_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="telnet"):
        Lab(tmp_path).up("telnet")


# --- faults


def test_a_frozen_host_is_silent_until_it_thaws(site: Lab) -> None:
    site.freeze("lab")
    try:
        assert ssh(site, "lab", "true", connect_timeout_s=1).returncode == 255
    finally:
        site.thaw("lab")
    assert output(site, "lab", "echo thawed") == "thawed"


def test_a_changed_host_key_is_refused_until_the_lab_comes_up_anew(site: Lab) -> None:
    site.change_host_key("lab-jump")
    assert b"Host key verification failed" in ssh(site, "lab", "true").stderr
    site.up()
    assert output(site, "lab", "echo in") == "in"


# --- GPUs


def test_nvidia_smi_shows_eight_idle_cards(site: Lab) -> None:
    site.set_gpus("lab", Gpus())
    query = "nvidia-smi --query-gpu=index,name,memory.total,memory.used --format=csv,noheader,nounits"
    rows = [line.split(", ") for line in output(site, "lab", query).splitlines()]
    assert rows == [[str(index), "NVIDIA A800-SXM4-80GB", "81920", "4"] for index in range(8)]


def test_nvidia_smi_shows_what_a_test_wants(site: Lab) -> None:
    site.set_gpus("lab", Gpus(count=2, memory_used_mib=(0, 70_000), utilization_percent=(0, 97), ecc_errors=(3,),
                              processes=(FakeGpuProcess(gpu=1, pid=77, name="python", memory_mib=69_000),)))
    fields = "memory.free,utilization.gpu,ecc.errors.uncorrected.volatile.total"
    query = f"nvidia-smi --query-gpu={fields} --format=csv,noheader"
    assert output(site, "lab", query).splitlines() == ["81920 MiB, 0 %, 3", "11920 MiB, 97 %, 0"]
    apps = "nvidia-smi --query-compute-apps=pid,process_name,used_memory --format=csv,noheader,nounits"
    assert output(site, "lab", apps) == "77, python, 69000"
    assert len(output(site, "lab2", "nvidia-smi -L").splitlines()) == 8


def test_nvidia_smi_says_that_it_is_a_fake(site: Lab) -> None:
    assert "fake" in output(site, "lab2", "nvidia-smi").splitlines()[0]
    assert "fake" in output(site, "lab2", "nvidia-smi --version")


def test_nvidia_smi_fails_as_the_real_one(site: Lab) -> None:
    unknown = ssh(site, "lab2", "nvidia-smi --query-gpu=colour --format=csv")
    assert (unknown.returncode, unknown.stdout.strip()) == (2, b'Field "colour" is not a valid field to query.')
    site.set_gpus("lab2", Gpus(fail=Failure(9, "NVIDIA-SMI has failed")))
    broken = ssh(site, "lab2", "nvidia-smi -L")
    assert (broken.returncode, broken.stdout.strip()) == (9, b"NVIDIA-SMI has failed")
    site.set_gpus("lab2", Gpus(hang_s=60))
    assert ssh(site, "lab2", "timeout 0.5 nvidia-smi -L").returncode == 124
    site.set_gpus("lab2", Gpus())


# --- what others read


def test_the_inventory_names_the_route_to_both_hosts(lab: Lab, tmp_path: Path) -> None:
    lab.write_inventory(tmp_path / "hosts.toml", {"rdt-tiny": str(tmp_path / 'a "quoted" folder')})
    inventory = tomllib.loads((tmp_path / "hosts.toml").read_text())
    assert inventory["assets"] == {"rdt-tiny": str(tmp_path / 'a "quoted" folder')}
    assert inventory["jumps"]["lab-jump"]["port"] == lab.ports.jump
    assert {name: host["jumps"] for name, host in inventory["hosts"].items()} == {name: ["lab-jump"] for name in HOSTS}
    assert inventory["hosts"]["lab"]["gpus"] == 8


def test_missing_packages_become_one_command() -> None:
    assert packages.missing(find=lambda _: "/usr/bin/x") == ()
    assert packages.install_command(()) == ""
    lacking = packages.missing(find=lambda name: None if name == "sshd" else "/usr/bin/x")
    assert lacking == (SystemProgram("sshd", "openssh-server"),)
    assert packages.install_command(lacking) == "sudo apt-get update && sudo apt-get install -y openssh-server"


def test_packages_are_installed_without_starting_a_service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    installed, policy = tmp_path / "sshd", tmp_path / "policy-rc.d"
    apt_get = tmp_path / "apt-get"
    apt_get.write_text(f"#!/bin/sh\ncase $* in *install*) cp {policy} {tmp_path}/seen; touch {installed};; esac\n"
                       f"echo $* >>{tmp_path}/calls\n")
    apt_get.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(packages, "_POLICY", policy)
    monkeypatch.setattr(packages, "_find", lambda name: name != "sshd" or installed.exists())
    monkeypatch.setattr(packages, "_keep_off", lambda _: None)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    said: list[str] = []
    assert packages.install_missing(said.append) == (SystemProgram("sshd", "openssh-server"),)
    assert (tmp_path / "calls").read_text().splitlines() == [
        "-q update", "-q install -y --no-install-recommends openssh-server"]
    assert "exit 101" in (tmp_path / "seen").read_text()
    assert not policy.exists()
    assert said == ["installing openssh-server"]
    assert packages.install_missing(said.append) == ()


def test_a_failed_installation_shows_what_apt_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "apt-get").write_text("#!/bin/sh\necho E: no network; exit 100\n")
    (tmp_path / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(packages, "_POLICY", tmp_path / "policy-rc.d")
    monkeypatch.setattr(packages, "_find", lambda _: None)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(LabError, match="E: no network"):
        packages.install_missing(lambda _: None)
    assert not (tmp_path / "policy-rc.d").exists()


# --- without root

_AS_USER = """
import json, subprocess, sys
from rdtops.lab.site import Lab

def ssh(*arguments):
    return subprocess.run(["ssh", "-F", str(lab.ssh_config), "-o", "ConnectTimeout=10", *arguments],
                          capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)

lab = Lab(sys.argv[1])
try:
    started = lab.up(sys.argv[2]).started
    report = {
        "started": len(started), "ports": lab.ports.words,
        "who": ssh("lab", "whoami; nvidia-smi -L | wc -l").stdout.split(),
        "direct": ssh("-o", "ProxyJump=none", "lab", "true").returncode,
        "detached": ssh("lab", "setsid -f sleep 600 </dev/null >/dev/null 2>&1").returncode,
    }
finally:
    ended = lab.down()
print(json.dumps({**report, "ended": ended}))
"""


@pytest.mark.parametrize("backend", ["openssh", "asyncssh"])
def test_an_ordinary_user_has_the_same_lab_beside_that_of_another(
        backend: str, at_the_usual_ports: Callable[[str], Lab]) -> None:
    if os.geteuid() != 0:
        pytest.skip("every test here already runs as an ordinary user")
    others = at_the_usual_ports("one")
    others.up()
    with _ordinary_user() as (user, home, python):
        done = subprocess.run(
            ["runuser", "-u", user, "--", "env", "-i", f"HOME={home}", "PATH=/usr/bin:/bin", f"PYTHONPATH={home}/site",
             python, "-c", _AS_USER, f"{home}/lab", backend], cwd="/", capture_output=True, text=True, timeout=120,
            check=False)
        assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["ended"] >= len(NAMES) + 1
    assert report["who"] == [user, "8"]
    assert report["ports"] != others.ports.words
    assert (report["started"], report["direct"], report["detached"]) == (3, 255, 0)


@contextmanager
def _ordinary_user() -> Iterator[tuple[str, Path, str]]:
    """A user for this test: the name, the home folder, and a Python this user may run, with the lab's packages."""
    with unix_user() as (user, home):
        _copy_packages(home / "site")
        yield user, home, python_for(user)


def _copy_packages(target: Path) -> None:
    """The virtual environment may lie where only root can read: the lab and what it imports, copied."""
    ours = Path(rdtops.__file__).parent
    target.mkdir()
    (target / "rdtops").mkdir()
    for name in ("__init__.py", "errors.py", "hostlib", "lab"):
        _copy(ours / name, target / "rdtops" / name)
    installed = Path(sysconfig.get_path("platlib"))
    for name in ("asyncssh", "bcrypt", "cffi", "_cffi_backend", "cryptography", "invoke", "nacl", "paramiko", "pynacl",
                 "typing_extensions"):
        for path in (*installed.glob(name), *installed.glob(f"{name}[-.]*")):
            _copy(path, target / path.name)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copyfile(source, target)


# --- helpers


def _detached(lab: Lab, host: str) -> int:
    """The pid of a process that was started on the host and goes on without its connection."""
    line = "setsid -f sh -c 'echo $$ >pid.new; mv pid.new pid; exec sleep 600' </dev/null >/dev/null 2>&1"
    (lab.home(host) / "pid").unlink(missing_ok=True)
    output(lab, host, line)
    _until((lab.home(host) / "pid").exists)
    return int((lab.home(host) / "pid").read_text())


def _until(holds: Callable[[], bool], timeout_s: float = 5.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
