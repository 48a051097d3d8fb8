"""Host program: compare what a resume would find with what its newest checkpoint was trained on. Standard library,
Python 3.8.

Request (one JSON line): {"checkpoints": str, "assets": {role: folder}, "settings": {key: value}, "limit_bytes": int}
Answer  (one JSON line): {"checkpoint": name ('' where there is none), "step": int, "recorded": bool,
                          "differences": {part: words}, "unread": {part: bytes}, "absent": [parts],
                          "compared": [parts], "settings": [[key, value in training, value now]], "problem": str}
Parts are those of assets.json. Of files whose MD5 no deploy and no training has read since they changed, at most
`limit_bytes` are read: the rest is `unread`, and compared by the training before its first step. `absent`: parts whose
folder does not exist.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, Mapping

from rdtops.hostlib import checkpoints, fields, files, provenance
from rdtops.hostlib.provenance import Provenance

PARTS = (*provenance.HELD, provenance.PRETRAINED)


def main() -> None:
    request = fields.loads(sys.stdin.buffer.readline())
    found = checkpoints.listed(request["checkpoints"])[0]
    answer = {"checkpoint": "", "step": 0, "recorded": False, "differences": {}, "unread": {}, "absent": [],
              "compared": [], "settings": [], "problem": ""}
    if found:
        newest = found[-1]
        answer.update(checkpoint=newest["name"], step=newest["step"],
                      settings=changed_settings(newest["path"], request["settings"]))
        try:
            answer.update(compared(newest["path"], request["assets"], left_out(request["settings"]),
                                   request["limit_bytes"]))
        except (OSError, ValueError) as error:
            answer["problem"] = f"{type(error).__name__}: {error}"
    sys.stdout.write(json.dumps(answer) + "\n")


def left_out(settings: Mapping[str, object]) -> set[str]:
    """Return the files of demonstrations that the setting `without` leaves out as a whole."""
    return {name.strip() for name in fields.text(settings.get("without")).split(",")}


def compared(checkpoint: str, assets: Mapping[str, str], without: set[str], limit_bytes: int) -> dict[str, Any]:
    then = provenance.read(checkpoint)
    if then is None:
        return {}
    folders = provenance.folders(assets, [part for part in PARTS if part in then.parts])
    there = {part: folder for part, folder in folders.items() if os.path.isdir(folder)}
    read = Provenance.of(there, limit_bytes).parts
    now = Provenance({part: {path: md5 for path, md5 in read[part].items()
                             if part != provenance.DATASET or path not in without} for part in read})
    unread = {part: sum(os.path.getsize(os.path.join(there[part], path)) for path, md5 in now.parts[part].items()
                        if not md5 and path in then.parts[part]) for part in there}
    return {"recorded": True, "differences": provenance.differences(then, now, there),
            "unread": {part: size for part, size in unread.items() if size},
            "absent": [part for part in folders if part not in there],
            "compared": [part for part in there if not unread[part]]}


def changed_settings(checkpoint: str, settings: Mapping[str, object]) -> list[list[object]]:
    """Return the settings that the checkpoint's training had with another value."""
    try:
        trained = fields.table(fields.loads(files.text_of(os.path.join(checkpoint, checkpoints.TRAINER))))
    except ValueError:
        return []
    before = fields.table(trained.get("config"))
    return [[key, before[key], now] for key, now in settings.items()
            if key in before and key != "accept_changed" and before[key] != now]


if __name__ == "__main__":
    main()
