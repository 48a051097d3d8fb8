from __future__ import annotations

import time
from pathlib import Path

import pytest

from rdtops.errors import DataError
from rdtops.trainer.data import isolation, libero
from tests.trainer.conftest import RECORDING


def endless(path: Path) -> None:
    """Empty the free space of the global heap, where texts lie: libhdf5 then walks it for ever."""
    content = bytearray(path.read_bytes())
    heap = content.index(b"GCOL")
    content[heap + 80:heap + 96] = bytes(16)
    path.write_bytes(content)


def test_it_reads_what_libero_reads() -> None:
    there, here = isolation.index(RECORDING), libero.index(RECORDING)
    assert (there.md5, there.instructions, len(there)) == (here.md5, here.instructions, len(here))
    assert (there.episodes[1].actions_T7 == here.episodes[1].actions_T7).all()


def test_a_file_that_makes_libhdf5_loop_for_ever_is_named(demonstrations) -> None:
    demonstrations.write("a_demo.hdf5")
    endless(demonstrations.write("b_demo.hdf5"))
    begun = time.monotonic()
    with pytest.raises(DataError, match=r"b_demo.hdf5 cannot be read: reading takes more than 2 s") as caught:
        isolation.index(demonstrations.folder, silence_s=2)
    assert caught.value.remedy == ("inv deploy --only data   # if your own copy is whole; or leave it out: "
                                   "--set without=b_demo.hdf5")
    assert time.monotonic() - begun < 20


def test_a_reader_that_crashes_names_the_file(demonstrations, tmp_path, monkeypatch) -> None:
    """A crash of libhdf5, played by the kernel: no file is known to this project that crashes every version of it."""
    demonstrations.write("a_demo.hdf5")
    follow = isolation._follow

    def crash(reader, folder, silence_s):
        reader.send_signal(11)  # it needs longer than this to be imported
        follow(reader, folder, silence_s)
        return "a_demo.hdf5"

    monkeypatch.setattr(isolation, "_follow", crash)
    with pytest.raises(DataError, match=r"a_demo.hdf5 cannot be read: .* ended with SIGSEGV"):
        isolation.index(demonstrations.folder)


def test_a_damaged_image_is_found_when_the_index_is_built(demonstrations) -> None:
    demonstrations.with_damaged_image()
    with pytest.raises(DataError, match="demo_1, step 4, obs/agentview_rgb cannot be read"):
        isolation.index(demonstrations.folder)


def test_an_error_of_ours_comes_back_as_it_is(tmp_path) -> None:
    with pytest.raises(DataError, match=r"has no \*.hdf5 file") as caught:
        isolation.index(tmp_path)
    assert caught.value.remedy == "inv deploy --only data"
