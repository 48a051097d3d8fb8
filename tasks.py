"""The command line: `inv --list`. One task turns its arguments into one workflow and leaves the showing to cli.

Nothing heavy is imported here, so that `inv --list` and completion stay instant.
"""

from invoke import Collection, task

from rdtops.ui import cli

RUNS_HOST = "as for deploy; default: the default host, else the one on which this laptop launched last"
HOST = "a host of hosts.toml or of ~/.ssh/config; a,b for several; shared by every task of a chain"
RUN = "a run id, or a unique beginning or end of one; default: the newest"
PRESET = "tiny, libero_single_task, rdt_170m or rdt_1b; default: the host's own"
EVAL = "of its newest evaluation, not of the training"
JSON = "print JSON rows instead of a table"
SET = "key=value, repeatable; inv train --dry-run prints every key"


@task(auto_shortflags=False, help={"host": HOST, "ping": "log in and measure a round trip", "json_": JSON})
def hosts(_, host="", ping=False, json_=False):
    """List the hosts and the routes to them."""
    cli.on_hosts("hosts", host, as_json=json_, all_hosts=True, ping=ping)


@task(auto_shortflags=False, help={"host": HOST, "yes": "record the keys without asking; compare them first"})
def trust(_, host="", yes=False):
    """Show the host key of every hop and record the ones you accept."""
    cli.on_hosts("trust_host", host, accept=cli.accept_key(yes))


@task(auto_shortflags=False, iterable=["set_"], help={
    "host": HOST, "preset": PRESET, "set_": SET, "only": "code, data, weights, encoders; separated by commas",
    "from_scratch": "leave the pretrained weights out", "dry_run": "say what would be sent and why", "json_": JSON,
    "env": "make or update the venv that hosts.toml declares, before anything else"})
def deploy(_, host="", preset="", set_=None, only="", env=False, from_scratch=False, dry_run=False, json_=False):
    """Send code, data, weights and encoders: what is missing or different, verified."""
    cli.on_hosts("deploy", host, as_json=json_, wish=cli.wish(preset, set_, from_scratch), only=only,
                 environment=env, dry_run=dry_run)


@task(auto_shortflags=False, help={
    "host": HOST, "to": "a release, or a unique beginning of its name; default: the one before the current",
    "json_": JSON})
def rollback(_, host="", to="", json_=False):
    """Let trainings have an earlier release, until the next deploy. What runs is left alone."""
    cli.on_hosts("rollback", host, as_json=json_, to=to)


@task(auto_shortflags=False, iterable=["set_"], help={
    "host": HOST, "preset": PRESET, "set_": SET, "from_scratch": "no pretrained weights are needed", "json_": JSON})
def check(_, host="", preset="", set_=None, from_scratch=False, json_=False):
    """Ask every preflight check; exit 1 when one fails. Changes nothing on the host."""
    cli.on_hosts("check", host, as_json=json_, wish=cli.wish(preset, set_, from_scratch))


@task(auto_shortflags=False, iterable=["set_"], help={
    "host": HOST, "preset": PRESET, "set_": SET, "resume": "go on with this run from its newest valid checkpoint",
    "from_scratch": "random weights instead of pretrained ones", "follow": "watch it until it ends",
    "again": "one more, though the very same training is running",
    "dry_run": "print config.json and launch.sh, launch nothing", "json_": JSON})
def train(_, host="", preset="", set_=None, resume="", from_scratch=False, again=False, follow=False, dry_run=False,
          json_=False):
    """Launch a training, detached: it goes on without this laptop. Typed twice, there is still one."""
    cli.on_hosts("train", host, as_json=json_, wish=cli.wish(preset, set_, from_scratch), resume=resume, again=again,
                 follow=follow, dry_run=dry_run)


@task(auto_shortflags=False, help={
    "host": "a host, a,b for several; default: every host, with --run as for deploy", "run": RUN, "json_": JSON,
    "all_": "every run, not only those that are running and the newest"})
def status(_, host="", run="", all_=False, json_=False):
    """What became of the runs: state, step, loss, speed, time to go, last checkpoint, GPUs."""
    cli.on_hosts("status", host, all_hosts=not run, of_runs=True, as_json=json_, run_id=run, everything=all_)


@task(auto_shortflags=False, help={"host": RUNS_HOST, "run": RUN, "lines": "how many of the last lines",
                                   "follow": "go on until the run ends", "eval_": EVAL})
def logs(_, host="", run="", lines=50, follow=False, eval_=False):
    """The log of a run."""
    cli.on_hosts("logs", host, of_runs=True, run_id=run, lines=lines, follow=follow, evaluated=eval_)


@task(auto_shortflags=False, help={"host": RUNS_HOST, "run": RUN, "json_": JSON})
def why(_, host="", run="", json_=False):
    """What ended a run, or slows it: the cause, its evidence, the next command; exit 1 when it is not well."""
    cli.on_hosts("why", host, of_runs=True, as_json=json_, run_id=run)


