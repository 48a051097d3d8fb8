"""Asset checks: the configuration, the demonstrations and the pretrained weights of a training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rdtops.checks import CheckResult
from rdtops.contract import tensor_names
from rdtops.contract.config import data_options
from rdtops.contract.models import MODELS
from rdtops.contract.run import RunSpec
from rdtops.hostlib import digests, names, tensor_headers, weight_files
from rdtops.hostlib.fields import loads, words
from rdtops.hostlib.file_kinds import size_text
from rdtops.hostlib.names import RelativePath
from rdtops.on_host import dataset_lister, weight_shapes
from rdtops.preflight.check import Answers, Check, Subject, last_line
from rdtops.preflight.python import in_release, with_variables
from rdtops.ssh.command import quoted
from rdtops.ssh.probe import Answer, Output, Probe, program_probe

SURVEY_S = 10.0  # of a large dataset only the first files are examined


@dataclass(frozen=True)
class FolderFacts:
    """File names and sizes of a folder, and its config.json where it has one."""

    sizes: Mapping[str, int]
    config: str


@dataclass(frozen=True)
class DemonstrationsFound:
    """The sizes of the demonstrations of a folder, and what it is where it has none."""

    sizes: Mapping[str, int]
    kind: str
    problem: str


@dataclass(frozen=True)
class StatisticsCheck:
    """The result of rdtops.trainer.statistics: why a training computes new ones, and implausible values."""

    why_not: str
    wrong: str
    odd: Sequence[str]
    unread: int


@dataclass(frozen=True)
class DatasetSummary:
    """The result of rdtops.trainer.survey: how much it examined, and the first problem that a training would reject."""

    files: int
    looked_into: int
    episodes: int
    steps: int
    problem: str
    remedy: str
    without: Sequence[str]  # names that `--set without=` can leave out, so that the rest can be trained on
    wrong_files: Mapping[RelativePath, tuple[int, str]]  # bytes and MD5, of files that cannot be read
    read_as: Sequence[str]
    slow: str  # why images are read slowly; '' where they are not
    statistics: StatisticsCheck


@dataclass(frozen=True)
class WeightsFacts:
    """The weights of a folder: config.json, the weight file, and its tensors as name -> shape, or why they cannot be
    read and what helps."""

    file: str
    config: str
    size_bytes: int
    types: Sequence[str]
    shapes: Mapping[str, tuple[int, ...]]
    problem: str
    remedy: str


# --- configuration ---

def judge_configuration(subject: Subject, _: Answers) -> Iterator[CheckResult]:
    train = subject.spec.train
    summary = (f"{train.preset}: {train.num_processes} x {train.device} x batch {train.batch_size_per_process} x "
               f"accumulation {train.gradient_accumulation_steps} = {train.global_batch_size} samples a step, "
               f"{train.max_steps} steps, a checkpoint every {train.checkpoint_every_steps}")
    odd = []
    if train.warmup_steps >= train.max_steps:
        odd.append(f"warm-up ({train.warmup_steps}) lasts for all {train.max_steps} steps")
    if train.checkpoint_every_steps > train.max_steps:
        odd.append("only the last step is saved")
    if train.checkpoints_keep_every_steps % train.checkpoint_every_steps:
        odd.append(f"checkpoints_keep_every_steps = {train.checkpoints_keep_every_steps} keeps common multiples of "
                   f"itself and checkpoint_every_steps = {train.checkpoint_every_steps} only")
    if odd:
        yield CheckResult.warn("configuration", "; ".join(odd), summary,
                               f"inv train --host {subject.spec.host} --dry-run   # prints every value")
    else:
        yield CheckResult.ok("configuration", summary)


# --- folders ---

def listing(folder: str) -> str:
    """Return the command that lists sizes and names at all levels below a folder; find is POSIX, stat differs between
    systems. -L: a folder of the Hugging Face cache holds links to its files."""
    place = quoted(folder)
    return (f"cd {place} 2>/dev/null && find -L . -type f ! -name '.rdtops-*' -exec sh -c "
            "'for f; do printf \"%s %s\\n\" \"$(wc -c < \"$f\")\" \"${f#./}\"; done' sh {} +; "
            f"echo ---; cat {place}/config.json 2>/dev/null || :")


def parse_folder(output: Output) -> FolderFacts:
    """Parse lines of `size name`, a line `---`, and the text of config.json."""
    listing, mark, config = output.out.partition("---\n")
    if not mark:
        raise ValueError("unexpected answer")
    rows = (line.partition(" ") for line in listing.splitlines() if line.strip())
    return FolderFacts({name: int(size) for size, _, name in rows}, config)


# --- dataset ---

def parse_dataset(output: Output) -> DemonstrationsFound:
    facts = loads(last_line(output))
    return DemonstrationsFound({str(name): int(size) for name, size in facts["sizes"].items()}, str(facts["kind"]),
                               str(facts["problem"]))


def judge_dataset(subject: Subject, answers: Answers) -> Iterator[CheckResult]:
    folder, facts = subject.spec.assets["dataset"], answers["dataset"].value
    if facts is None or facts.problem:
        yield CheckResult.fail("dataset", "cannot be listed", facts.problem if facts else answers["dataset"].problem,
                               subject.there(f"ls -lR {quoted(folder)}"))
        return
    left_out = {name.strip() for name in subject.spec.train.without.split(",")}
    empty = [n for n, size in facts.sizes.items() if not size and n not in left_out]
    if facts.kind:
        yield CheckResult.fail("dataset", f"no *.hdf5 in {folder}: it is {facts.kind}", "",
                               "convert it, see docs/training.md, Demonstrations")
    elif not facts.sizes:
        yield CheckResult.fail("dataset", f"no *.hdf5 in {folder}", "", subject.deploy)
    elif empty:
        yield CheckResult.fail("dataset", f"empty: {', '.join(empty[:5])}", folder, subject.deploy)
    else:
        yield CheckResult.ok("dataset", f"{len(facts.sizes)} HDF5, {sum(facts.sizes.values()) / 1e6:.1f} MB", folder)


def parse_survey(output: Output) -> DatasetSummary:
    facts = loads(last_line(output))
    found = facts["statistics"]
    wrong = {names.relative_path(name): (int(size), str(md5)) for name, (size, md5) in facts["wrong_files"].items()}
    return DatasetSummary(int(facts["files"]), int(facts["looked_into"]), int(facts["episodes"]), int(facts["steps"]),
                          str(facts["problem"]), str(facts["remedy"]), words(facts["without"]), wrong,
                          words(facts["read_as"]), str(facts["slow"]),
                          StatisticsCheck(str(found["why_not"]), str(found["wrong"]),
                                          [str(one) for one in found["odd"]],
                                          int(found["unread"])))


def judge_statistics(subject: Subject, answers: Answers) -> Iterator[CheckResult]:
    """Check statistics.json: fitting values are used, others are computed when the training begins; implausible values
    mean wrong data."""
    answer: Answer[DatasetSummary] = answers["episodes"]
    if answer.value is None or answer.value.problem or answers["release"].value != ["there"]:
        yield CheckResult.skip("statistics", "not checked: it needs the deployed code and readable demonstrations")
        return
    found, train = answer.value.statistics, subject.spec.train
    unread = f"; the MD5 of {found.unread} files is not known yet" if found.unread else ""
    if found.wrong:
        yield CheckResult.warn("statistics", f"implausible: {found.wrong}", "statistics.json beside the demonstrations",
                               f"inv stats --host {subject.spec.host} --recompute --set codec={train.codec}")
    elif found.why_not:
        yield CheckResult.ok("statistics", f"computed when the training begins: {found.why_not}")
    else:
        yield CheckResult.ok("statistics", f"of these data and codec {train.codec}, plausible{unread}",
                             "; ".join(found.odd[:3]))


def judge_episodes(subject: Subject, answers: Answers) -> Iterator[CheckResult]:
    """Check the files with the trainer's own reader: an existing file may be cut off, or lack LIBERO's groups."""
    answer: Answer[DatasetSummary] = answers["episodes"]
    there: DemonstrationsFound | None = answers["dataset"].value
    if answers["release"].value != ["there"] or there is None or not there.sizes:
        yield CheckResult.skip("episodes", "not checked: it needs the deployed code and demonstrations")
        return
    if answer.value is None:
        yield CheckResult.warn("episodes", "the demonstrations could not be examined", answer.problem,
                               subject.there(_survey_line(subject)))
        return
    seen, train = answer.value, subject.spec.train
    counts = f"{seen.episodes} episodes, {seen.steps} steps"
    part = "" if seen.looked_into == seen.files else f" in the first {seen.looked_into} of {seen.files} files"
    if seen.problem:
        says, remedy = _compared(subject, seen)
        yield CheckResult.fail("episodes", seen.problem, f"{counts} are good; {says}".removesuffix("; "),
                               _or_without(subject, seen, remedy))
    elif not seen.episodes:
        yield CheckResult.fail("episodes", f"none{part}", "", subject.deploy)
    elif seen.looked_into == seen.files and train.global_batch_size > seen.steps:
        most = max(1, seen.steps * train.batch_size_per_process // train.global_batch_size)
        words = f"a step takes {train.global_batch_size} samples, and there are {seen.steps}"
        yield CheckResult.warn("episodes", words, counts, subject.setting(f"batch_size_per_process={most}"))
    elif seen.slow:
        yield CheckResult.warn("episodes", f"slow: {seen.slow}", f"{counts}{part}", seen.remedy)
    else:
        yield CheckResult.ok("episodes", f"{counts}{part}, with every field that a training reads",
                             "; ".join(seen.read_as[:3]))


def _compared(subject: Subject, seen: DatasetSummary) -> tuple[str, str]:
    """Return how the files that cannot be read differ from this laptop's, and the remedy: only another copy mends a
    file, the same bytes do not."""
    folder = subject.local.get("dataset")
    if not seen.wrong_files or folder is None:
        return "", seen.remedy or subject.deploy
    other, alike = [], []
    for name, (size, md5) in seen.wrong_files.items():
        own = folder / name
        own_size = own.stat().st_size if own.is_file() else -1
        if own_size == size and md5 and digests.remembered([own])[own] == md5:
            alike.append(f"your own copy of {name} is the same: {size_text(size)}, MD5 {md5}")
        elif own_size == size:
            alike.append(f"your own copy of {name} has the same size, {size_text(size)}")
        elif own_size >= 0:
            other.append(f"your own copy of {name} holds {size_text(own_size)}, the host's {size_text(size)}")
    if alike and not other:
        return "; ".join(alike), f"get the file anew from where it came, into {folder}, then {subject.deploy}"
    return "; ".join([*alike, *other]), subject.deploy if other else seen.remedy or subject.deploy


def _or_without(subject: Subject, seen: DatasetSummary, remedy: str) -> str:
    if not seen.without:
        return remedy
    setting = subject.setting(quoted(f"without={','.join(seen.without)}"))
    return f"{remedy}; or leave out what is named: {setting}"


def _survey_line(subject: Subject) -> str:
    return in_release(subject, "-m", "rdtops.trainer.survey", subject.spec.assets["dataset"], str(SURVEY_S),
                      subject.spec.train.codec, *data_options(subject.spec.train))


# --- pretrained weights ---

def judge_pretrained(subject: Subject, answers: Answers) -> Iterator[CheckResult]:
    spec = subject.spec
    if "pretrained" not in spec.assets:
        yield CheckResult.ok("pretrained", f"none: random weights of {spec.train.model} (--from-scratch)")
    elif answers["weights"].value is None:
        yield CheckResult.fail("pretrained", "cannot be listed", answers["weights"].problem,
                               subject.there(f"ls -lR {quoted(spec.assets['pretrained'])}"))
    else:
        yield pretrained(answers["weights"].value, subject)


def pretrained(facts: WeightsFacts, subject: Subject) -> CheckResult:
    """Check that config.json and a weight file are there, and that config.json fits the model."""
    spec, folder = subject.spec, subject.spec.assets["pretrained"]
    if not facts.file:
        return CheckResult.fail("pretrained", facts.problem or f"no weights in {folder}", folder,
                                _remedy(facts, subject))
    if not facts.config:
        return CheckResult.fail("pretrained", f"{weight_files.CONFIG} missing in {folder}", "",
                                f"{subject.deploy}   # with that of the weights it was trained from")
    differs = architecture_differences(facts.config, spec)
    if differs:
        return CheckResult.fail("pretrained", f"config.json does not fit {spec.train.model}: {differs}", folder,
                                subject.deploy)
    stored = f", {' and '.join(facts.types)}" if facts.types else ""
    return CheckResult.ok("pretrained", f"{facts.file}, {facts.size_bytes / 1e6:.1f} MB{stored}, and config.json fits "
                          f"{spec.train.model}", folder)


def _remedy(facts: WeightsFacts, subject: Subject) -> str:
    """Return the remedy of the host's program, for this host."""
    own = facts.remedy.replace("inv check", f"inv check --host {subject.spec.host}")
    return own.replace("inv deploy", subject.deploy) or subject.deploy


