"""Everything a plugin may import. What is not in __all__ may change without notice."""

from rdtops import pages
from rdtops.checks import CheckResult, Status
from rdtops.contract import checkpoints, fields, files, locks, manifest, names, nvidia_smi
from rdtops.contract.config import TrainConfig
from rdtops.contract.evaluation import Evaluation
from rdtops.contract.models import MODELS, ModelFacts
from rdtops.contract.run import Checkpoint, Retention, RunEnd, RunPaths, RunSpec, RunState
from rdtops.contract.tally import tallies
from rdtops.errors import PreflightVeto, RdtopsError, RunError
from rdtops.hookspecs import API_VERSION, hookimpl
from rdtops.launcher import Cause, Job, JobState, Launcher, Phase, Spread, Submitted
from rdtops.options import Option
from rdtops.remote.command import Command, Secret
from rdtops.remote.connection import Connection, Result
from rdtops.remote.environment import activation
from rdtops.remote.hosts import Host
from rdtops.remote.plan import Plan
from rdtops.remote.probe import Answer, Output, Probe, ask
from rdtops.remote.redaction import redacted, secrets_of
from rdtops.remote.transfer import download, plan_download, plan_upload, upload
from rdtops.remote.words import printable

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
    "activation",
    "ask",
    "checkpoints",
    "download",
    "fields",
    "files",
    "hookimpl",
    "locks",
    "manifest",
    "names",
    "nvidia_smi",
    "pages",
    "plan_download",
    "plan_upload",
    "printable",
    "redacted",
    "secrets_of",
    "tallies",
    "upload",
]
