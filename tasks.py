"""The command line: `inv --list`. Each task turns its arguments into one call of a workflow; rdtops.ui.cli shows what
it yields.

Each function imports what it calls, so that `inv --list` and completion stay fast.
"""

from invoke import Collection, Context, task

from rdtops.ui import cli, command_line

RUNS_HOST = "as for deploy; default: the default host, else that of this laptop's last launch"
HOST = "a host of hosts.toml or of ~/.ssh/config; a,b for several; shared by every task of a chain"
RUN = "a run id or a unique part of one, also as a plain word: inv why 34c8; default: the newest, a running one first"
PRESET = "tiny, libero_single_task, rdt_170m, rdt_1b or one of hosts.toml; default: the host's own"
EVAL = "of its newest evaluation, not of the training"
JSON = "print JSON rows instead of a table"
SET = "key=value, repeatable; inv train --dry-run --host HOST prints every key"


@task(auto_shortflags=False, help={"host": HOST, "ping": "log in and measure a round trip", "json_": JSON})
def hosts(context: Context, host: str = "", ping: bool = False, json_: bool = False) -> None:
    """List the hosts and the routes to them."""
    from rdtops import workflows

    cli.OnHosts(host, json_, all_hosts=True, examples=not ping).run(workflows.hosts, ping=ping)


@task(auto_shortflags=False, help={"host": HOST, "yes": "record the keys without asking; compare them first"})
def trust(context: Context, host: str = "", yes: bool = False) -> None:
    """Show the host key of every hop and record the ones you accept."""
    from rdtops import workflows

    cli.OnHosts(host).run(workflows.trust_host, accept=cli.accept_key(yes))


@task(auto_shortflags=False, iterable=["set_"], help={
    "host": HOST, "preset": PRESET, "set_": SET, "only": "code, data, weights, encoders; separated by commas",
    "from_scratch": "leave the pretrained weights out", "dry_run": "print what would be sent and why", "json_": JSON,
    "env": "make or update the venv that hosts.toml declares, before anything else"})
def deploy(context: Context, host: str = "", preset: str = "", set_: list[str] | None = None, only: str = "",
           env: bool = False, from_scratch: bool = False, dry_run: bool = False, json_: bool = False) -> None:
    """Upload code, data, weights and encoders that are missing or different, and verify them."""
    from rdtops import workflows

    cli.OnHosts(host, json_).run(workflows.deploy, request=cli.request(preset, set_, from_scratch), only=only,
                                 environment=env, dry_run=dry_run)


@task(auto_shortflags=False, help={
    "host": HOST, "to": "a release, or a unique beginning of its name; default: the one before the current",
    "json_": JSON})
def rollback(context: Context, host: str = "", to: str = "", json_: bool = False) -> None:
    """Switch to an earlier release. Running trainings are not affected."""
    from rdtops import workflows

    cli.OnHosts(host, json_).run(workflows.rollback, to=to)


@task(auto_shortflags=False, iterable=["set_"], help={
    "host": HOST, "preset": PRESET, "set_": SET, "from_scratch": "no pretrained weights are needed",
    "all_": "a row for each check, not for each group", "json_": JSON,
    "fresh": "import the packages there even if nothing in the environment has changed since they were"})
def check(context: Context, host: str = "", preset: str = "", set_: list[str] | None = None,
          from_scratch: bool = False, all_: bool = False, fresh: bool = False, json_: bool = False) -> None:
    """Run every preflight check; exit 1 when one fails. Changes nothing on the host."""
    from rdtops import workflows

    cli.OnHosts(host, json_).run(workflows.check, request=cli.request(preset, set_, from_scratch), everything=all_,
                                 fresh=fresh)


@task(auto_shortflags=False, iterable=["set_"], help={
    "host": HOST, "preset": PRESET, "set_": SET, "resume": "resume this run from its newest valid checkpoint",
    "from_scratch": "random weights instead of pretrained ones", "follow": "watch it until it ends",
    "again": "start another one even if the same training is running",
    "dry_run": "print config.json and launch.sh, launch nothing", "json_": JSON})
