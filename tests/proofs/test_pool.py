"""Work shared out over processes: in order, with one tool a process, until the first job that fails."""

from __future__ import annotations

import os
from functools import partial

import pytest

from proofs.closed_loop.pool import shared_out
from rdtops.errors import DataError


class Tool:
    def __init__(self, factor: int) -> None:
        self.factor, self.made_in, self.used = factor, os.getpid(), 0

    def work(self, job: int) -> tuple[int, int, int]:
        if job < 0:
            raise DataError(f"{job} is below nothing")
        self.used += 1
        return self.factor * job, self.made_in, self.used


def test_results_come_in_the_order_of_the_jobs_from_one_tool_a_process() -> None:
    done = list(shared_out(partial(Tool, 3), Tool.work, range(7), 2))
    assert [value for value, _, _ in done] == [0, 3, 6, 9, 12, 15, 18]
    used: dict[int, int] = {}
    for _, process, count in done:
        used[process] = max(count, used.get(process, 0))
    assert sum(used.values()) == 7  # had one been made anew for a job, its count would begin again
    assert os.getpid() not in used
    assert len(used) <= 2


def test_the_first_job_that_fails_is_raised_as_it_was_said() -> None:
    done = shared_out(partial(Tool, 1), Tool.work, [1, -2, 3, -4], 1)
    assert next(done)[0] == 1
    with pytest.raises(DataError, match="-2 is below nothing"):
        next(done)
