"""What a scheduler's word makes of a run's state, and where the launcher of a host comes from."""

import types

import pytest

from rdtops.contract.run import RunState
from rdtops.errors import ConfigError
from rdtops.hookspecs import hookimpl
from rdtops.launcher import Cause, JobState, Launcher, Phase, Submitted, Traits
from rdtops.plugging.registry import Registry
from rdtops.runs import jobs, launchers, why
from rdtops.runs.jobs import Launched
from rdtops.testing import load, make_host
from rdtops.views.launch_output import start_words
from rdtops.views.run_output import job_lines


@pytest.mark.parametrize(("job", "by_files", "state"), [
    (None, RunState.RUNNING, RunState.RUNNING),
    (JobState(Phase.ABSENT), RunState.LOST, RunState.LOST),
    (JobState(Phase.QUEUED, Cause.WAITS), RunState.LOST, RunState.QUEUED),
    (JobState(Phase.QUEUED, Cause.HELD), RunState.FAILED, RunState.QUEUED),
    (JobState(Phase.RUNNING), RunState.LOST, RunState.RUNNING),  # its process is on another machine
    (JobState(Phase.UNKNOWN), RunState.LOST, RunState.UNKNOWN),
    (JobState(Phase.ENDED), RunState.FINISHED, RunState.FINISHED),
    (JobState(Phase.ENDED), RunState.FAILED, RunState.FAILED),
    (JobState(Phase.ENDED, Cause.CANCELLED), RunState.LOST, RunState.STOPPED),
    (JobState(Phase.ENDED, Cause.PREEMPTED), RunState.FAILED, RunState.STOPPED),
    (JobState(Phase.ENDED, Cause.TIMED_OUT), RunState.LOST, RunState.FAILED),
    (JobState(Phase.ENDED, Cause.OUT_OF_MEMORY), RunState.LOST, RunState.FAILED),
    (JobState(Phase.ENDED, Cause.NODE_FAILED), RunState.LOST, RunState.LOST),
    (JobState(Phase.ENDED, Cause.FORGOTTEN), RunState.FINISHED, RunState.FINISHED),
])
def test_the_scheduler_tells_and_the_files_where_it_knows_no_more(job, by_files, state):
    assert jobs.state_of(job, by_files) is state


@pytest.mark.parametrize("state", list(RunState))
def test_what_may_run_has_not_ended_and_can_be_stopped(state):
    assert state.ended is (state.value in ("finished", "failed", "stopped", "lost"))
    assert state.can_be_stopped is (state.value in ("queued", "running", "unknown"))


@pytest.mark.parametrize("cause", list(Cause))
def test_every_cause_has_a_diagnosis_of_its_own(cause):
    from rdtops.contract.diagnosis.causes import CAUSES

    found = why._job_diagnosis(JobState(Phase.ENDED, cause, "7", "job 7 …", "inv logs"))
    if cause in (Cause.NONE, Cause.FORGOTTEN):
        assert found is None  # its own files tell
    else:
        assert found.cause in CAUSES
        assert (found.summary, found.next) == ("job 7 …", "inv logs")


def test_a_silent_scheduler_is_a_diagnosis_and_a_running_job_is_not():
    assert why._job_diagnosis(JobState(Phase.UNKNOWN)).cause == "scheduler_silent"
    assert why._job_diagnosis(JobState(Phase.RUNNING)) is None
    assert why._job_diagnosis(None) is None


def test_a_running_job_is_alive_wherever_its_processes_are():
    seen = why._without_processes({"alive": False, "gpus": [{"index": 0}], "exit_code": None}, JobState(Phase.RUNNING))
    assert (seen["alive"], seen["gpus"], seen["exit_code"]) == (True, [], None)
    assert why._without_processes({"alive": True}, None) == {"alive": True}


# --- launchers ---

def test_the_bundled_launchers_need_no_plugin():
    for name in ("auto", "tmux", "setsid"):
        launcher = launchers.launcher(make_host(launcher=name), Registry([]))
        assert (launcher.name, launcher.is_local) == (name, True)