def train(context: Context, host: str = "", preset: str = "", set_: list[str] | None = None, resume: str = "",
          from_scratch: bool = False, again: bool = False, follow: bool = False, dry_run: bool = False,
          json_: bool = False) -> None:
    """Start a training, detached: it continues without this laptop. The same command again starts no second one."""
    from rdtops import workflows

    cli.OnHosts(host, json_, live=follow).run(
        workflows.train, request=cli.request(preset, set_, from_scratch), resume=resume, again=again, follow=follow,
        dry_run=dry_run)


@task(auto_shortflags=False, help={
    "host": "a host, a,b for several; default: every host, with --run as for deploy", "run": RUN, "json_": JSON,
    "all_": "every run, not only those that are running and the newest"})
def status(context: Context, host: str = "", run: str = "", all_: bool = False, json_: bool = False) -> None:
    """Show the runs of every host: state, step, loss, speed, time left, last checkpoint, GPUs."""
    from rdtops import workflows

    cli.OnHosts(host, json_, all_hosts=not run, of_runs=True).run(workflows.status, run_id=run, everything=all_)


@task(auto_shortflags=False, help={"host": RUNS_HOST, "run": RUN, "lines": "how many of the last lines",
                                   "follow": "print new lines until the run ends", "eval_": EVAL})
def logs(context: Context, host: str = "", run: str = "", lines: int = 50, follow: bool = False,
         eval_: bool = False) -> None:
    """Print the log of a run."""
    from rdtops import workflows

    cli.OnHosts(host, of_runs=True, live=follow).run(workflows.logs, run_id=run, lines=lines, follow=follow,
                                                     evaluated=eval_)


@task(auto_shortflags=False, help={"host": RUNS_HOST, "run": RUN, "json_": JSON})
def why(context: Context, host: str = "", run: str = "", json_: bool = False) -> None:
    """Explain why a run ended or is slow: cause, evidence, next command; exit 1 when it is not healthy."""
    from rdtops import workflows

    cli.OnHosts(host, json_, of_runs=True).run(workflows.why, run_id=run)


@task(auto_shortflags=False, help={"host": RUNS_HOST, "watch": "again every 2 seconds", "json_": JSON})
def gpu(context: Context, host: str = "", watch: bool = False, json_: bool = False) -> None:
    """Show the GPUs of the host, as nvidia-smi does."""
    from rdtops import workflows

    cli.OnHosts(host, json_, of_runs=True, live=watch).run(workflows.gpu, again_every_s=2.0 if watch else 0.0)


@task(auto_shortflags=False, help={"host": RUNS_HOST, "run": RUN, "verify": "read every byte of them on the host",
                                   "json_": JSON})
def checkpoints(context: Context, host: str = "", run: str = "", verify: bool = False, json_: bool = False) -> None:
    """List the checkpoints of a run: size, validation loss, state of their files; exit 1 when one is damaged."""
    from rdtops import workflows

    cli.OnHosts(host, json_, of_runs=True).run(workflows.checkpoints, run_id=run, verify=verify)


@task(auto_shortflags=False, help={"host": RUNS_HOST, "run": RUN})
def attach(context: Context, host: str = "", run: str = "") -> None:
    """Open the terminal of a running training."""
    from rdtops import workflows

    cli.OnHosts(host, of_runs=True).run(workflows.attach, run_id=run)


@task(auto_shortflags=False, help={"host": RUNS_HOST, "run": RUN, "grace": "seconds it gets to save a checkpoint",
                                   "eval_": EVAL})
def stop(context: Context, host: str = "", run: str = "", grace: float = 600.0, eval_: bool = False) -> None:
    """Stop a run after it has saved a checkpoint. Other processes are not affected."""
    from rdtops import workflows

    cli.OnHosts(host, of_runs=True).run(workflows.stop, run_id=run, grace_s=grace, evaluated=eval_)


