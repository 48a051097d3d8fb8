"""API: everything a plugin may import. What is not in __all__ may change without notice."""

from rdtops import pages
from rdtops.checks import CheckResult, Status
from rdtops.contract import memory_plan
from rdtops.contract.config import TrainConfig
from rdtops.contract.evaluation import Evaluation
from rdtops.contract.models import MODELS, ModelFacts
from rdtops.contract.outcomes import TrialOutcome, trial_outcomes
from rdtops.contract.run import Checkpoint, Retention, RunEnd, RunPaths, RunSpec, RunState
from rdtops.contract.tally import tallies
from rdtops.errors import PreflightVeto, RdtopsError, RunError
from rdtops.hookspecs import API_VERSION, hookimpl
from rdtops.hostlib import (
    checkpoints,
    fields,
    file_kinds,
    files,
    hub_cache,
    locks,
    manifest,
    names,
    nvidia_smi,
    weight_files,
)
from rdtops.launcher import Cause, Job, JobState, Launcher, Phase, Spread, Submitted, Traits
from rdtops.options import Option
from rdtops.ssh.command import Command, Secret
from rdtops.ssh.connection import Connection, Result
from rdtops.ssh.display import printable
from rdtops.ssh.environment import activation
from rdtops.ssh.hosts import Host
from rdtops.ssh.probe import Answer, Output, Probe, ask
from rdtops.ssh.redaction import redacted, secrets_of
from rdtops.transfer.transfer import download, plan_asset, plan_download, plan_upload, upload
from rdtops.transfer.transfer_plan import Plan

__all__ = [
    "API_VERSION",
    "MODELS",
    "Answer",
    "Cause",
    "CheckResult",
    "Checkpoint",
    "Command",
    "Connection",
    "Evaluation",
    "Host",
    "Job",
    "JobState",
    "Launcher",
    "ModelFacts",
    "Option",
    "Output",
    "Phase",
    "Plan",
    "PreflightVeto",
    "Probe",
    "RdtopsError",
    "Result",
    "Retention",
    "RunEnd",
    "RunError",
    "RunPaths",
    "RunSpec",
    "RunState",
    "Secret",
    "Spread",
    "Status",
    "Submitted",
    "TrainConfig",
    "Traits",
    "TrialOutcome",
    "activation",
    "ask",
    "checkpoints",
    "download",
    "fields",
    "file_kinds",
    "files",
    "hookimpl",
    "hub_cache",
    "locks",
    "manifest",
    "memory_plan",
    "names",
    "nvidia_smi",
    "pages",
    "plan_asset",
    "plan_download",
    "plan_upload",
    "printable",
    "redacted",
    "secrets_of",
    "tallies",
    "trial_outcomes",
    "upload",
    "weight_files",
]
