"""Kinds of files by their first bytes: what lies at a path that cannot be read as what it should be. For messages:
`weights.safetensors is a Git LFS pointer of a 2.46 GB file`. Standard library, Python 3.8: sent with host programs."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator

from rdtops.hostlib import fields
from rdtops.hostlib.files import Path, head_of
from rdtops.hostlib.names import quoted

HEAD_BYTES = 4096
_SIGNATURES = (
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"\x89HDF\n\x1a\n", "an HDF5 file damaged by a transfer as text (CR LF became LF)"),
    (b"\x89HDF\r\r\n\x1a\r\n", "an HDF5 file damaged by a transfer as text (LF became CR LF)"),
    (b"\tHDF\r\n\x1a\n", "an HDF5 file damaged by a transfer as text (without the eighth bit)"),
    (b"\xef\xbf\xbdHDF", "an HDF5 file damaged by a transfer as text (as UTF-8)"),
    (b"\x0e\x03\x13\x01", "an HDF4 file"),
    (b"CDF\x01", "a NetCDF file"),
    (b"CDF\x02", "a NetCDF file"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ\0", "an xz archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"\x04\x22\x4d\x18", "an lz4 archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"PK\x03\x04", "a zip archive"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"\x93NUMPY", "a NumPy file (.npy)"),
    (b"GGUF", "a GGUF file"),
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"%PDF-", "a PDF file"),
    (b"\x7fELF", "an ELF binary"),
    (b"SQLite format 3\0", "an SQLite database"),
    (b"\0\x05\x16\x07", "an AppleDouble file, which macOS writes beside the real one"),
    (b"\0\0\0\x01Bud1", "a .DS_Store of macOS"),
    (b"SIMPLE  =", "a FITS file"),
)
_POINTER_SIZE = re.compile(rb"^(?:size|filesize) *=? *([0-9]{1,18})\r?$", re.MULTILINE)
_ANNEX_SIZE = re.compile(rb"-s([0-9]{1,18})-")
_TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)
_XML_CODE = re.compile(r"<(?:Code|Message)>(.*?)</(?:Code|Message)>", re.DOTALL)
_WEB_PAGE = re.compile(r"(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<(?:!doctype html|html|head|body|meta|title|script)\b",
                       re.IGNORECASE | re.DOTALL)


def kind_of(path: Path) -> str:
    """Return what kind of file lies at a path, as a noun with its article, or 'empty'; '' when it is not known. Reads
    its first bytes only, and raises nothing."""
    if os.path.islink(path) and not os.path.exists(path):
        return f"a link to {quoted(os.readlink(path), 200)}, which does not exist"
    if os.path.isdir(path):
        return "a folder"
    if os.path.exists(path) and not os.path.isfile(path):
        return "not a regular file"
    with contextlib.suppress(OSError):
        return kind(head_of(path, HEAD_BYTES), os.stat(path).st_size)
    return ""


def kind(head: bytes, size: int) -> str:
    """Return what kind of file has these first bytes (HEAD_BYTES of them) and this size; '' when it is not known."""
    if not size:
        return "empty"
    return next(_kinds(head, size), "")


def size_text(count: int) -> str:
    """Return a number of bytes as a text of three digits: 2.46 GB, 29.3 MB, 512 bytes."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= unit:
            number = count / unit
            return f"{number:.{2 if number < 9.995 else 1 if number < 99.95 else 0}f} {name}"
    return f"{count} bytes"


def _kinds(head: bytes, size: int) -> Iterator[str]:
    if head and not head.strip(b"\0"):
        yield ("all zeros" if len(head) >= size else f"zeros in its first {len(head)} bytes") + \
            ": a hole that an interrupted copy left"
    yield from _pointers(head)
    yield from (name for signature, name in _SIGNATURES if head.startswith(signature))
    if head[257:262] == b"ustar":
        yield "a tar archive"
    if head[4:8] == b"ftyp":
        yield "an MP4 video"
    if _is_safetensors(head, size):
        yield "a safetensors file"
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        yield "a pickle"
    yield from _texts(head, size)


def _pointers(head: bytes) -> Iterator[str]:
    """Yield what a version control keeps in place of a large file."""
    if head.startswith((b"version https://git-lfs", b"version https://hawser", b"version http://git-media")):
        yield _pointer("a Git LFS pointer", _POINTER_SIZE.search(head))
    if head.startswith(b"# xet version"):
        yield _pointer("a Xet pointer", _POINTER_SIZE.search(head))
    if head.startswith(b"/annex/objects/"):
        yield _pointer("a git-annex pointer", _ANNEX_SIZE.search(head))


def _pointer(name: str, size: re.Match[bytes] | None) -> str:
    return f"{name} of a {size_text(int(size[1]))} file" if size else name


def _is_safetensors(head: bytes, size: int) -> bool:
    return head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= max(size - 8, 0) and head[9:10] in b'"} '


def _texts(head: bytes, size: int) -> Iterator[str]:
    """Yield what kind of text it is, with the first words: a server's answer says there why it sent no file."""
    text = _text(head)
    if not text:
        return
    if _WEB_PAGE.match(text):
        yield "a web page (HTML)" + _saying(_TITLE.search(text))
    elif text.startswith(("<?xml", "<Error>")):
        yield "an XML text" + _saying(_XML_CODE.search(text))
    elif text[0] in "{[":
        yield _json(text, len(head) >= size)
    else:
        yield f"a text: {quoted(text.splitlines()[0])}"


def _text(head: bytes) -> str:
    """Return the bytes as text without white space around it; '' for bytes that are none."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = head.decode("utf-16", "replace")
    else:
        try:
            text = head.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            if error.start < len(head) - 3:  # else the last character is cut
                return ""
            text = head[:error.start].decode("utf-8-sig", "replace")
    text = text.strip("\ufeff \t\r\n\f")
    return text if all(letter.isprintable() or letter in "\t\r\n\f" for letter in text) else ""


def _json(text: str, is_whole: bool) -> str:
    if is_whole:
        with contextlib.suppress(ValueError):
            answer = fields.table(fields.loads(text))
            said = next((answer[key] for key in ("error", "message", "detail", "msg") if key in answer), None)
            return "a JSON text" + (f": {quoted(said)}" if said else "")
    return "a JSON text" if re.match(r'[{\[]\s*(["{\[\]}\d]|$)', text) else f"a text: {quoted(text.splitlines()[0])}"


def _saying(found: re.Match[str] | None) -> str:
    words = " ".join(found[1].split()) if found else ""
    return f": {quoted(words)}" if words else ""
