"""Workflows: one function for each task and host. They yield results to show (rdtops.views.output)."""

from rdtops.workflows.asking import hosts, new_plugin, normfit, plugins, replay, stats, stats_here, trust_host
from rdtops.workflows.fetching import compare, compare_here, fetch_results, is_folder, report, report_here
from rdtops.workflows.gpu_usage import gpu
from rdtops.workflows.starting import check, deploy, evaluate, rollback, train
from rdtops.workflows.watching import attach, checkpoints, follow_run, logs, status, stop, why

__all__ = [
    "attach", "check", "checkpoints", "compare", "compare_here", "deploy", "evaluate", "fetch_results", "follow_run",
    "gpu", "hosts", "is_folder", "logs", "new_plugin", "normfit", "plugins", "replay", "report", "report_here",
    "rollback", "stats", "stats_here", "status", "stop", "train", "trust_host", "why",
]
