"""The corpus of endings: each is taken for what it was, whatever other programs print before it."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proofs.staging import endings
from rdtops.contract.diagnosis.causes import CAUSES
from rdtops.contract.diagnosis.symptoms import SYMPTOMS

CORPUS = endings.read()
NOISE = sorted({line for ending in CORPUS for line in ending.noise})
# of a run that is alive, was never launched, or of which a cluster's scheduler says it
NO_ENDINGS = {"healthy", "silent", "prepared", "queued", "held", "not_started", "forgotten", "scheduler_silent",
              "slow_data", "slow_checkpoints", "slow_rank", "shared_gpu", "throttled_gpu"}
LEVELS = ("INFO:root:", "WARNING:root:", "wandb: WARNING ", "gpu07:4242:4318 [0] NCCL INFO ",
          "gpu07:4242:4318 [0] misc/socket.cc:58 NCCL WARN ", "[2026-11-28 14:02:34,101] [WARNING] [config.py:12] ",
          "W1128 14:02:29.201000 4240 torch/distributed/run.py:793] ", "/data/rdt/x.py:12: UserWarning: ",
          "[rank1]:[W1128 14:02:44.120733914 ProcessGroupNCCL.cpp:4561] ", "2026-11-28 14:02:58  ",
          "2026-11-28 14:02:33.102301: W external/local_xla/xla/tsl/framework/bfc_allocator.cc:306] ",
          "2026-11-28 14:02:33,102 - root - WARNING - ")
WORDS = sorted({line for ending in CORPUS for line in ending.end
                if any(symptom.pattern.search(line) for symptom in SYMPTOMS)})


def verdict(ending, log=()):
    found = ending.diagnosis(log)
    return found.cause, found.restart


@pytest.mark.parametrize("ending", CORPUS, ids=lambda ending: ending.name)
def test_an_ending_is_taken_for_what_it_was(ending):
    assert verdict(ending) == (ending.cause, ending.restart), ending.diagnosis()
    assert verdict(ending, ending.end or ("",)) == (ending.cause, ending.restart)


def test_the_corpus_has_every_cause_that_an_ending_can_have():
    assert {ending.cause for ending in CORPUS} == set(CAUSES) - NO_ENDINGS


def test_the_table_has_no_confusion():
    rows = endings.confusion(CORPUS)
    assert sum(row.endings for row in rows) == len(CORPUS) >= 60
    assert [row for row in rows if not row.passed] == []


def test_a_wrong_diagnosis_is_a_row_of_its_own(tmp_path):
    text = (endings.FOLDER / "rank_killed.txt").read_text()
    (tmp_path / "one.txt").write_text(re.sub("^cause: killed", "cause: crashed", text))
    (tmp_path / "two.txt").write_text((endings.FOLDER / "no_module.txt").read_text().replace("restart: no",
                                                                                             "restart: yes"))
    assert endings.confusion(endings.read(tmp_path)) == [
        endings.Confusion("crashed", "killed", 1, 0), endings.Confusion("environment", "environment", 1, 1)]


@given(st.data(), st.sampled_from(CORPUS))
def test_noise_before_the_end_changes_no_diagnosis(data, ending):
    before = list(ending.noise)
    for line in data.draw(st.lists(st.sampled_from(NOISE), min_size=1, max_size=12)):
        before.insert(data.draw(st.integers(0, len(before))), line)
    assert verdict(ending, (*before, *ending.end)) == (ending.cause, ending.restart)


@given(st.sampled_from(CORPUS), st.sampled_from(CORPUS))
def test_the_noise_of_another_training_changes_no_diagnosis(ending, other):
    assert verdict(ending, (*other.noise, *ending.noise, *ending.end)) == (ending.cause, ending.restart)


@given(st.sampled_from(CORPUS), st.sampled_from(LEVELS), st.sampled_from(WORDS))
def test_words_of_level_info_or_warning_at_the_start_change_no_diagnosis(ending, level, words):
    assert verdict(ending, (level + words, *ending.noise, *ending.end)) == (ending.cause, ending.restart)


@given(st.sampled_from([ending for ending in CORPUS if ending.restart and ending.journal]), st.sampled_from(WORDS))
def test_one_loose_line_forbids_no_restart_once_steps_were_made(ending, words):
    found = ending.diagnosis((words, *ending.noise, *ending.end))
    assert found.restart, found
