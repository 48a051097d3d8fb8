"""Are both encoders complete on the host? If not, bring them: a copy from here, or a download through a mirror."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rdtops.api import (
    MODELS,
    CheckResult,
    Command,
    Connection,
    Host,
    Output,
    PreflightVeto,
    Probe,
    RdtopsError,
    RunSpec,
    activation,
    ask,
    hookimpl,
    plan_upload,
    upload,
)

ROLES = ("text_encoder", "vision_encoder")
HUB_NAMES = {"t5-v1_1-xxl": "google/t5-v1_1-xxl", "siglip-so400m-patch14-384": "google/siglip-so400m-patch14-384"}
OPTIONS = {"endpoint": "the address of a hub or mirror", "download": "true: download there what is missing"}
WEIGHTS = ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json", "pytorch_model.bin.index.json")
TOKENIZERS = ("tokenizer.json", "spiece.model")
DOWNLOAD_TIMEOUT_S = 6 * 3600.0


@dataclass(frozen=True)
class Encoder:
    """What lies in an encoder's folder. `config` is None when config.json is missing or no JSON object."""

    files: frozenset[str]
    config: Mapping[str, object] | None


def parse(output: Output) -> Encoder:
    """A listing of the folder, a line `---`, and its config.json."""
    listing, found, config = output.out.partition("\n---\n")
    if not found and not output.out.startswith("---"):
        raise ValueError("unexpected answer")
    try:
        values = json.loads(config)
    except ValueError:
        values = None
    return Encoder(frozenset(listing.split("\n")), values if isinstance(values, dict) else None)


def probe(role: str, folder: str) -> Probe[Encoder]:
    place = Command(folder).shell()
    return Probe(role, f"ls -1 {place} 2>/dev/null; echo; echo ---; cat {place}/config.json 2>/dev/null || :", parse)


@hookimpl
def preflight_check(host: Host, connection: Connection, spec: RunSpec,
                    local_assets: Mapping[str, Path]) -> list[CheckResult]:
    wrong = problem_of(host)
    if wrong:
        return [CheckResult.fail("encoders", wrong,
                                 remedy=f"edit [hosts.{host.name}.plugins.encoder_mirror] in hosts.toml")]
    answers = ask(connection, [probe(role, spec.assets[role]) for role in ROLES])
    findings = []
    for role in ROLES:
        encoder = answers[role].value
        if encoder is None:
            findings.append(CheckResult.warn(role, "cannot be looked at", answers[role].problem))
        else:
            findings.append(judged(role, encoder, spec, _way(host, role, spec, local_assets)))
    return findings


@hookimpl
def before_train(host: Host, connection: Connection, run: RunSpec, local_assets: Mapping[str, Path]) -> None:
    answers = ask(connection, [probe(role, run.assets[role]) for role in ROLES])
    for role in ROLES:
        encoder = answers[role].value
        if encoder is None or missing(role, encoder):
            _bring(host, connection, role, run, local_assets)


def missing(role: str, encoder: Encoder) -> list[str]:
    """The kinds of files that an encoder lacks."""
    needs = {"config.json": ("config.json",), "weights": WEIGHTS}
    if role == "text_encoder":
        needs["tokenizer"] = TOKENIZERS
    return [kind for kind, names in needs.items() if not encoder.files & set(names)]


def judged(role: str, encoder: Encoder, spec: RunSpec, way: str) -> CheckResult:
    """`way` says how before_train would bring it; '' when it cannot."""
    lacks = missing(role, encoder)
    folder = spec.assets[role]
    deploy = f"inv deploy --host {spec.host} --only encoders"
    if lacks and way:
        return CheckResult.warn(role, f"{', '.join(lacks)} missing there; before training: {way}", folder, deploy)
    if lacks:
        return CheckResult.fail(role, f"{', '.join(lacks)} missing there, and there is no copy here", folder,
                                f"name a local copy under [assets] in hosts.toml, or set endpoint under "
                                f"[hosts.{spec.host}.plugins.encoder_mirror]")
    if encoder.config is None:
        return CheckResult.fail(role, "its config.json is not readable JSON", folder, deploy)
    facts = MODELS[spec.train.model]
    key, wanted = ("d_model", facts.lang_width) if role == "text_encoder" else ("hidden_size", facts.img_width)
    table = encoder.config.get("vision_config", encoder.config) if role == "vision_encoder" else encoder.config
    width = table.get(key) if isinstance(table, dict) else None
    if width is None:  # so400m says its width only where it differs from the default of the library
        return CheckResult.warn(role, f"complete, but its config.json does not say {key}", folder)
    if width != wanted:
        return CheckResult.fail(role, f"{key} is {width}, {spec.train.model} needs {wanted}: another encoder", folder,
                                deploy)
    return CheckResult.ok(role, f"complete, {key} {width}", folder)


def problem_of(host: Host) -> str:
    options = host.plugins.get("encoder_mirror", {})
    unknown = [key for key in options if key not in OPTIONS]
    if unknown:
        return f"unknown option {unknown[0]!r}; allowed: {', '.join(OPTIONS)}"
    if not isinstance(options.get("endpoint", ""), str):
        return f"endpoint: {OPTIONS['endpoint']}"
    return "" if isinstance(options.get("download", False), bool) else f"download: {OPTIONS['download']}"


def _endpoint(host: Host) -> str:
    options = host.plugins.get("encoder_mirror", {})
    default = "https://huggingface.co" if options.get("download") else ""
    return str(options.get("endpoint") or host.env.get("HF_ENDPOINT") or default)


def _way(host: Host, role: str, spec: RunSpec, local_assets: Mapping[str, Path]) -> str:
    name = Path(spec.assets[role]).name
    if role in local_assets:
        return f"uploaded from {local_assets[role]}"
    if _endpoint(host) and name in HUB_NAMES:
        return f"downloaded there from {_endpoint(host)}"
    return ""


def _bring(host: Host, connection: Connection, role: str, run: RunSpec, local_assets: Mapping[str, Path]) -> None:
    folder = run.assets[role]
    name = Path(folder).name
    if role in local_assets:
        upload(connection, plan_upload(connection, local_assets[role], folder))
    elif _endpoint(host) and name in HUB_NAMES:
        _download(host, connection, HUB_NAMES[name], folder)
    else:
        raise PreflightVeto(f"the {role} is not in {folder}, and there is neither a copy here nor a mirror",
                            remedy=f"name a local copy of {name} under [assets] in hosts.toml")


def _download(host: Host, connection: Connection, repository: str, folder: str) -> None:
    """With the host's own huggingface_hub, which takes up a broken download where it ended."""
    program = ("import sys; from huggingface_hub import snapshot_download; "
               "snapshot_download(sys.argv[1], local_dir=sys.argv[2], ignore_patterns=['*.h5', '*.msgpack', '*.onnx'])")
    words: Sequence[str] = ("python", "-c", program, repository, folder)
    line = activation(host) + Command("env", f"HF_ENDPOINT={_endpoint(host)}", "HF_HUB_OFFLINE=0", *words).shell()
    try:
        connection.run_shell(line, timeout_s=DOWNLOAD_TIMEOUT_S)
    except RdtopsError as error:
        raise PreflightVeto(
            f"{repository} could not be downloaded on {host.name}: {error.message}",
            remedy="try again: it goes on where it ended; or name a local copy under [assets]") from error
