"""How the ranks of a training are started, whatever the account and the versions of its libraries say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rdtops.trainer import process_group

REPOSITORY = Path(__file__).parents[2]
RANK = ("import json, os, sys; json.dump({**os.environ, 'arguments': sys.argv[1:]}, "
        "open(f'{sys.argv[1]}/{os.environ.get(\"RANK\", \"alone\")}', 'w'))")
ACCOUNT = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_MIXED_PRECISION": "fp16", "PET_NNODES": "3", "RANK": "7",
           "WORLD_SIZE": "9", "MASTER_PORT": "1", "OMP_NUM_THREADS": "5", "NCCL_DEBUG": "INFO"}


@pytest.fixture
def started(tmp_path: Path):
    """Start the ranks of a program that writes its environment. Return these, by the name of its file."""
    (tmp_path / "writes.py").write_text(RANK)

    def start(*options: str, code: int = 0) -> tuple[dict[str, dict], str]:
        done = subprocess.run(
            [sys.executable, "-m", "rdtops.trainer.process_group", *options, "-m", "writes", str(tmp_path), "--last"],
            cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120,
            env={**os.environ, **ACCOUNT, "PYTHONPATH": str(REPOSITORY), "HOME": str(tmp_path)})
        assert done.returncode == code, done.stderr
        return {name: json.loads((tmp_path / name).read_text()) for name in ("0", "1", "alone")
                if (tmp_path / name).exists()}, done.stderr

    return start


def test_each_rank_gets_its_place_and_nothing_of_the_account(started, tmp_path) -> None:
    default = tmp_path / ".cache" / "huggingface" / "accelerate" / "default_config.yaml"
    default.parent.mkdir(parents=True)
    default.write_text("distributed_type: DEEPSPEED\nnum_processes: 4\nmixed_precision: fp16\n")
    ranks, said = started("--num_processes", "2")
    assert sorted(ranks) == ["0", "1"]
    for number, seen in ranks.items():
        assert (seen["RANK"], seen["LOCAL_RANK"], seen["WORLD_SIZE"]) == (number, number, "2")
        assert (seen["MASTER_ADDR"], seen["OMP_NUM_THREADS"], seen["NCCL_DEBUG"]) == ("127.0.0.1", "1", "INFO")
        assert int(seen["MASTER_PORT"]) > 1023
        assert not [name for name in seen if name.startswith(("ACCELERATE_", "PET_"))]
        assert seen["arguments"] == [str(tmp_path), "--last"]
    assert "ignored, since config.json of the run decides: ACCELERATE_MIXED_PRECISION, ACCELERATE_USE_DEEPSPEED" in said


def test_a_single_rank_joins_no_group(started) -> None:
    ranks, _ = started("--num_processes", "1", "--num_machines", "1", "--main_process_port", "0")
    assert list(ranks) == ["alone"]
    assert not {"RANK", "WORLD_SIZE", "MASTER_PORT"} & ranks["alone"].keys()


def test_a_rank_started_by_hand_gets_the_variables_of_a_run(tmp_path) -> None:
    (tmp_path / "threads.py").write_text("import json, os, torch\n"
                                         "print(json.dumps([torch.get_num_threads(), {**os.environ}]))")
    account = {"MKL_NUM_THREADS": "2", "OMP_NUM_THREADS": "5", "CUDA_LAUNCH_BLOCKING": "1", "DISPLAY": ":7",
               "USE_TF": "1", "NCCL_SOCKET_IFNAME": "eth7"}
    words = ["rdtops.trainer.process_group", "--num_processes", "1", "-m", "threads"]
    done = subprocess.run([sys.executable, "-m", *words], cwd=tmp_path, capture_output=True, text=True, check=True,
                          timeout=120, env={**os.environ, **account, "PYTHONPATH": str(REPOSITORY)})
    threads, seen = json.loads(done.stdout)
    assert threads == 1  # MKL's variable would win over OpenMP's
    assert not {"MKL_NUM_THREADS", "CUDA_LAUNCH_BLOCKING", "DISPLAY"} & seen.keys()
    assert (seen["USE_TF"], seen["USE_TORCH"], seen["NCCL_SOCKET_IFNAME"]) == ("0", "1", "eth7")
    assert "not passed on to the run, unless env of hosts.toml has them: CUDA_LAUNCH_BLOCKING, DISPLAY" in done.stderr


@pytest.mark.parametrize(("options", "words"), [
    (["--num_processes", "3", "--num_machines", "2", "--main_process_port", "1"], "cannot be shared equally"),
    (["--num_processes", "4", "--num_machines", "2"], "several machines need --main_process_port"),
    (["--num_processes", "2", "--use_fsdp"], "unrecognized arguments: --use_fsdp")])
def test_what_cannot_be_started_is_refused(options, words, capsys) -> None:
    with pytest.raises(SystemExit):
        process_group.main([*options, "-m", "rdtops.trainer.train", "config.json"])
    assert words in capsys.readouterr().err


def test_several_machines_meet_where_the_launcher_says() -> None:
    options = process_group._parsed(["--num_processes", "4", "--num_machines", "2", "--machine_rank", "1",
                                     "--main_process_ip", "10.0.0.1", "--main_process_port", "20001", "-m", "x", "y"])
    words = process_group._rendezvous(options)
    given = dict(zip(words[::2], words[1::2], strict=True))
    assert (given["--nnodes"], given["--node_rank"], given["--nproc_per_node"]) == ("2", "1", "2")
    assert (given["--master_addr"], given["--master_port"], given["--rdzv_backend"]) == ("10.0.0.1", "20001", "static")
    assert (options.module, options.arguments) == ("x", ["y"])
