"""Container: an apptainer (or singularity) image that contains the trainer's Python.

A wrapper script `python` comes first on PATH and runs the image's Python, so that every caller of `python` gets it: a
check, an evaluation, the launch script, the ranks on every node of a cluster. It lies below ~/.cache, which nodes
share with the home. The image sees the home, the workspace and the binds of hosts.toml; --nv gives it the GPUs.
"""

from __future__ import annotations

from rdtops.ssh.command import quoted
from rdtops.ssh.hosts import Host

FOLDER = '"$HOME"/.cache/rdtops/container'
_PYTHON = 'exec "$RDTOPS_RUNNER" exec --nv "$RDTOPS_IMAGE" python3 "$@"'


def activation(host: Host) -> str:
    """Return a prefix for a line of sh, ending in `&& `. It fails with exit code 1 where the image or apptainer is
    missing."""
    image = host.environment.container
    assert image
    no_image = quoted(f"there is no image {image}")
    no_runner = quoted("there is neither apptainer nor singularity on this host; a module may bring it")
    binds = ",".join(_expanded(path) for path in (host.workspace, *host.environment.binds))
    image_there = (f"{{ RDTOPS_IMAGE={_expanded(image)}; [ -e \"$RDTOPS_IMAGE\" ] || "
                   f"{{ echo {no_image} >&2; false; }}; }} && ")
    runner_there = ("{ RDTOPS_RUNNER=$(command -v apptainer || command -v singularity) || "
                    f"{{ echo {no_runner} >&2; false; }}; }} && ")
    python_there = (f"{{ [ -x {FOLDER}/python ] || {{ mkdir -p {FOLDER} && "
                    f"printf '%s\\n' '#!/bin/sh' {quoted(_PYTHON)} > {FOLDER}/python.$$ && "
                    f"chmod +x {FOLDER}/python.$$ && mv {FOLDER}/python.$$ {FOLDER}/python; }}; }} && ")
    return (f"{image_there}{runner_there}{python_there}export RDTOPS_IMAGE RDTOPS_RUNNER APPTAINER_BIND={binds} "
            f"SINGULARITY_BIND={binds} PATH={FOLDER}:\"$PATH\" && ")


def _expanded(path: str) -> str:
    """Quote a path for sh and leave only a leading ~ to the shell; a relative path is relative to the home."""
    if path.startswith("/"):
        return quoted(path)
    rest = path.removeprefix("~").lstrip("/")
    return f'"$HOME"/{quoted(rest)}' if rest else '"$HOME"'
