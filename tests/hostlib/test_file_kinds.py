"""What lies in place of a file is named by its first bytes."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import tarfile
import zipfile

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdtops.hostlib.file_kinds import HEAD_BYTES, kind, kind_of, size_text

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize 2456755578\n" % (b"4" * 64)
ANNEX = b"/annex/objects/SHA256E-s29300000--%s.hdf5\n" % (b"4" * 64)


def zipped():
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("data.pkl", b"x")
    return content.getvalue()


def tarred():
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("demo.hdf5"))
    return content.getvalue()


def saved(array):
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def hdf5():
    content = io.BytesIO()
    h5py.File(content, "w").close()
    return content.getvalue()


def tensors():
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(4)


@pytest.mark.parametrize(("content", "named"), [
    (b"", "empty"),
    (LFS, "a Git LFS pointer of a 2.46 GB file"),
    (LFS.replace(b"\n", b"\r\n"), "a Git LFS pointer of a 2.46 GB file"),
    (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
    (b"# xet version 0\nfilesize = 512\nhash = '0'\n", "a Xet pointer of a 512 bytes file"),
    (ANNEX, "a git-annex pointer of a 29.3 MB file"),
    (b"\xef\xbb\xbf\r\n<!DOCTYPE html>\n<html lang=en><head><title>404 Not\n Found</title>",
     "a web page (HTML): '404 Not Found'"),
    (b"<html>\r\n<body>", "a web page (HTML)"),
    (b"<!-- saved --><HTML>", "a web page (HTML)"),
    ("<html><title>登录</title>".encode("utf-16"), "a web page (HTML): '\\u767b\\u5f55'"),
    (b'<?xml version="1.0"?>\n<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0//EN"><html>', "a web page (HTML)"),
    (b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code><Message>The</Message></Error>', "an XML text: 'NoSuchKey'"),
    (b'{"error":"Repository not found"}', "a JSON text: 'Repository not found'"),
    (b'{"model_type": "t5"}\n', "a JSON text"),
    (b'{"model_type": "t5"' + b" " * HEAD_BYTES + b"}", "a JSON text"),
    (b"Entry not found", "a text: 'Entry not found'"),
    (b"Access to model x is restricted.\nLog in.", "a text: 'Access to model x is restricted.'"),
    (bytes(100), "all zeros: a hole that an interrupted copy left"),
    (bytes(100_000), "zeros in its first 4096 bytes: a hole that an interrupted copy left"),
    (gzip.compress(b"x", mtime=0), "a gzip archive"),
    (bz2.compress(b"x"), "a bzip2 archive"),
    (lzma.compress(b"x"), "an xz archive"),
    (zipped(), "a zip archive"),
    (tarred(), "a tar archive"),
    (hdf5(), "an HDF5 file"),
    (hdf5().replace(b"\r\n", b"\n"), "an HDF5 file damaged by a transfer as text (CR LF became LF)"),
    (hdf5().replace(b"\n", b"\r\n"), "an HDF5 file damaged by a transfer as text (LF became CR LF)"),
    (hdf5().decode("utf-8", "replace").encode(), "an HDF5 file damaged by a transfer as text (as UTF-8)"),
    (saved(np.zeros(3)), "a NumPy file (.npy)"),
    (pickle.dumps({"a": 1}, 4), "a pickle"),
    (tensors(), "a safetensors file"),
    (b"\0\x05\x16\x07\0\x02\0\0Mac OS X        ", "an AppleDouble file, which macOS writes beside the real one"),
    (b"\x17\x2a\x99\x00\xff", ""),
], ids=lambda value: None if isinstance(value, bytes) else value[:40])
def test_a_file_is_named_by_its_first_bytes(tmp_path, content, named):
    (tmp_path / "file").write_bytes(content)
    assert kind_of(tmp_path / "file") == kind(content[:HEAD_BYTES], len(content)) == named


def test_what_is_no_file_is_named_too(tmp_path):
    (tmp_path / "lost").symlink_to("../blobs/4f2a")
    os.mkfifo(tmp_path / "fifo")
    assert kind_of(tmp_path / "lost") == "a link to '../blobs/4f2a', which does not exist"
    assert kind_of(tmp_path) == "a folder"
    assert kind_of(tmp_path / "fifo") == kind_of("/dev/zero") == "not a regular file"
    assert kind_of(tmp_path / "nowhere") == ""


@pytest.mark.parametrize(("count", "text"), [
    (0, "0 bytes"), (999, "999 bytes"), (1000, "1.00 kB"), (21_000_000, "21.0 MB"), (29_312_345, "29.3 MB"),
    (999_999, "1000 kB"), (456_000_000, "456 MB"), (2_456_755_578, "2.46 GB"), (9_999_000_000, "10.0 GB"),
    (5_000_000_000_000, "5000 GB")])
def test_a_size_has_three_digits(count, text):
    assert size_text(count) == text


@given(st.one_of(st.binary(max_size=600), st.text(max_size=300).map(str.encode),
                 st.sampled_from([LFS, ANNEX, hdf5(), b"<html>", b'{"error": ']).flatmap(
                     lambda start: st.binary(max_size=80).map(lambda rest: start[:len(rest) * 2] + rest))),
       st.integers(0, 1 << 62))
def test_any_bytes_have_a_kind_of_one_line(head, more):
    found = kind(head, len(head) + more)
    assert found.isprintable()
    assert len(found) < 300
