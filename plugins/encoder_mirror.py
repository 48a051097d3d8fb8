"""Check that both encoders are complete on the host; else upload them from here, or download them from a mirror."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from rdtops.api import (
    MODELS,
    Answer,
    CheckResult,
    Command,
    Connection,
    Host,
    Option,
    Output,
    PreflightVeto,
    Probe,
    RdtopsError,
    RunSpec,
    Status,
    activation,
    ask,
    fields,
    file_kinds,
    hookimpl,
    hub_cache,
    plan_asset,
    redacted,
    secrets_of,
    upload,
    weight_files,
)

ROLES = ("text_encoder", "vision_encoder")
HUB = "https://huggingface.co"
HUB_NAMES = {"t5-v1_1-xxl": "google/t5-v1_1-xxl", "siglip-so400m-patch14-384": "google/siglip-so400m-patch14-384"}
OPTIONS = {"endpoint": Option(str, "the URL of a hub or mirror, as https://...; else HF_ENDPOINT of env",
                              pattern="https?://.+"),
           "download": Option(bool, "download on the host; default: when an endpoint is set")}
TIME_LIMIT_S = {"before_train": 24 * 3600}  # 45 GB over a slow connection
INDEX, WEIGHTS, TOKENIZERS = weight_files.INDEX, weight_files.OF_TRANSFORMERS, weight_files.TOKENIZERS
MODEL_TYPES = {"text_encoder": ("t5",), "vision_encoder": ("siglip", "siglip_vision_model")}  # of config.json
DOWNLOAD_TIMEOUT_S = 6 * 3600.0
SILENCE_S = 60.0
# Runs on the host. Its input is the environment, so that no command line has a token; it prints a dot every 5 s, so
# that both sides notice a dead connection.
_DOWNLOAD = """\
import json, os, sys, threading
os.environ.update(json.load(sys.stdin))
from huggingface_hub import snapshot_download
def pulse(ended=threading.Event()):
    while not ended.wait(5):
        try:
            os.write(1, b".")
        except OSError:
            os._exit(1)
threading.Thread(target=pulse, daemon=True).start()
snapshot_download(sys.argv[1], local_dir=sys.argv[2], ignore_patterns=["*.h5", "*.msgpack", "*.onnx", "*.ot"])
"""
# Fetches the beginning of files as the download would: with the same library, and so through the same proxies, with the
# same certificates, and through redirects to the server that holds the large files, which may be blocked.
_FETCH = """\
import json, os, sys, time
asked = json.load(sys.stdin)
os.environ.update(asked['variables'])
from huggingface_hub.utils import build_hf_headers, get_session
session, headers = get_session(), {**build_hf_headers(), 'Range': 'bytes=0-65535'}
def head(url):
    if callable(getattr(session, 'stream', None)):  # httpx; earlier versions have requests
        with session.stream('GET', url, headers=headers, timeout=10) as answer:
            answer.raise_for_status()
            return next(answer.iter_bytes(65536), b'')
    with session.get(url, headers=headers, timeout=10, stream=True) as answer:
        answer.raise_for_status()
        return next(answer.iter_content(65536), b'')
found = {}
for url in asked['urls']:
    begun = time.monotonic()
    try:
        content = head(url)
        kind = 'html' if content.lstrip()[:1] == b'<' else ''
        found[url] = {'bytes': len(content), 'seconds': time.monotonic() - begun, 'problem': kind and 'a web page'}
    except Exception as error:
        found[url] = {'bytes': 0, 'seconds': 0, 'problem': type(error).__name__ + ': ' + str(error)[:200]}
print(json.dumps(found))
"""
FETCHED = ("config.json", "pytorch_model.bin")  # of T5: a small file, and one on another server of the hub


@dataclass(frozen=True)
class EncoderDownload:
    """The beginning of one file, as the host downloaded it, or the `problem`."""

    size_bytes: int
    seconds: float
    problem: str


@dataclass(frozen=True)
class Encoder:
    """The content of an encoder's folder. `config` is None when config.json is missing or not a JSON object."""

    files: frozenset[str]  # the non-empty ones
    shards: frozenset[str]  # named by the index of the weights
    config: Mapping[str, object] | None
    instead: tuple[str, ...] = ()  # what lies in place of a file: "spiece.model is a web page"


@dataclass(frozen=True)
class Mirror:
    """The server from which the host can download encoders."""

    endpoint: str  # '' where none is named
    allowed: bool

    def brings(self, name: str) -> bool:
        return bool(self.allowed and self.endpoint and name in HUB_NAMES)