@task(auto_shortflags=False, help={"host": RUNS_HOST, "watch": "again every 2 seconds", "json_": JSON})
def gpu(_, host="", watch=False, json_=False):
    """What nvidia-smi says on the host."""
    cli.on_hosts("gpu", host, of_runs=True, as_json=json_, again_every_s=2.0 if watch else 0.0)


@task(auto_shortflags=False, help={"host": RUNS_HOST, "run": RUN, "verify": "read every byte of them there",
                                   "json_": JSON})
def checkpoints(_, host="", run="", verify=False, json_=False):
    """The checkpoints of a run: size, held-out loss, whether their files are whole; exit 1 when one is damaged."""
    cli.on_hosts("checkpoints", host, of_runs=True, as_json=json_, run_id=run, verify=verify)


@task(auto_shortflags=False, help={"host": RUNS_HOST, "run": RUN})
def attach(_, host="", run=""):
    """Open the terminal of a running training."""
    cli.on_hosts("attach", host, of_runs=True, run_id=run)


@task(auto_shortflags=False, help={"host": RUNS_HOST, "run": RUN, "grace": "seconds it gets to save a checkpoint",
                                   "eval_": EVAL})
def stop(_, host="", run="", grace=600.0, eval_=False):
    """Let a run save a checkpoint and stop; nobody else's process is touched."""
    cli.on_hosts("stop", host, of_runs=True, run_id=run, grace_s=grace, evaluated=eval_)


@task(auto_shortflags=False, help={"host": RUNS_HOST, "run": RUN,
                                    "plain": "lines instead of the dashboard, as in a pipe"})
def watch(_, host="", run="", plain=False):
    """Follow a run, on a terminal in a dashboard; after_checkpoint fires for every checkpoint."""
    cli.watch(host, run_id=run, plain=plain)


@task(auto_shortflags=False, help={
    "host": RUNS_HOST, "run": RUN + "; all: every run of the host",
    "checkpoint": "latest, best (of the lowest held-out loss), a step, all, or none",
    "into": "where results/<host>/<run>/ is made", "json_": JSON})
def fetch_results(_, host="", run="", checkpoint="latest", into="results", json_=False):
    """Bring runs home: checkpoints, logs, journal, evaluations, videos; verified; with a README and a report."""
    cli.on_hosts("fetch_results", host, of_runs=True, as_json=json_, run_id=run, which=checkpoint, into=into)


@task(auto_shortflags=False, help={
    "host": RUNS_HOST, "run": RUN + "; or a folder that was fetched: no host is asked then",
    "into": "where results/<host>/<run>/report.html is made", "json_": JSON})
def report(_, host="", run="", into="results", json_=False):
    """Write one HTML page about a run: curves, checkpoints, checks, evaluations, videos; it needs no network."""
    if "/" in run:
        cli.on_laptop("report_here", as_json=json_, folder=run)
    else:
        cli.on_hosts("report", host, of_runs=True, as_json=json_, run_id=run, into=into)


@task(name="eval", auto_shortflags=False, iterable=["set_"], help={
    "host": RUNS_HOST, "run": RUN, "preset": PRESET, "set_": SET,
    "checkpoint": "latest, best, a step, or a path on the host: /data/checkpoint-30000/ema/model.safetensors",
    "benchmark": "libero_spatial, libero_object, libero_goal, libero_10 or libero_90",
    "tasks": "2: the first two of it; or names, parts of names, separated by commas; default: all",
    "trials": "of each task; trial i starts from initial state i, at most 50", "record_video": "of every trial",
    "max_steps": "of a trial; default: the benchmark's usual limit",
    "exec_horizon": "actions of a prediction that are executed before the next one",
    "processes": "side by side; default: as many as trained", "seed": "of the policy's noise",
    "codec": "seed_compat, say, where the checkpoint does not name its own", "device": "default: that of the run",
    "follow": "watch it until it ends", "dry_run": "print eval.json and eval.sh, launch nothing", "json_": JSON})
def evaluate(_, host="", run="", checkpoint="latest", benchmark="libero_90", tasks="", trials=20, max_steps=0,
             exec_horizon=16, record_video=False, processes=0, seed=0, codec="", device="", preset="", set_=None,
             follow=False, dry_run=False, json_=False):
    """Evaluate a checkpoint in LIBERO's simulator, detached; the same command goes on where it ended."""
    protocol = cli.protocol(benchmark=benchmark, tasks=tasks, trials=trials, max_steps=max_steps,
                            exec_horizon=exec_horizon, record_video=record_video, seed=seed, codec=codec)
    cli.on_hosts("evaluate", host, of_runs=True, as_json=json_, run_id=run, which=checkpoint, protocol=protocol,
                 wish=cli.wish(preset, set_), processes=processes, device=device, follow=follow, dry_run=dry_run)