@task(auto_shortflags=False, help={"host": RUNS_HOST, "run": RUN,
                                    "plain": "lines instead of the dashboard, as in a pipe"})
def watch(context: Context, host: str = "", run: str = "", plain: bool = False) -> None:
    """Follow a run, on a terminal in a dashboard. Plugins handle every checkpoint (after_checkpoint)."""
    from rdtops import workflows

    if plain or not cli.has_dashboard():
        cli.OnHosts(host, of_runs=True, live=True).run(workflows.follow_run, run_id=run)
    else:
        cli.OnHosts(host, of_runs=True).watch(run)


@task(auto_shortflags=False, help={
    "host": RUNS_HOST, "run": RUN + "; all: every run of the host",
    "checkpoint": "latest, best (lowest validation loss), a step, all, or none",
    "into": "the folder in which <host>/<run>/ is created; default: results/ of the project", "json_": JSON})
def fetch_results(context: Context, host: str = "", run: str = "", checkpoint: str = "latest", into: str = "",
                  json_: bool = False) -> None:
    """Download runs: checkpoints, logs, journal, evaluations, videos; verified; with a README and a report."""
    from rdtops import workflows

    cli.OnHosts(host, json_, of_runs=True).run(workflows.fetch_results, run_id=run, which=checkpoint, into=into)


@task(auto_shortflags=False, help={
    "host": RUNS_HOST, "run": RUN + "; or a folder that was fetched: no host is asked then",
    "compare": "a run, or several separated by commas, to lay beside --run: inv report --compare 34c8 bb03",
    "into": "the folder in which <host>/<run>/report.html is created; default: results/ of the project", "json_": JSON})
def report(context: Context, host: str = "", run: str = "", compare: str = "", into: str = "",
           json_: bool = False) -> None:
    """Write an HTML page about a run: curves, checkpoints, checks, evaluations, videos. It needs no network."""
    from rdtops import workflows

    runs = [*(name for name in compare.split(",") if name), run]
    is_here = all(map(workflows.is_folder, runs))
    if compare and is_here:
        cli.on_laptop(lambda session: workflows.compare_here(runs), as_json=json_)
    elif compare:
        cli.OnHosts(host, json_, of_runs=True).run(workflows.compare, run_ids=runs, into=into)
    elif is_here:
        cli.on_laptop(lambda session: workflows.report_here(run), as_json=json_)
    else:
        cli.OnHosts(host, json_, of_runs=True).run(workflows.report, run_id=run, into=into)


@task(name="eval", auto_shortflags=False, iterable=["set_"], help={
    "host": RUNS_HOST, "run": RUN, "preset": PRESET, "set_": SET,
    "checkpoint": "latest, best, a step, or a path on the host: /data/checkpoint-30000/ema/model.safetensors",
    "benchmark": "libero_spatial, libero_object, libero_goal, libero_10 or libero_90",
    "tasks": "2: the first two; or names, parts of names, separated by commas; default: all",
    "trials": "of each task; trial i starts from initial state i, at most 50", "record_video": "of every trial",
    "max_steps": "of a trial; default: the benchmark's usual limit",
    "exec_horizon": "actions of a prediction that are executed before the next one",
    "processes": "in parallel; default: as many as in the training", "seed": "of the policy's noise",
    "codec": "such as seed_compat, for a checkpoint that does not name its own", "device": "default: that of the run",
    "follow": "watch it until it ends", "dry_run": "print eval.json and eval.sh, launch nothing", "json_": JSON})