def mirror_of(host: Host, options: Mapping[str, Any]) -> Mirror:
    default = HUB if options["download"] else ""
    return Mirror(options["endpoint"] or host.env.get("HF_ENDPOINT") or default, options["download"] is not False)


def parse(output: Output) -> Encoder:
    """Parse file names, a line `---`, names of weight files in quotes, a line `---`, and config.json. A name before
    which `/pointer` or `/page` stands is of a file that holds something else; no name has a slash."""
    parts = output.out.split("---\n", 2)
    if output.code != 0 or len(parts) != 3:
        raise ValueError("unexpected answer")
    listing, shards, config = parts
    broken = [line.split(" ", 2) for line in listing.splitlines() if line.startswith("/")]
    instead = tuple(f"{name} is {_kind(kind, size)}" for kind, size, name in broken)
    try:
        values = fields.loads(config)
    except ValueError:
        values = None
    names = frozenset(line for line in listing.splitlines() if not line.startswith("/"))
    return Encoder(names, frozenset(line.strip('"') for line in shards.splitlines()),
                   values if isinstance(values, dict) else None, instead)


def _kind(kind: str, size: str) -> str:
    if kind == "/page":
        return "a web page"
    return f"a Git LFS pointer of a {file_kinds.size_text(int(size))} file" if size.isdecimal() else "a Git LFS pointer"


def probe(role: str, folder: str) -> Probe[Encoder]:
    """Return the probe of an encoder. Large weights may be in several files, which *.index.json names. A clone without
    git-lfs has small texts in place of them, which do not count; neither does a file that is still coming."""
    here = '[ -f "$f" ] && [ -s "$f" ]' + "".join(f' && [ ! -e "$f{suffix}" ]' for suffix in hub_cache.BEGUN)
    line = (f"cd {Command(folder).shell()} 2>/dev/null || {{ echo ---; echo ---; exit 0; }}; "
            f'for f in *; do {here} || continue; '
            'if head -c 40 "$f" | grep -q "^version https://git-lfs"; then '
            'echo "/pointer $(sed -n "s/^size \\([0-9]\\{1,18\\}\\).*/\\1/p" "$f" | head -n 1) $f"; '
            'elif head -c 300 "$f" | grep -qi "<html\\|<!doctype html"; then echo "/page - $f"; '
            'else echo "$f"; fi; done; '
            "echo ---; "
            "grep -ohE '\"[^\"/]*[.](safetensors|bin)\"' *.index.json 2>/dev/null | sort -u; echo ---; "
            "cat config.json 2>/dev/null || :")
    return Probe(role, line, parse)


def parse_fetched(output: Output) -> tuple[EncoderDownload, ...]:
    """Parse the downloads, in the order of FETCHED."""
    if output.code != 0:
        raise ValueError(output.err.strip()[-200:] or "nothing was fetched")
    rows = fields.loads(output.out.strip().rpartition("\n")[2])
    return tuple(EncoderDownload(int(r["bytes"]), float(r["seconds"]), str(r["problem"])) for r in rows.values())


def endpoint_probes(host: Host, mirror: Mirror, spec: RunSpec) -> list[Probe[tuple[EncoderDownload, ...]]]:
    """Return the probe of the endpoint, or no probe when nothing would be downloaded."""
    name = _asset(spec, "text_encoder")
    if not mirror.brings(name):
        return []
    urls = [f"{mirror.endpoint.rstrip('/')}/{HUB_NAMES[name]}/resolve/main/{quote(file)}" for file in FETCHED]
    asked = {"urls": urls, "variables": _variables(host, mirror)}
    return [Probe("endpoint", _line(host, _FETCH), parse_fetched, timeout_s=25, stdin=json.dumps(asked).encode())]


@hookimpl
def preflight_check(host: Host, connection: Connection, spec: RunSpec,
                    local_assets: Mapping[str, Path], options: Mapping[str, Any]) -> list[CheckResult]:
    mirror = mirror_of(host, options)
    answers = ask(connection, [*(probe(role, spec.assets[role]) for role in ROLES),
                               *endpoint_probes(host, mirror, spec)])
    findings = []
    for role in ROLES:
        encoder = answers[role].value
        if encoder is None:
            findings.append(CheckResult.warn(role, "cannot be listed", answers[role].problem,
                                             f"ls -l {Command(spec.assets[role]).shell()}   # on {host.name}"))
        else:
            findings.append(judged(host, mirror, role, encoder, spec, local_assets))
    needed = any(f.status is Status.WARN and "downloaded on the host" in f.summary for f in findings)
    return [*findings, endpoint(host, mirror, answers.get("endpoint"), needed=needed)]