@task(auto_shortflags=False, help={
    "host": RUNS_HOST, "run": RUN, "step": "which step of it", "device": "cpu or cuda; default: that of the run",
    "checkpoint": "whose weights, step_002000 say; default: the newest before the step", "json_": JSON})
def replay(_, host="", run="", step=1, checkpoint="", device="", json_=False):
    """Which samples a step learnt from, the loss of each, and the loss that the Journal recorded."""
    cli.on_hosts("replay", host, of_runs=True, as_json=json_, run_id=run, step=step, checkpoint=checkpoint,
                 device=device)


@task(auto_shortflags=False, iterable=["set_"], help={
    "host": HOST, "preset": PRESET, "set_": SET, "samples": "of the dataset, spread evenly", "json_": JSON})
def normfit(_, host="", preset="", set_=None, samples=256, json_=False):
    """Which of the two norms the pretrained weights were trained with, told by their loss on the data."""
    cli.on_hosts("normfit", host, as_json=json_, wish=cli.wish(preset, set_), samples=samples)


@task(auto_shortflags=False, iterable=["set_"], help={
    "host": "look at the dataset there; default: at this laptop's copy", "preset": PRESET, "set_": SET,
    "recompute": "also when neither data nor codec have changed", "json_": JSON})
def stats(_, host="", preset="", set_=None, recompute=False, json_=False):
    """Verify the dataset's statistics, or compute them when data or codec have changed."""
    cli.on_host_or_laptop("stats", host, as_json=json_, wish=cli.wish(preset, set_), recompute=recompute)


@task(name="list", auto_shortflags=False, help={"json_": JSON})
def plugins_list(_, json_=False):
    """Which plugins are loaded, from where, their hooks, options and health; exit 1 when one is not well."""
    cli.on_laptop("plugins", as_json=json_)


@task(name="new", auto_shortflags=False, positional=["name"], help={
    "name": "of the plugin: small letters, digits and _", "json_": JSON,
    "package": "a distribution of its own, in ./rdtops-NAME, instead of two files in ~/.config/rdtops/plugins"})
def plugins_new(_, name, package=False, json_=False):
    """Write a plugin that works, with its test."""
    cli.on_laptop("new_plugin", as_json=json_, name=name, package=package)


@task(name="up", auto_shortflags=False, help={"backend": "auto, openssh or asyncssh"})
def lab_up(_, backend="auto"):
    """Start the lab: a jump host and two GPU hosts on this machine, over real SSH."""
    cli.on_lab("up", backend=backend)


@task(name="down", auto_shortflags=False)
def lab_down(_):
    """Stop the lab and everything that was started on its hosts."""
    cli.on_lab("down")


@task(name="status", auto_shortflags=False, help={"json_": JSON})
def lab_status(_, json_=False):
    """What of the lab is up."""
    cli.on_lab("status", as_json=json_)


@task(auto_shortflags=False)
def demo(_):
    """The whole road on this machine: lab, deploy, check, train, watch, fetch-results."""
    cli.on_repository("demo")


@task(auto_shortflags=False, help={"slow": "the long proofs as well", "only": "an expression for pytest -k",
                                   "coverage": "measure it, and fail below the recorded value"})
def test(_, slow=False, only="", coverage=False):
    """Every test of this repository."""
    cli.on_repository("test", slow=slow, only=only, coverage=coverage)


@task(auto_shortflags=False)
def lint(_):
    """ruff, mypy and the import contracts."""
    cli.on_repository("lint")


@task(auto_shortflags=False, positional=["name"], help={
    "name": "which one: closed-loop, startup, check, scale, trainer, transfer",
    "quick": "fewest runs, no row that takes minutes",
    "only": "the rows whose name has this word", "json_": JSON})
def bench(_, name, quick=False, only="", json_=False):
    """Measure a promise of ours side by side with what it is promised against."""
    cli.on_repository("bench", room="proofs.benches", name=name, quick=quick, only=only, as_json=json_)


@task(auto_shortflags=False, positional=["name"], help={
    "name": "which one: disk, hostile, laptop, network, transfer, training, survive, why",
    "kills": "how many; default: 100 laptops, 200 transfers, a training 20 times, 50 of survive, every cause of why; "
             "of hostile: mutations, 500",
    "only": "the rows whose name has this word", "json_": JSON})
def drill(_, name, kills=0, only="", json_=False):
    """Break what must survive it, and see whether it comes right in the end."""
    cli.on_repository("drill", room="proofs.drills", name=name, kills=kills, only=only, as_json=json_)


namespace = Collection(hosts, trust, deploy, rollback, check, train, status, logs, why, gpu, checkpoints, attach, stop,
                       watch, fetch_results, report, evaluate, replay, normfit, stats, demo, test, lint, bench, drill)
namespace.add_collection(Collection("lab", lab_up, lab_down, lab_status))
_plugins = Collection("plugins", plugins_new)
_plugins.add_task(plugins_list, default=True)
namespace.add_collection(_plugins)