def evaluate(context: Context, host: str = "", run: str = "", checkpoint: str = "latest", benchmark: str = "libero_90",
             tasks: str = "", trials: int = 20, max_steps: int = 0, exec_horizon: int = 16, record_video: bool = False,
             processes: int = 0, seed: int = 0, codec: str = "", device: str = "", preset: str = "",
             set_: list[str] | None = None, follow: bool = False, dry_run: bool = False, json_: bool = False) -> None:
    """Evaluate a checkpoint in LIBERO's simulator, detached. The same command again resumes it."""
    from rdtops import workflows
    from rdtops.contract.evaluation import Protocol

    protocol = Protocol(benchmark=benchmark, tasks=tasks, trials=trials, max_steps=max_steps,
                        exec_horizon=exec_horizon, record_video=record_video, seed=seed, codec=codec)
    cli.OnHosts(host, json_, of_runs=True, live=follow).run(
        workflows.evaluate, run_id=run, which=checkpoint, protocol=protocol, request=cli.request(preset, set_),
        processes=processes, device=device, follow=follow, dry_run=dry_run)


@task(auto_shortflags=False, help={
    "host": RUNS_HOST, "run": RUN, "step": "the step of the run", "device": "cpu or cuda; default: that of the run",
    "checkpoint": "whose weights, such as step_002000; default: the newest before the step", "json_": JSON})
def replay(context: Context, host: str = "", run: str = "", step: int = 1, checkpoint: str = "", device: str = "",
           json_: bool = False) -> None:
    """Show which samples a step learned from, the loss of each, and the loss that the journal recorded."""
    from rdtops import workflows

    cli.OnHosts(host, json_, of_runs=True).run(workflows.replay, run_id=run, step=step, checkpoint=checkpoint,
                                               device=device)


@task(auto_shortflags=False, iterable=["set_"], help={
    "host": HOST, "preset": PRESET, "set_": SET, "samples": "of the dataset, spread evenly", "json_": JSON})
def normfit(context: Context, host: str = "", preset: str = "", set_: list[str] | None = None, samples: int = 256,
            json_: bool = False) -> None:
    """Find which of the two norms the pretrained weights were trained with, by their loss on the data."""
    from rdtops import workflows

    cli.OnHosts(host, json_).run(workflows.normfit, request=cli.request(preset, set_), samples=samples)


@task(auto_shortflags=False, iterable=["set_"], help={
    "host": "the dataset on this host; default: this laptop's copy", "preset": PRESET, "set_": SET,
    "recompute": "even when neither data nor codec have changed", "json_": JSON})
def stats(context: Context, host: str = "", preset: str = "", set_: list[str] | None = None, recompute: bool = False,
          json_: bool = False) -> None:
    """Verify the dataset's statistics, or compute them when data or codec have changed."""
    from rdtops import workflows

    request = cli.request(preset, set_)
    if host:
        cli.OnHosts(host, json_).run(workflows.stats, request=request, recompute=recompute)
    else:
        cli.on_laptop(lambda session: workflows.stats_here(session, request=request, recompute=recompute),
                      as_json=json_)


@task(name="list", auto_shortflags=False, help={"json_": JSON})
def plugins_list(context: Context, json_: bool = False) -> None:
    """List the plugins: source, hooks, options, health; exit 1 when one is not healthy."""
    from rdtops import workflows

    cli.on_laptop(workflows.plugins, as_json=json_)


@task(name="new", auto_shortflags=False, positional=["name"], help={
    "name": "of the plugin: small letters, digits and _", "json_": JSON,
    "package": "write a separate distribution into ./rdtops-NAME instead of two files into ~/.config/rdtops/plugins"})
def plugins_new(context: Context, name: str, package: bool = False, json_: bool = False) -> None:
    """Write a working plugin, with its test."""
    from rdtops import workflows

    cli.on_laptop(lambda session: workflows.new_plugin(name, package=package), as_json=json_)


@task(name="up", auto_shortflags=False, help={
    "backend": "auto, openssh or asyncssh",
    "door": "how its jump host lets one in: open, noforward, password, code, key-and-code, menu or oldkeys; default: "
            "as it does, at first open"})
def lab_up(context: Context, backend: str = "auto", door: str = "") -> None:
    """Start the lab: a jump host and two GPU hosts on this machine, over real SSH."""
    from rdtops.ui import repository

    cli.on_laptop(lambda session: repository.lab_up(session.say, backend, door))