def endpoint(host: Host, mirror: Mirror, answer: Answer[tuple[EncoderDownload, ...]] | None, *,
             needed: bool) -> CheckResult:
    """Check that the hub or mirror serves the host, large files too. FAIL only when a download is needed."""
    if answer is None:
        return CheckResult.skip("hf endpoint", "not checked: nothing would be downloaded on the host")
    address = redacted(mirror.endpoint)
    if finding := _unserved(host, address, answer):
        return CheckResult.fail("hf endpoint", *finding) if needed else CheckResult.warn("hf endpoint", *finding)
    *_, weights = answer.value or ()
    return CheckResult.ok("hf endpoint", f"{address} serves the encoders: {weights.size_bytes} bytes of weights in "
                          f"{weights.seconds:.1f} s")


def _unserved(host: Host, address: str, answer: Answer[tuple[EncoderDownload, ...]]) -> tuple[str, str, str] | None:
    """Return the finding about a hub that does not serve the host, with its evidence and remedy; None when it does."""
    if answer.value is None and answer.output.code:
        return (f"{host.name} has no huggingface_hub to ask {address} with", redacted(answer.problem, secrets_of(host)),
                f"inv check --host {host.name}   # python and packages must be OK first")
    fetched = answer.value or ()
    problems = [f"{file}: {got.problem or 'no byte'}" for file, got in zip(FETCHED, fetched, strict=False)
                if got.problem or not got.size_bytes]
    if len(fetched) == len(FETCHED) and not problems:
        return None
    return (f"{address} does not serve the encoders to {host.name}",
            redacted("; ".join(problems) or answer.problem, secrets_of(host)),
            "edit hosts.toml: HF_ENDPOINT or proxies under env, or a local copy under [assets]")


@hookimpl
def before_train(host: Host, connection: Connection, run: RunSpec, local_assets: Mapping[str, Path],
                 options: Mapping[str, Any]) -> None:
    for role in _incomplete(connection, run, ROLES):
        try:
            _bring(host, mirror_of(host, options), connection, role, run, local_assets)
        except RdtopsError as error:
            if isinstance(error, PreflightVeto):
                raise
            raise PreflightVeto(f"the {role} could not be sent to {run.assets[role]}: {error.message}",
                                remedy=error.remedy or f"inv deploy --host {host.name} --only encoders") from error
        lacks = _incomplete(connection, run, [role]).get(role)
        if lacks:
            raise PreflightVeto(f"{', '.join(lacks)} of the {role} {_asset(run, role)} are still missing in "
                                f"{run.assets[role]}: the source is incomplete",
                                remedy=f"complete the copy that [assets] in hosts.toml names for {_asset(run, role)}")


def missing(role: str, encoder: Encoder) -> list[str]:
    """Return the missing kinds of files of an encoder, and the missing parts of its weights."""
    needs = {"config.json": ("config.json",), "weights": WEIGHTS}
    if role == "text_encoder":
        needs["tokenizer"] = TOKENIZERS
    used = next((name for name in WEIGHTS if name in encoder.files), "")
    lacks = [kind for kind, names in needs.items() if not encoder.files & set(names)]
    return lacks + (_missing_parts(used, encoder) if used.endswith(INDEX) else [])


def _lacking(lacks: list[str], encoder: Encoder, where: str = "") -> str:
    """Return what is missing, and what lies in its place."""
    return f"{', '.join(lacks)} missing{where}" + (f" ({'; '.join(encoder.instead)})" if encoder.instead else "")


def _missing_parts(index: str, encoder: Encoder) -> list[str]:
    """Return the parts that are missing; the index of weights in another format does not count."""
    suffix = PurePosixPath(index.removesuffix(INDEX)).suffix
    return sorted(part for part in encoder.shards - encoder.files if part.endswith(suffix))


