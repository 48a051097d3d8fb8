"""Host program: find the weight files of a folder, and read names and shapes of their tensors from the headers. Loads
no tensors and runs no code of the files. Standard library, Python 3.8.

Request (one JSON line): {"folder": str}
Answer  (one JSON line): {"file": str ('' when there is none), "config": str (the text of config.json, '' when there is
                          none), "size_bytes": int, "types": [float32, ...], "shapes": {name: [sizes]}, "problem": str
                          ('' when none), "remedy": str}
"""

from __future__ import annotations

import json
import os
import sys

from rdtops.hostlib import file_kinds, files, tensor_headers, weight_files
from rdtops.hostlib.fields import loads


def look(folder: str) -> dict[str, object]:
    answer: dict[str, object] = {"file": "", "config": "", "size_bytes": 0, "types": [], "shapes": {}, "problem": "",
                                 "remedy": ""}
    try:
        home = weight_files.home(folder)
        answer["config"] = _config(os.path.join(home, weight_files.CONFIG))
        answer["file"] = next((name for name in weight_files.NAMES if os.path.lexists(os.path.join(home, name))), "")
        found = weight_files.found(home)
        answer["size_bytes"] = sum(os.path.getsize(found.path(part)) for part in found.parts)
        headers = tensor_headers.of(found)
    except weight_files.UnreadableWeights as error:
        return {**answer, "problem": str(error), "remedy": error.remedy}
    except OSError as error:
        return {**answer, "problem": f"cannot be read: {error}"}
    return {**answer, "types": sorted({header.type for header in headers.values()}),
            "shapes": {name: list(header.shape) for name, header in headers.items()}}


def _config(path: str) -> str:
    """Return the text of a config.json, or a word about what lies there; '' when there is none."""
    text = files.text_of(path)
    kind = file_kinds.kind_of(path)
    return f"{path} is {kind}" if kind and kind != "a JSON text" and not text.lstrip().startswith("{") else text


def main() -> None:
    request = loads(sys.stdin.buffer.readline())
    sys.stdout.write(json.dumps(look(request["folder"])) + "\n")


if __name__ == "__main__":
    main()
