"""What the lines of a log are taken for: which exception ended a process, which line has a level, who ended."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proofs.staging import endings
from rdtops.contract.diagnosis.messages import Kind, Line, parse

FRAMES = ('  File "/data/train.py", line 9, in <module>', "    main()", '  File "/data/train.py", line 5, in main',
          "    raise ValueError(text)  # No space left on device")
HEAD = "Traceback (most recent call last):"
LINES = sorted({line for ending in endings.read() for line in (*ending.noise, *ending.end)})


def said(*log: str) -> list[tuple[Kind, str]]:
    return [(message.kind, message.text) for message in parse([Line("", n, text) for n, text in enumerate(log, 1)])]


@pytest.mark.parametrize("head", [
    HEAD, "Training:  55%|█████▌    | 55/100 [01:00<00:49,  1.1s/it]" + HEAD, "step 55/612  loss=0.197" + HEAD])
def test_a_traceback_is_one_message_even_after_a_progress_bar(head):
    assert said(head, *FRAMES, "ValueError: first", "second", "", "other") == [
        (Kind.EXCEPTION, "ValueError: first\nsecond"), (Kind.PLAIN, "other")]


def test_the_prefix_of_a_rank_keeps_two_tracebacks_apart():
    both = [f"[rank{rank}]: {text}" for pair in zip((HEAD, *FRAMES), (HEAD, *FRAMES), strict=True)
            for rank, text in enumerate(pair)]
    both += ["[rank1]: KeyError: 'a'", "[rank0]: MemoryError"]
    log = ["  0%|          | 0/20 [00:00<?, ?it/s]" + both[0], *both[1:]]
    found = parse([Line("", n, text) for n, text in enumerate(log, 1)])
    assert [(message.kind, message.rank, message.type) for message in found] == [
        (Kind.EXCEPTION, 1, "KeyError"), (Kind.EXCEPTION, 0, "MemoryError")]


@pytest.mark.parametrize("before", [
    "Exception in thread Thread-2 (_pin_memory_loop):", "Exception ignored in: <function A.__del__ at 0x7f>",
    "--- Logging error ---", "Process SpawnProcess-1:", "Error in atexit._run_exitfuncs:"])
def test_an_exception_that_ended_no_process_of_the_training_is_an_error(before):
    assert said(before, HEAD, *FRAMES, "ValueError: x")[-1] == (Kind.ERROR, "ValueError: x")


def test_an_exception_that_something_caught_and_printed_is_an_error():
    assert said(HEAD, *FRAMES[2:], "ModuleNotFoundError: No module named 'triton'") == [
        (Kind.ERROR, "ModuleNotFoundError: No module named 'triton'")]
    assert said("KeyError: printed by somebody") == [(Kind.ERROR, "KeyError: printed by somebody")]


def test_a_traceback_whose_beginning_the_log_has_lost_counts():
    assert said(*FRAMES[2:], "ValueError: x") == [(Kind.EXCEPTION, "ValueError: x")]


def test_the_box_of_rich_is_a_traceback():
    assert said("╭───────── Traceback (most recent call last) ─────────╮", "│ /data/train.py:5 in main │", "╰──────╯",
                "ValueError: x") == [(Kind.EXCEPTION, "ValueError: x")]


def test_chained_exceptions_lead_to_the_first():
    (*_, last) = parse([Line("", 0, text) for text in (
        HEAD, *FRAMES[2:], "OSError: [Errno 5] Input/output error", "",
        "The above exception was the direct cause of the following exception:", "", HEAD, *FRAMES, "RuntimeError: y")])
    assert (last.type, last.kind, last.cause and last.cause.type) == ("RuntimeError", Kind.EXCEPTION, "OSError")


@pytest.mark.parametrize(("line", "kind"), [
    ("gpu07:4242:4318 [0] NCCL INFO Failed to open libibverbs.so[.1]", Kind.INFO),
    ("gpu07:4242:4318 [0] misc/socket.cc:58 NCCL WARN no route", Kind.WARNING),
    ("[rank0]:[W1128 14:02:58.120 ProcessGroupNCCL.cpp:4561] Guessing device", Kind.WARNING),
    ("[rank0]:[E1128 14:02:58.120 ProcessGroupNCCL.cpp:607] Watchdog caught", Kind.ERROR),
    ("[E ProcessGroupNCCL.cpp:474] [Rank 0] Watchdog caught", Kind.ERROR),
    ("2026-11-28 14:02:31.5: E external/local_xla/cuda_fft.cc:477] Unable to register", Kind.ERROR),
    ("2026-11-28 14:02:31.5: I tensorflow/core/util/port.cc:153] oneDNN", Kind.INFO),
    ("[2026-11-28 14:02:34,101] [INFO] [real_accelerator.py:222] Setting", Kind.INFO),
    ("WARNING:root:No module named 'triton'", Kind.WARNING), ("ERROR: Unexpected bus error", Kind.ERROR),
    ("wandb: Tracking run", Kind.INFO), ("wandb: WARNING Path is not writable", Kind.WARNING),
    ("wandb: ERROR Error while calling", Kind.ERROR), ("/a/b.py:12: FutureWarning: gone", Kind.WARNING),
    ("Loading checkpoint shards:  50%|█████     | 1/2 [00:03<00:03,  3.1s/it]", Kind.INFO),
    ("2026-11-28 14:03:10  step  1/12  loss 0.007622", Kind.INFO),
    ("2026-11-28 14:03:10  supervisor: out of memory: continuing", Kind.INFO),
    ("I have no level, and an error of my own", Kind.PLAIN)])
def test_a_line_has_the_level_that_it_says(line, kind):
    assert said(line) == [(kind, line)]


@pytest.mark.parametrize(("line", "code"), [
    ("Killed", -9), ("/bin/sh: line 12:  4242 Killed                  python3 -m x", -9),
    ("Segmentation fault (core dumped)", -11), ("srun: error: gpu07: task 0: Bus error", -7),
    ("  exitcode  : 1 (pid: 17330) ", 1), ("  exitcode  : -9 (pid: 17299)  (SIGKILL)", -9),
    ("  traceback : Signal 15 (SIGTERM) received by PID 17329", -15), ("Fatal Python error: Aborted", -6),
    ("[gpu07:3039 :0:3095] Caught signal 7 (Bus error: nonexistent physical address)", -7),
    ("CalledProcessError: Command '['/venv/bin/python3.11', 'train.py']' died with <Signals.SIGKILL: 9>.", -9),
    ("subprocess.CalledProcessError: Command '['torchrun', 'train.py']' returned non-zero exit status 1.", 1),
    ("terminate called after throwing an instance of 'c10::Error'", -6), ("free(): invalid pointer", -6)])
def test_how_a_process_ended_is_its_exit_code(line, code):
    (found,) = parse([Line("", 1, line)])
    assert (found.kind, found.exit_code) == (Kind.EXIT, code)


def test_only_what_the_trainer_has_gone_on_after_is_survived():
    step = "2026-11-28 14:03:1{}  step  {}/12  loss 0.1"
    log = ("KeyError: 1", step.format(0, 1), "KeyError: 2", step.format(1, 2), "KeyError: 3")
    assert [message.is_survived for message in parse([Line("", n, text) for n, text in enumerate(log)])] == [
        True, False, False, False, False]


@given(st.lists(st.sampled_from(LINES) | st.text(max_size=60), max_size=40))
def test_any_lines_are_messages_whose_lines_are_those_of_the_log(log):
    lines = [Line("", n, text) for n, text in enumerate(log, 1)]
    shown = [line for message in parse(lines) for line in message.lines]
    assert shown == sorted(shown, key=lambda line: line.number)
    assert set(shown) <= set(lines)


@pytest.mark.parametrize("text", ["1%|" * 700, "/a:1: " * 400, "A_" * 1000, "Traceback " * 200, "a." * 1000,
                                  "[rank" * 400])
@pytest.mark.timeout(20)
def test_a_long_line_takes_no_long_time(text):
    parse([Line("", n, text) for n in range(400)])