def flaw(role: str, encoder: Encoder, spec: RunSpec) -> str:
    """Return what is wrong with an encoder; '' for a complete one that has the sizes of the model."""
    if lacks := missing(role, encoder):
        return _lacking(lacks, encoder)
    if encoder.config is None:
        return "its config.json is not valid JSON"
    kind, known = encoder.config.get("model_type"), MODEL_TYPES[role]
    if kind is not None and kind not in known:
        return f"its config.json is of {str(kind)[:40]!r}, not of {' or '.join(known)}: another encoder"
    wanted, found = _wanted(role, spec), sizes(role, encoder.config)
    wrong = [f"{key} is {found[key]}, {spec.train.model} needs {wanted[key]}"
             for key in wanted if key in found and found[key] != wanted[key]]
    return f"{'; '.join(wrong)}: another encoder" if wrong else ""


def encoder_here(role: str, folder: Path) -> Encoder:
    """Return the copy on this laptop, by the same probe as on the host."""
    asked = probe(role, str(folder))
    done = subprocess.run(["sh", "-c", asked.shell], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return parse(Output(done.returncode, done.stdout.decode("utf-8", "replace"), ""))


def judged(host: Host, mirror: Mirror, role: str, encoder: Encoder, spec: RunSpec,
           local_assets: Mapping[str, Path]) -> CheckResult:
    lacks = missing(role, encoder)
    folder, here = spec.assets[role], local_assets.get(role)
    deploy = f"inv deploy --host {spec.host} --only encoders"
    way = _way(host, mirror, role, spec, local_assets)
    lacking = _lacking(lacks, encoder, " on the host")
    if lacks and way and here and (wrong := flaw(role, encoder_here(role, here), spec)):
        why, remedy = _unfit_copy(_asset(spec, role), here, wrong)
        return CheckResult.fail(role, f"{lacking}, and {why}", folder, remedy)
    if lacks and way:
        return CheckResult.warn(role, f"{lacking}; before training: {way}", folder,
                                deploy if here else f"inv train --host {spec.host}   # downloads it")
    if lacks:
        why, remedy = _no_way(host, _asset(spec, role))
        return CheckResult.fail(role, f"{lacking}, and {why}", folder, remedy)
    if wrong := flaw(role, encoder, spec):
        return CheckResult.fail(role, wrong, folder, deploy)
    return _sized(role, encoder, spec)


def _sized(role: str, encoder: Encoder, spec: RunSpec) -> CheckResult:
    """Return the finding about an encoder without a flaw. A config.json has only what differs from its library's
    defaults."""
    found = sizes(role, encoder.config or {})
    silent = [key for key in _wanted(role, spec) if key not in found]
    if silent:
        return CheckResult.warn(role, f"complete, but its config.json has no {', '.join(silent)}", spec.assets[role])
    return CheckResult.ok(role, "complete, " + ", ".join(f"{key} {found[key]}" for key in _wanted(role, spec)),
                          spec.assets[role])


def sizes(role: str, config: Mapping[str, object]) -> dict[str, int]:
    """Return the sizes of a config.json. A vision encoder may be part of a whole SigLIP."""
    if role == "text_encoder":
        return {"d_model": width} if isinstance(width := config.get("d_model"), int) else {}
    half = config.get("vision_config", config)
    table = half if isinstance(half, dict) else {}
    found = {"hidden_size": width} if isinstance(width := table.get("hidden_size"), int) else {}
    edge, patch = table.get("image_size"), table.get("patch_size")
    if isinstance(edge, int) and isinstance(patch, int) and patch > 0:
        found["patches"] = (edge // patch) ** 2
    return found


def _wanted(role: str, spec: RunSpec) -> dict[str, int]:
    facts = MODELS[spec.train.model]
    if role == "text_encoder":
        return {"d_model": facts.lang_width}
    return {"hidden_size": facts.img_width, "patches": facts.img_patches}


def _incomplete(connection: Connection, run: RunSpec, roles: Sequence[str]) -> dict[str, list[str]]:
    """Return what each incomplete encoder lacks, by role. Raises PreflightVeto when the host does not answer."""
    answers = ask(connection, [probe(role, run.assets[role]) for role in roles])
    found = {}
    for role in roles:
        encoder: Encoder | None = answers[role].value
        if encoder is None:
            raise PreflightVeto(f"not known whether the {role} is on the host: {answers[role].problem}",
                                remedy=f"inv check --host {run.host}")
        if lacks := missing(role, encoder):
            found[role] = lacks
    return found


def _asset(spec: RunSpec, role: str) -> str:
    return str(getattr(spec.train, role))


def _way(host: Host, mirror: Mirror, role: str, spec: RunSpec, local_assets: Mapping[str, Path]) -> str:
    name = _asset(spec, role)
    if name in host.assets:  # hosts.toml names a folder on the host, which others may use: not written to
        return ""
    if role in local_assets:
        return f"uploaded from {local_assets[role]}"
    return f"downloaded on the host from {redacted(mirror.endpoint)}" if mirror.brings(name) else ""


def _no_way(host: Host, name: str) -> tuple[str, str]:
    """Return why an encoder cannot be sent or downloaded, and the remedy."""
    if name in host.assets:
        of_the_cache = PurePosixPath(host.assets[name]).name.startswith(hub_cache.REPOSITORIES)
        right = f"a snapshot, {host.assets[name]}/snapshots/REVISION," if of_the_cache else "the right folder"
        return (f"[hosts.{host.name}.assets] has a folder for {name}, which is not changed",
                f"edit hosts.toml: {right} of {name} under [hosts.{host.name}.assets], or none")
    table = f"[hosts.{host.name}.plugins.encoder_mirror]"
    return ("there is neither a local copy nor a mirror",
            f"edit hosts.toml: a local copy of {name} under [assets], or endpoint under {table}")


def _unfit_copy(name: str, folder: Path, wrong: str) -> tuple[str, str]:
    """Return that the copy on this laptop is incomplete or another encoder, and the remedy."""
    command = f"hf download {HUB_NAMES[name]}   # here; or" if name in HUB_NAMES else "complete it here, or"
    if "Git LFS pointer" in wrong:
        command = f"cd {folder} && git lfs pull   # here; or"
    return (f"the copy on this laptop is unfit: {wrong} ({folder})",
            f"{command} name another copy of {name} under [assets] in hosts.toml")


def _bring(host: Host, mirror: Mirror, connection: Connection, role: str, run: RunSpec,
           local_assets: Mapping[str, Path]) -> None:
    folder, name = run.assets[role], _asset(run, role)
    if not _way(host, mirror, role, run, local_assets):
        why, remedy = _no_way(host, name)
        raise PreflightVeto(f"the {role} is not in {folder}, and {why}", remedy=remedy)
    if role in local_assets:
        if wrong := flaw(role, encoder_here(role, local_assets[role]), run):
            why, remedy = _unfit_copy(name, local_assets[role], wrong)
            raise PreflightVeto(f"the {role} is not complete in {folder}, and {why}", remedy=remedy)
        upload(connection, plan_asset(connection, local_assets[role], folder))
    else:
        _download(host, mirror, connection, HUB_NAMES[name], folder)


def _download(host: Host, mirror: Mirror, connection: Connection, repository: str, folder: str) -> None:
    """Download with the host's huggingface_hub, which resumes an interrupted download."""
    line = _line(host, _DOWNLOAD, repository, str(PurePosixPath(folder)))
    problem = _run_pulsing(connection, line, json.dumps(_variables(host, mirror)).encode())
    if problem:
        raise PreflightVeto(f"{repository} could not be downloaded on {host.name} from {redacted(mirror.endpoint)}: "
                            + redacted(problem, secrets_of(host)),
                            remedy=f"inv train --host {host.name}   # resumes it; or name a local copy of "
                                   f"{repository.rpartition('/')[2]} under [assets] in hosts.toml")


def _line(host: Host, program: str, *words: str) -> str:
    """Return the line that runs a program with the Python of the trainer's environment, which has huggingface_hub."""
    before = activation(host)
    return before + Command("python" if before else host.python, "-c", program, *words).shell()


def _variables(host: Host, mirror: Mirror) -> dict[str, str]:
    """Return the variables of a download: those of hosts.toml, such as proxies and certificates, and the endpoint. Xet
    would ask other servers than the endpoint, which no mirror has and no check has asked."""
    return {"HF_HUB_DISABLE_XET": "1", **host.env, "HF_ENDPOINT": mirror.endpoint, "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


def _run_pulsing(connection: Connection, line: str, stdin: bytes) -> str:
    """Run a line that prints something every few seconds, and return its error or ''. It may take long; without a byte
    for SILENCE_S the connection is dead and ConnectionLost is raised."""
    deadline_s = time.monotonic() + DOWNLOAD_TIMEOUT_S
    with connection.stream(line, silence_s=SILENCE_S) as stream:
        stream.write(stdin)
        stream.end_input()
        while stream.read(1 << 16):
            if time.monotonic() > deadline_s:
                return f"not done after {DOWNLOAD_TIMEOUT_S / 3600:g} hours"
        code = stream.code()
        return "" if code == 0 else f"exit {code}: {' '.join(stream.errors().split())[-400:]}"
