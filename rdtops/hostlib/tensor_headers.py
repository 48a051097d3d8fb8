"""Tensor headers: names, shapes and types of the tensors of a weight file, from its table of contents. Loads no tensors
and runs no code of the file. Standard library, Python 3.8: sent with host programs.

A file of torch is a pickle, which may call anything by name. This unpickler knows the few names that rebuild a tensor;
`stand_in` answers for what a training keeps beside its tensors (a loss scaler, options) with an object that does
nothing, and refuses every other name.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import struct
import zipfile
from typing import IO, Any, NamedTuple

from rdtops.hostlib import fields
from rdtops.hostlib.file_kinds import size_text
from rdtops.hostlib.weight_files import SAFETENSORS, UnreadableWeights, WeightFiles, check_kind

LARGEST = 100 << 20  # of a header; a damaged length may be any number
FLOATS = ("float64", "float32", "float16", "bfloat16")  # the types that weights are read from
REBUILDERS = {("torch._utils", "_rebuild_tensor"), ("torch._utils", "_rebuild_tensor_v2"),
              ("torch._utils", "_rebuild_tensor_v3"), ("torch._utils", "_rebuild_parameter"),
              ("torch._utils", "_rebuild_parameter_with_state"), ("torch._tensor", "_rebuild_from_type_v2"),
              ("collections", "OrderedDict"), ("torch", "Size"), ("torch", "Tensor"), ("torch", "device"),
              ("torch.nn.parameter", "Parameter"), ("torch.serialization", "_get_layout")}
# what a training keeps beside its tensors: the first part of the name of a module
HARMLESS = ("deepspeed", "accelerate", "argparse", "omegaconf", "numpy", "datetime", "torch.optim",
            "torch.torch_version", "pytorch_lightning", "lightning")
_BUILTINS = ("set", "frozenset", "list", "tuple", "dict", "int", "float", "bool", "str", "bytes", "bytearray",
             "complex", "slice", "range", "object")
HARMLESS_NAMES = {"builtins": _BUILTINS, "__builtin__": _BUILTINS, "_codecs": ("encode",),
                  "copyreg": ("_reconstructor",), "copy_reg": ("_reconstructor",),
                  "collections": ("defaultdict", "deque", "Counter"),
                  "pathlib": ("PosixPath", "WindowsPath", "PurePosixPath")}
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # what torch before 1.6 begins with
_SAFETENSORS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
                "F8_E5M2": "float8_e5m2", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8",
                "BOOL": "bool"}
_STORAGES = {"DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16",
             "BFloat16Storage": "bfloat16", "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16",
             "CharStorage": "int8", "ByteStorage": "uint8", "BoolStorage": "bool", "UntypedStorage": "uint8"}
_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "int16": 2, "int8": 1,
          "uint8": 1, "bool": 1}
_TABLES = ("module", "state_dict", "model_state_dict", "model")  # keys of the tensors; the first counts


class TensorHeader(NamedTuple):
    """Shape and type of a tensor, as torch calls it: float32."""

    shape: tuple[int, ...]
    type: str

    @property
    def size_bytes(self) -> int:
        count = _BYTES.get(self.type, 1)
        for length in self.shape:
            count *= length
        return count


class TensorTable(NamedTuple):
    """The tensors of a file, the key of the file below which they are ('' for none), and the names of the stand-ins."""

    tensors: dict[str, TensorHeader]
    key: str
    strangers: tuple[str, ...]


class StandIn:
    """An object of a class that is not known here: takes everything, does nothing."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __call__(self, *_: object, **__: object) -> StandIn:
        return self

    def __setstate__(self, state: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def append(self, value: object) -> None:
        pass

    def extend(self, values: object) -> None:
        pass

    add = append


def stand_in(module: str, name: str) -> type[StandIn]:
    """Return a class in place of a harmless one. Raise UnreadableWeights for any other name."""
    of_training = "." not in name and any(module == root or module.startswith(root + ".") for root in HARMLESS)
    if of_training or name in HARMLESS_NAMES.get(module, ()):
        return type(name, (StandIn,), {})
    if module.startswith("torch.nn.modules"):
        name = f"{name}, a whole model"
    raise UnreadableWeights(f"it holds more than tensors: {module}.{name}; unpickling that could run code, so it was "
                            "not loaded", "")


def table(path: str) -> TensorTable:
    """Return the tensors of a weight file. Raise UnreadableWeights, with the file's name, for anything else."""
    check_kind(path)
    try:
        return TensorTable(_of_safetensors(path), "", ()) if path.endswith(".safetensors") else _of_torch(path)
    except UnreadableWeights as error:
        raise UnreadableWeights(f"{path}: {error}", error.remedy or converted(path)) from None
    except Exception as error:  # a damaged file may break its reader in any way
        raise UnreadableWeights(f"{path} is damaged or incomplete: {type(error).__name__}: {str(error)[:200]}") \
            from None


def of(found: WeightFiles) -> dict[str, TensorHeader]:
    """Return the tensors of weight files. Raise UnreadableWeights, also where the parts are not those of the index."""
    tables = {part: table(found.path(part)).tensors for part in found.parts}
    if found.places:
        _check_parts(found, tables)
    return {name: header for part in tables.values() for name, header in part.items()}


def converted(path: str) -> str:
    """Return the line that makes a file of tensors of a file that holds more."""
    wanted = os.path.join(os.path.dirname(path), SAFETENSORS)
    return (f"where you trust the file, for this runs its code: python -c \"import torch, safetensors.torch as s; "
            f"c = torch.load('{path}', 'cpu', weights_only=False); c = getattr(c, 'state_dict', lambda: c)(); "
            f"s.save_file({{k: t.clone() for k, t in c.get('module', c).items()}}, '{wanted}')\"")


def _check_parts(found: WeightFiles, tables: dict[str, dict[str, TensorHeader]]) -> None:
    where: dict[str, list[str]] = {}
    for part, tensors in tables.items():
        for name in tensors:
            where.setdefault(name, []).append(part)
    faults = [f"{name} is in {' and in '.join(parts)}" for name, parts in where.items() if len(parts) > 1]
    faults += [f"{name} is in {where[name][0] if name in where else 'none of them'}, not in {part}"
               for name, part in found.places.items() if where.get(name, [""])[0] != part]
    faults += [f"{name} in {parts[0]} is not in the index" for name, parts in where.items() if name not in found.places]
    held = sum(header.size_bytes for tensors in tables.values() for header in tensors.values())
    if not faults and found.tensor_bytes not in (None, held):
        faults = [f"they hold {held} bytes of tensors, it says {found.tensor_bytes}"]
    if faults:
        more = f"; {len(faults) - 1} more such" if len(faults) > 1 else ""
        raise UnreadableWeights(f"{found.folder}: the parts are not those of {found.name}: {faults[0]}{more}",
                                "hf download REPOSITORY   # index and parts of one revision; then inv deploy")


def _of_safetensors(path: str) -> dict[str, TensorHeader]:
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else LARGEST + 1
        if length > LARGEST:
            raise UnreadableWeights("no safetensors file: damaged or incomplete")
        if length > size - 8:
            raise UnreadableWeights("damaged or incomplete: cut off in its header")
        entries = fields.loads(file.read(length).decode())
    entries.pop("__metadata__", None)
    end = 8 + length + max([entry["data_offsets"][1] for entry in entries.values()] or [0])
    if end > size:
        raise UnreadableWeights(f"damaged or incomplete: it holds {_of_sizes(size, end)}")
    if end < size:
        raise UnreadableWeights(f"damaged: it holds {size - end} bytes behind its last tensor")
    return {name: TensorHeader(tuple(entry["shape"]), _SAFETENSORS.get(entry["dtype"], str(entry["dtype"])))
            for name, entry in entries.items()}


def _of_sizes(held: int, whole: int) -> str:
    texts = size_text(held), size_text(whole)
    return f"{held} of {whole} bytes" if texts[0] == texts[1] or whole < 1000 else f"{texts[0]} of {texts[1]}"


class _Tensor:
    """What the file builds a tensor of: its storage and its shape."""

    def __init__(self, storage: object, shape: tuple[int, ...], kind: str) -> None:
        self.storage, self.header = storage, TensorHeader(tuple(int(length) for length in shape), kind)


class _Table(dict):  # type: ignore[type-arg]
    """Substitute for OrderedDict, which keeps attributes too."""


class _Storage(NamedTuple):
    kind: str
    key: str


def _rebuilt(storage: _Storage, _offset: int, shape: tuple[int, ...], *_: object) -> _Tensor:
    return _Tensor(storage, shape, storage.kind)


def _rebuilt_as(storage: _Storage, _offset: int, shape: tuple[int, ...], _stride: object, _grad: object, _hooks: object,
                kind: object, *_: object) -> _Tensor:
    return _Tensor(storage, shape, str(kind))


def _same(tensor: object, *_: object) -> object:
    return tensor


def _of_type(build: Any, _kind: object, arguments: tuple[Any, ...], *_: object) -> object:
    return build(*arguments)


_BUILD: dict[str, object] = {"_rebuild_tensor": _rebuilt, "_rebuild_tensor_v2": _rebuilt,
                             "_rebuild_tensor_v3": _rebuilt_as,
                             "_rebuild_parameter": _same, "_rebuild_parameter_with_state": _same,
                             "_rebuild_from_type_v2": _of_type, "OrderedDict": _Table, "Size": tuple}


class _Contents(pickle.Unpickler):
    """Unpickler that accepts tensors and stand-ins only, and refuses any other call of the file."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self.strangers: list[str] = []
        self.storages: dict[str, int] = {}

    def find_class(self, module: str, name: str) -> object:
        if (module, name) in REBUILDERS:
            return _BUILD.get(name, StandIn)
        if module in ("torch", "torch.storage") and name.endswith("Storage"):
            return _STORAGES.get(name, name)
        if module == "torch" and name.startswith(("float", "bfloat", "int", "uint", "bool", "complex")):
            return name
        self.strangers.append(f"{module}.{name}")
        return stand_in(module, name)

    def persistent_load(self, pid: Any) -> object:
        _, kind, key, _, count = pid[:5]
        self.storages[str(key)] = int(count) * _BYTES.get(kind, 1)
        return _Storage(str(kind), str(key))


def _of_torch(path: str) -> TensorTable:
    with open(path, "rb") as file:
        head = file.read(len(_LEGACY))
        if head == _LEGACY:
            file.seek(0)
            return _of_legacy(file, os.path.getsize(path))
    if head.startswith(b"PK\x03\x04"):
        return _of_zip(path)
    raise UnreadableWeights("no file of torch: damaged or incomplete" if head[:1] != b"\x80" else
                            "a pickle that torch did not write: unpickling it could run code, so it was not loaded")


def _of_zip(path: str) -> TensorTable:
    if not zipfile.is_zipfile(path):  # the table of a zip archive is at its end
        raise UnreadableWeights(f"damaged or incomplete: {_cut(path)}")
    with zipfile.ZipFile(path) as archive:
        name = next((n for n in archive.namelist() if n.endswith("/data.pkl")), "")
        if not name or archive.getinfo(name).file_size > LARGEST:
            raise UnreadableWeights("a zip archive without tensors (data.pkl)")
        contents = _Contents(io.BytesIO(archive.read(name)))
        return _tabled(contents.load(), contents)


def _cut(path: str) -> str:
    """Return how much of an archive is there: torch writes the table of the tensors first, as it is."""
    size = os.path.getsize(path)
    with contextlib.suppress(Exception), open(path, "rb") as file:
        head = file.read(30)
        named, extra = struct.unpack("<HH", head[26:30])
        file.seek(30 + named + extra)
        contents = _Contents(io.BytesIO(file.read(min(LARGEST, size))))
        contents.load()
        if size < sum(contents.storages.values()):
            return f"it holds {_of_sizes(size, sum(contents.storages.values()))} and more"
    return f"it holds {size_text(size)}, and its end is missing"


def _of_legacy(file: IO[bytes], size: int) -> TensorTable:
    """Read a file of torch before 1.6: pickles, then the numbers of every storage."""
    for _ in range(3):  # a magic number, the version, the machine
        _Contents(file).load()
    contents = _Contents(file)
    content = contents.load()
    _Contents(file).load()  # the order of the storages
    whole = file.tell() + sum(8 + count for count in contents.storages.values())
    if whole > size:
        raise UnreadableWeights(f"damaged or incomplete: it holds {_of_sizes(size, whole)}")
    return _tabled(content, contents)


def _tabled(content: object, contents: _Contents) -> TensorTable:
    key, tensors = tensors_of(content, _Tensor)
    return TensorTable({name: tensor.header for name, tensor in tensors.items()}, key,
                       tuple(dict.fromkeys(contents.strangers)))


def tensors_of(content: object, kind: type) -> tuple[str, dict[str, Any]]:
    """Return the key of the table of tensors in the content of a file, '' where the content itself is the table, and
    the table. Raise UnreadableWeights where there is none, or more than one that may be meant."""
    if not isinstance(content, dict):
        raise UnreadableWeights(f"it must hold a table of tensors, and holds a {type(content).__name__}")
    if _is_table(content, kind):
        return "", {str(name): tensor for name, tensor in content.items()}
    tables = [str(key) for key, value in content.items()
              if isinstance(value, dict) and value and _is_table(value, kind)]
    key = next((key for key in _TABLES if key in tables), tables[0] if len(tables) == 1 else "")
    if not key:
        raise UnreadableWeights("it must hold a table of tensors" + (
            f", and holds several: {', '.join(tables[:5])}" if tables else ""))
    twins = [one for one in tables if one != key and content[one].keys() >= content[key].keys()]
    if twins:
        told = ", ".join([key, *twins[:4]])
        raise UnreadableWeights(f"it holds the same tensors {len(twins) + 1} times: below {told}",
                                f"save the table that is meant alone: torch.save(torch.load(FILE)[{key!r}], FILE)")
    return key, {str(name): tensor for name, tensor in content[key].items()}


def _is_table(content: dict[Any, Any], kind: type) -> bool:
    return all(isinstance(value, kind) for value in content.values())
