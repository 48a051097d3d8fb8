"""Host program: read names and shapes of the tensors of a weight file from its header. Loads no tensors and runs no
code of the file. Standard library, Python 3.8, one file.

Request (one JSON line): {"folder": str, "names": [file names, the first that exists counts]}
Answer  (one JSON line): {"file": str ('' when none exists), "shapes": {name: [sizes]}, "problem": str ('' when none)}
"""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import sys
import zipfile

from rdtops.hostlib.fields import loads

LARGEST = 100 << 20  # of a header; a damaged length may be any number


class Damaged(Exception):
    """Reason why a file cannot be read, for people."""


class Tensor:
    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape


class Table(dict):  # type: ignore[type-arg]
    """Substitute for OrderedDict, which keeps attributes too."""


class TensorList(pickle.Unpickler):
    """Unpickler that accepts tensors only, and refuses any other call of the file."""

    def find_class(self, module: str, name: str) -> object:
        if (module, name) == ("collections", "OrderedDict"):
            return Table
        if module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_tensor"):
            return lambda *arguments: Tensor(tuple(arguments[2]))
        if module == "torch._utils" and name == "_rebuild_parameter":
            return lambda tensor, *_: tensor
        if module in ("torch", "torch.storage") and name.endswith("Storage"):
            return name
        raise Damaged(f"it contains more than tensors ({module}.{name})")

    def persistent_load(self, pid: object) -> object:
        return pid


def of_safetensors(path: str) -> dict[str, list[int]]:
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else LARGEST + 1
        if length > min(LARGEST, size):
            raise Damaged("not a safetensors file, or truncated in its header")
        table = loads(file.read(length).decode())
    table.pop("__metadata__", None)
    end = 8 + length + max([entry["data_offsets"][1] for entry in table.values()] or [0])
    if end != size:
        raise Damaged(f"{size} bytes, but {end} according to its header: truncated, or something was appended")
    return {name: entry["shape"] for name, entry in table.items()}


def of_torch(path: str) -> dict[str, list[int]]:
    if not zipfile.is_zipfile(path):
        raise Damaged("not a zip archive: truncated, or written by torch before 1.6")
    with zipfile.ZipFile(path) as archive:
        name = next((n for n in archive.namelist() if n.endswith("/data.pkl")), "")
        if not name or archive.getinfo(name).file_size > LARGEST:
            raise Damaged("it contains no tensors (data.pkl)")
        content = TensorList(io.BytesIO(archive.read(name))).load()
    if isinstance(content, dict) and isinstance(content.get("module"), dict):  # DeepSpeed's wrapper
        content = content["module"]
    if not isinstance(content, dict) or not all(isinstance(t, Tensor) for t in content.values()):
        raise Damaged("it is not a state dict")
    return {str(name): list(tensor.shape) for name, tensor in content.items()}


def look(folder: str, names: list[str]) -> dict[str, object]:
    file = next((n for n in names if os.path.isfile(os.path.join(folder, n))), "")
    answer: dict[str, object] = {"file": file, "shapes": {}, "problem": ""}
    if file:
        path = os.path.join(folder, file)
        try:
            answer["shapes"] = (of_safetensors if file.endswith(".safetensors") else of_torch)(path)
        except Exception as error:  # a damaged file may break its reader in any way
            answer["problem"] = str(error) if isinstance(error, Damaged) else f"cannot be read: {error!r}"
    return answer


def main() -> None:
    request = loads(sys.stdin.buffer.readline())
    sys.stdout.write(json.dumps(look(request["folder"], request["names"])) + "\n")


if __name__ == "__main__":
    main()