@task(name="down", auto_shortflags=False)
def lab_down(context: Context) -> None:
    """Stop the lab and everything that was started on its hosts."""
    from rdtops.ui import repository

    cli.on_laptop(lambda session: repository.lab_down(session.say))


@task(name="status", auto_shortflags=False, help={"json_": JSON})
def lab_status(context: Context, json_: bool = False) -> None:
    """Show which servers of the lab are up."""
    from rdtops.ui import repository

    cli.on_laptop(lambda session: repository.lab_status(), as_json=json_)


@task(auto_shortflags=False)
def demo(context: Context) -> None:
    """Run every step on this machine: lab, deploy, check, train, watch, fetch-results."""
    from rdtops.ui import repository

    cli.on_laptop(lambda session: repository.demo(session.say))


@task(auto_shortflags=False, help={"slow": "the slow tests too", "only": "an expression for pytest -k",
                                   "coverage": "measure coverage, and fail below the recorded value"})
def test(context: Context, slow: bool = False, only: str = "", coverage: bool = False) -> None:
    """Run every test of this repository."""
    from rdtops.ui import repository

    cli.on_laptop(lambda session: repository.test(session.say, slow=slow, only=only, coverage=coverage))


@task(auto_shortflags=False)
def lint(context: Context) -> None:
    """Run ruff, mypy and the import contracts."""
    from rdtops.ui import repository

    cli.on_laptop(lambda session: repository.lint())


@task(auto_shortflags=False, positional=["name"], help={
    "name": "which one: closed-loop, startup, check, gpu, scale, trainer, transfer",
    "host": "of gpu: a host of hosts.toml; default: this machine",
    "quick": "fewest runs, no row that takes minutes",
    "only": "the rows whose name contains this word", "json_": JSON})
def bench(context: Context, name: str, host: str = "", quick: bool = False, only: str = "",
          json_: bool = False) -> None:
    """Measure a claim of rdtops against its baseline."""
    from proofs import benches

    cli.on_laptop(lambda session: benches.bench(session, name, host=host, quick=quick, only=only, keep=not json_),
                  as_json=json_)


@task(auto_shortflags=False, positional=["name"], help={
    "name": "which one: disk, environments, hostile, laptop, network, transfer, training, survive, why",
    "kills": "how many; default: 100 laptops, 200 transfers, a training 20 times, 50 of survive, every cause of why; "
             "of hostile: mutations, 500",
    "only": "the rows whose name contains this word", "json_": JSON,
    "door": "of the lab's jump host, for laptop and network; as for lab.up",
    "folder": "of environments: where its venvs lie, kept and used again"})
def drill(context: Context, name: str, kills: int = 0, only: str = "", door: str = "", folder: str = "",
          json_: bool = False) -> None:
    """Cause failures, and verify that rdtops recovers."""
    from proofs import drills

    cli.on_laptop(lambda session: drills.drill(session.say, name, kills=kills, only=only, door=door, folder=folder),
                  as_json=json_)


# what `inv --list` shows, in the order of use; a collection is listed by its tasks
EVERY_DAY = (deploy, check, train, status, watch, logs, why, gpu, stop, attach, checkpoints, fetch_results, report,
             evaluate)
SETTING_UP = (hosts, trust, rollback, stats, normfit, replay)
OF_THE_REPOSITORY = (demo, test, lint, bench, drill)

namespace = Collection(*EVERY_DAY, *SETTING_UP, *OF_THE_REPOSITORY)
namespace.add_collection(Collection("lab", lab_up, lab_down, lab_status))
_plugins = Collection("plugins", plugins_new)
_plugins.add_task(plugins_list, default=True)
namespace.add_collection(_plugins)

command_line.adopt(namespace, {
    "Every day": EVERY_DAY, "Setting up": SETTING_UP, "Plugins": ("plugins",),
    "This repository": ("lab", *OF_THE_REPOSITORY)}, brief=("This repository",))