def architecture_differences(config_text: str, spec: RunSpec) -> str:
    facts = MODELS[spec.train.model]
    if config_text and not config_text.lstrip().startswith("{"):
        return config_text[:300]  # says what lies there instead
    try:
        config = loads(config_text)
        there = {"hidden_size": config["rdt"]["hidden_size"], "depth": config["rdt"]["depth"],
                 "num_heads": config["rdt"]["num_heads"], "lang_token_dim": config["lang_token_dim"],
                 "img_token_dim": config["img_token_dim"]}
    except (ValueError, KeyError, TypeError) as error:
        return f"it cannot be read ({type(error).__name__}: {error})"
    wanted = {"hidden_size": facts.hidden_size, "depth": facts.depth, "num_heads": facts.num_heads,
              "lang_token_dim": facts.lang_width, "img_token_dim": facts.img_width}
    return ", ".join(f"{k} {there[k]} instead of {wanted[k]}" for k in wanted if there[k] != wanted[k])


def parse_weights(output: Output) -> WeightsFacts:
    facts = loads(last_line(output))
    shapes = {str(name): tuple(int(n) for n in shape) for name, shape in facts["shapes"].items()}
    return WeightsFacts(str(facts["file"]), str(facts["config"]), int(facts["size_bytes"]),
                        [str(kind) for kind in facts["types"]], shapes, str(facts["problem"]), str(facts["remedy"]))