def test_a_plugin_s_launcher_has_the_options_of_the_host():
    host = make_host(launcher="slurm", plugins={"slurm": {"nodes": 3}})
    launcher = launchers.launcher(host, Registry([load("slurm")]))
    assert (launcher.name, launcher.is_local, launcher.options["nodes"]) == ("slurm", False, 3)


class Pbs:
    """As a third party writes one: the methods of the protocol, and nothing else of ours."""

    def __init__(self, is_local=False):
        self.name, self.is_local = "pbs", is_local

    files = spread = submit = states = stop = inside = start_line = attach_line = lambda *_: None


def test_a_launcher_that_says_no_traits_has_those_of_where_its_jobs_run():
    assert isinstance(Pbs(), Launcher)
    assert Traits.of(Pbs()) == Traits(is_local=False, is_scheduled=True)
    assert Traits.of(Pbs(is_local=True)) == Traits(is_local=True, is_scheduled=False)
    assert Traits.of(Pbs()).detaches_with == ""  # its jobs are submitted


def test_a_launcher_may_say_that_a_scheduler_rules_this_very_machine():
    workstation = Pbs(is_local=True)
    workstation.traits = Traits(is_local=True, is_scheduled=True)
    assert Traits.of(workstation) is workstation.traits


def test_of_a_launcher_that_is_not_there_nothing_is_assumed():
    assert launchers.traits(make_host(launcher="slrum")) == Traits(is_local=False, is_scheduled=True)
    assert launchers.traits(make_host(launcher="tmux")).programs == ("tmux",)


def test_an_unknown_launcher_names_the_nearest_and_what_is_wrong_with_plugins():
    with pytest.raises(ConfigError, match="there is no launcher 'slrum'; did you mean 'slurm'"):
        launchers.launcher(make_host(launcher="slrum"), Registry([load("slurm")]))

    @hookimpl
    def register_launchers():
        raise ValueError("no licence")

    module = types.ModuleType("pbs")
    module.register_launchers = register_launchers
    with pytest.raises(ConfigError, match="pbs: no licence"):
        launchers.launcher(make_host(launcher="pbs"), Registry([load(module)]))


def test_wrong_options_keep_a_launcher_from_starting_anything():
    with pytest.raises(ConfigError, match=r"nodes must be at least 1"):
        launchers.launcher(make_host(launcher="slurm", plugins={"slurm": {"nodes": 0}}), Registry([load("slurm")]))


# --- how it looks ---

def plain(lines):
    return [line.plain for line in lines]


def test_a_job_is_told_below_its_run_and_a_remedy_where_one_is_needed():
    held = JobState(Phase.QUEUED, Cause.HELD, "7", "job 7 is held by you", "scontrol release 7   # on cluster")
    assert plain(job_lines(held)) == ["job 7 is held by you", "-> scontrol release 7   # on cluster"]
    assert plain(job_lines(JobState(Phase.RUNNING, id="7", words="job 7 runs on n1"))) == ["job 7 runs on n1"]
    assert job_lines(None) == job_lines(JobState(Phase.ABSENT)) == []


def test_the_launch_says_what_has_it():
    def shown(words, is_scheduled):
        return start_words(Launched("h", "run", "~/run", Submitted(words), is_scheduled))

    assert shown("tmux", False) == "detached in tmux"
    assert shown("Slurm, job 12", True) == "handed to Slurm, job 12"


def test_the_rows_of_a_launch_keep_their_keys():
    job = Submitted("tmux", note="no window")
    assert Launched("h", "run", "~/run", job, resumed_from="step_000010").to_json() == {
        "host": "h", "run_id": "run", "launcher": "tmux", "root": "~/run", "resumed_from": "step_000010",
        "is_new": True, "note": "no window"}
    assert Launched("h", "run", "~/run", Submitted("tmux", already=True)).to_json()["launcher"] == ""
    assert Launched("h", "run", "~/e", job, evaluation="e", tasks=("t",), trials=20, notes=("n",)).to_json() == {
        "host": "h", "run_id": "run", "name": "e", "launcher": "tmux", "folder": "~/e", "tasks": ("t",), "trials": 20,
        "notes": ("n",)}