def judge_tensors(subject: Subject, answers: Answers) -> Iterator[CheckResult]:
    """Check the tensors of the file by name, shape and type, read from its index: nothing is loaded, no code is run."""
    spec = subject.spec
    if "pretrained" not in spec.assets:
        yield CheckResult.skip("weights", "not needed: from scratch")
        return
    facts: WeightsFacts | None = answers["weights"].value
    if facts is None:
        yield CheckResult.warn("weights", "their tensors could not be listed", answers["weights"].problem,
                               subject.there(f"ls -l {quoted(spec.assets['pretrained'])}"))
    elif not facts.file:
        yield CheckResult.skip("weights", "not checked: there is no weight file")
    elif differs := facts.problem or tensor_differences(facts, MODELS[spec.train.model].tensor_shapes):
        yield CheckResult.fail("weights", f"{facts.file}: {differs}", spec.assets["pretrained"],
                               _remedy(facts, subject) if facts.problem else subject.deploy)
    else:
        yield CheckResult.ok("weights", f"{len(facts.shapes)} tensors, the names and shapes of {spec.train.model}")


def tensor_differences(facts: WeightsFacts, wanted: Mapping[str, tuple[int, ...]]) -> str:
    """Return why a training cannot take these tensors; '' when it can."""
    odd = [kind for kind in facts.types if kind not in tensor_headers.FLOATS]
    if odd:
        return f"tensors of {', '.join(odd)}; weights are read from {', '.join(tensor_headers.FLOATS)}"
    try:
        names = tensor_names.plain(facts.shapes, wanted)
    except tensor_names.TwoModels as error:
        return str(error)
    return tensor_names.differences({names[name]: shape for name, shape in facts.shapes.items()}, wanted)


def _dataset_probes(subject: Subject) -> list[Probe[Any]]:
    request = {"folder": subject.spec.assets["dataset"]}
    return [program_probe("dataset", subject.host, dataset_lister, request, parse_dataset)]


def _episodes_probes(subject: Subject) -> list[Probe[Any]]:
    return [Probe("episodes", with_variables(subject) + _survey_line(subject), parse_survey, timeout_s=SURVEY_S + 50)]


def _weights_probes(subject: Subject) -> list[Probe[Any]]:
    folder = subject.spec.assets.get("pretrained")
    if not folder:
        return []
    return [program_probe("weights", subject.host, weight_shapes, {"folder": folder}, parse_weights, timeout_s=30)]


CHECKS = (
    Check("assets", judge_configuration),
    Check("assets", judge_dataset, _dataset_probes),
    Check("assets", judge_episodes, _episodes_probes),
    Check("assets", judge_statistics),
    Check("assets", judge_pretrained, _weights_probes),
    Check("assets", judge_tensors),
)
