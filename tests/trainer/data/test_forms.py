"""The forms in which LIBERO's data are passed on are read as what they are, or named."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from rdtops.contract.config import override, preset
from rdtops.errors import DataError
from rdtops.hostlib import dataset_files
from rdtops.trainer import survey
from rdtops.trainer.data import isolation, libero, slot_statistics
from rdtops.trainer.data.actions import codec
from rdtops.trainer.data.episodes import ROBOMIMIC
from rdtops.trainer.data.hdf5 import opened
from tests.trainer.conftest import RECORDING

NO_NOOPS = "KITCHEN_SCENE10_close_the_top_drawer_of_the_cabinet_demo.hdf5"
CODEC = codec("delta_velocity")
Declared = libero.Declared


def refused(folder: Path, **declared: str) -> DataError:
    with pytest.raises(DataError) as caught:
        libero.index(folder, declared=Declared(**declared))
    return caught.value


def bare(data: h5py.Group) -> None:
    """As the regenerated no-noops files are: no attribute at all, and gaps in the numbers."""
    for owner in (data, *data.values()):
        for name in list(owner.attrs):
            del owner.attrs[name]
    data.move("demo_1", "demo_7")


def attribute(name, value, demo=""):
    return lambda data: (data[demo] if demo else data).attrs.__setitem__(name, value)


# --- files without attributes ---

def test_a_regenerated_file_is_read_by_the_task_of_its_name_and_says_so(demonstrations) -> None:
    demonstrations.write(NO_NOOPS, observed="before", change=bare)
    dataset = libero.index(demonstrations.folder)
    assert dataset.instructions == ("close the top drawer of the cabinet",)
    assert [(e.name, e.observed) for e in dataset.episodes] == [("demo_0", "before"), ("demo_7", "before")]
    (read_as,) = dataset.read_as
    assert read_as == (
        f"{NO_NOOPS}: observations before the action of their index (found in states); images stored upside down, "
        "turned upright (not stated, LIBERO's are); instruction from the task in the file's name")


@pytest.mark.parametrize(("name", "sentence"), [
    ("LIVING_ROOM_SCENE2_put_both_the_cream_cheese_box_and_the_butter_in_the_basket_demo",
     "put both the cream cheese box and the butter in the basket"),
    ("libero_10_STUDY_SCENE1_pick_up_the_book_and_place_it_in_the_back_compartment_of_the_caddy_demo",
     "pick up the book and place it in the back compartment of the caddy"),
    ("turn_on_the_stove_demo", "turn on the stove"), ("task_demo", ""), ("my_first_long_demo", ""),
    ("put_the_bowl_on_the_plate", ""), ("open_demo", "")])
def test_the_sentence_of_a_name_is_that_of_libero_or_none(demonstrations, name, sentence) -> None:
    demonstrations.write(f"{name}.hdf5", change=bare)
    if sentence:
        assert libero.index(demonstrations.folder).instructions == (sentence,)
    else:
        error = refused(demonstrations.folder)
        assert error.message == (f"{name}.hdf5: attribute problem_info has no language_instruction, and there is no "
                                 "other instruction")
        assert error.remedy == (f"--set instruction='close the drawer'   # or a file {name}.txt beside it, or "
                                "instructions.json")


def test_an_instruction_comes_from_the_file_then_from_beside_then_from_the_settings(demonstrations) -> None:
    for name in ("a", "b", "c", "d"):
        demonstrations.write(f"{name}.hdf5", episodes=1, change=None if name == "a" else
                             lambda data: data.attrs.__delitem__("problem_info"))
    (demonstrations.folder / "b.txt").write_text("open  the door\n")
    (demonstrations.folder / "instructions.json").write_text(json.dumps({"c.hdf5": "turn on the stove", "b": "no"}))
    dataset = libero.index(demonstrations.folder, declared=Declared(instruction="wave"))
    assert [e.instruction for e in dataset.episodes] == ["close the drawer", "open the door", "turn on the stove",
                                                         "wave"]
    assert [line.rpartition("; ")[2] for line in dataset.read_as[1:]] == [
        "instruction from b.txt", "instruction from instructions.json", "instruction from --set instruction="]


def test_an_attribute_of_an_episode_is_its_instruction(demonstrations) -> None:
    demonstrations.write(change=attribute("language_instruction", "open it", "demo_1"))
    assert libero.index(demonstrations.folder).instructions == ("close the drawer", "open it")


@pytest.mark.parametrize(("name", "content", "says"), [
    ("task_demo.txt", "two\nlines", "task_demo.txt must hold the instruction in one line"),
    ("instructions.json", '{"task_demo": 3}', "instructions.json must be a table of file name -> sentence: 3"),
    ("instructions.json", "{", "instructions.json cannot be read")])
def test_a_broken_file_beside_is_named(demonstrations, name, content, says) -> None:
    demonstrations.write(change=bare)
    (demonstrations.folder / name).write_text(content)
    assert says in refused(demonstrations.folder).message


@pytest.mark.parametrize(("images", "row", "column"), [
    ("upright", 0, 0), ("upside_down", -1, 0), ("mirrored", 0, -1), ("turned", -1, -1)])
def test_images_that_were_turned_can_be_declared(demonstrations, images, row, column) -> None:
    def mark(data: h5py.Group) -> None:
        for camera in libero.CAMERAS:
            data[f"demo_0/obs/{camera}"][2, 0, 0] = 99  # the corner of the stored image

    demonstrations.write(change=mark)
    dataset = libero.index(demonstrations.folder, declared=Declared(images=images))
    assert (libero.Frames(dataset).read(dataset.episodes[0], 2)[:, row, column] == 99).all()


# --- what is left out ---

def test_all_that_is_wrong_is_told_at_once_with_what_to_type(demonstrations) -> None:
    for name in ("a", "b", "c", "d"):
        demonstrations.write(f"{name}.hdf5", change=shorten if name == "b" else None)
    os.truncate(demonstrations.folder / "a.hdf5", 3000)
    (demonstrations.folder / "d.hdf5").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 29322532\n")
    error = refused(demonstrations.folder)
    assert error.message.startswith("a.hdf5 is truncated: it holds 3.00 kB of ")
    assert error.message.endswith("; b.hdf5: demo_1 has 1 steps: no action follows an observation; d.hdf5 is a Git LFS "
                                  "pointer of a 29.3 MB file")
    assert error.remedy.endswith("; or leave out what is named: --set without=a.hdf5,b.hdf5:demo_1,d.hdf5")
    dataset = libero.index(demonstrations.folder, declared=Declared(without=error.remedy.rpartition("without=")[2]))
    assert [(e.file, e.name) for e in dataset.episodes] == [("b.hdf5", "demo_0"), ("c.hdf5", "demo_0"),
                                                            ("c.hdf5", "demo_1")]
    assert set(dataset.md5) == {"b.hdf5", "c.hdf5"}
    assert dataset.without == ("b.hdf5:demo_1",)
    told = "\n".join(dataset.read_as)
    assert "b.hdf5: " in told
    assert "left out as asked: demo_1" in told
    assert "left out as asked: a.hdf5\nleft out as asked: d.hdf5" in told


def shorten(data: h5py.Group) -> None:
    for name in ("actions", "states", "obs/joint_states", "obs/gripper_states", "obs/ee_pos", "obs/ee_ori",
                 *(f"obs/{camera}" for camera in libero.CAMERAS)):
        one = data[f"demo_1/{name}"][:1]
        del data[f"demo_1/{name}"]
        data[f"demo_1/{name}"] = one
    data["demo_1"].attrs["num_samples"] = 1


def test_a_second_list_holds_the_first_one_too(demonstrations) -> None:
    for name in ("a", "b", "c"):
        demonstrations.write(f"{name}.hdf5", change=shorten if name == "b" else None)
    assert refused(demonstrations.folder, without="a.hdf5").remedy == "--set without=a.hdf5,b.hdf5:demo_1"


def test_of_many_problems_some_are_told_and_the_others_counted(demonstrations) -> None:
    for number in range(9):
        demonstrations.write(f"{number}.hdf5", episodes=1, steps=2)
        (demonstrations.folder / f"{number}.hdf5").write_bytes(b"")
    demonstrations.write("good.hdf5")
    error = refused(demonstrations.folder)
    assert error.message == "; ".join(f"{n}.hdf5 is empty" for n in range(5)) + "; and 4 more"
    assert error.remedy.endswith("--set without=" + ",".join(f"{n}.hdf5" for n in range(9)))


def test_where_nothing_would_remain_nothing_is_left_out(demonstrations) -> None:
    demonstrations.write().write_bytes(b"")
    assert "without" not in refused(demonstrations.folder).remedy
    assert "all of its files are left out" in refused(demonstrations.folder, without="task_demo.hdf5").message


@pytest.mark.parametrize(("without", "says"), [
    ("tsk_demo.hdf5", "without= names tsk_demo.hdf5, which is not in"),
    ("task_demo.hdf5:demo_9", "without= names demo_9, which is not in it; it has demo_0 to demo_1")])
def test_a_name_that_is_not_there_is_refused(demonstrations, without, says) -> None:
    demonstrations.write()
    assert says in refused(demonstrations.folder, without=without).message


def test_num_demos_of_a_subset_is_told_and_not_in_the_way(demonstrations) -> None:
    demonstrations.write(change=attribute("num_demos", 50))
    assert "2 episodes are there, although num_demos is '50'" in libero.index(demonstrations.folder).read_as[0]


def test_statistics_are_of_the_episodes_that_are_trained_on(demonstrations) -> None:
    demonstrations.write(episodes=3)
    path, without = demonstrations.folder / slot_statistics.NAME, Declared(without="task_demo.hdf5:demo_1")
    assert slot_statistics.verify(demonstrations.folder, path, CODEC).why == "there were none"
    assert slot_statistics.verify(demonstrations.folder, path, CODEC).why == ""
    assert slot_statistics.standing(demonstrations.folder, CODEC, without).why_not == (
        "they were computed without leaving out an episode")
    assert slot_statistics.load_fitting(path, libero.index(demonstrations.folder, declared=without), CODEC) is None
    found = slot_statistics.verify(demonstrations.folder, path, CODEC, without)
    assert (found.statistics["episodes"], found.statistics["without"]) == (2, ["task_demo.hdf5:demo_1"])
    assert slot_statistics.standing(demonstrations.folder, CODEC, without).why_not == ""


def test_a_damaged_image_is_left_out_by_its_episode(demonstrations) -> None:
    demonstrations.with_damaged_image()
    with pytest.raises(DataError, match="demo_1, step 4") as caught:
        isolation.index(demonstrations.folder)
    assert caught.value.remedy.endswith("--set without=task_demo.hdf5:demo_1")
    dataset = isolation.index(demonstrations.folder, declared=Declared(without="task_demo.hdf5:demo_1"))
    assert [e.name for e in dataset.episodes] == ["demo_0"]


# --- opening ---

WRITER = """
import os, signal, sys, h5py
file = h5py.File(sys.argv[1], "r+", libver=sys.argv[2] or None)
if sys.argv[3] == "swmr":
    file.swmr_mode = True
file.flush()
print("open", flush=True)
sys.stdin.read()
"""


def locking(account: str | None = None) -> dict[str, str]:
    """The environment of an account that asks for locks in this way, or not at all."""
    others = {name: value for name, value in os.environ.items() if name != "HDF5_USE_FILE_LOCKING"}
    return others if account is None else {**others, "HDF5_USE_FILE_LOCKING": account}


def writer(path: Path, libver: str = "", mode: str = "") -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path), libver, mode], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True, env=locking())
    assert process.stdout.readline() == "open\n"
    return process


@pytest.mark.parametrize("account", ["TRUE", "BEST_EFFORT", None])
def test_a_file_that_another_program_holds_locked_is_read(demonstrations, account) -> None:
    """Also where the account asks for locks, which overrules what h5py is told."""
    process = writer(demonstrations.write())
    code = "import sys; from rdtops.trainer.data import libero; print(len(libero.index(sys.argv[1]).episodes))"
    try:
        done = subprocess.run([sys.executable, "-c", code, str(demonstrations.folder)], env=locking(account),
                              text=True, capture_output=True, check=False)
        assert done.stdout == "2\n", done.stderr
        # the lock is real: who asks for one is refused
        asking = subprocess.run([sys.executable, "-c", "import h5py, sys; h5py.File(sys.argv[1], 'r', locking=True)",
                                 str(demonstrations.folder / "task_demo.hdf5")], capture_output=True, text=True,
                                env=locking(), check=False)
        assert "unable to lock file, errno = 11" in asking.stderr
    finally:
        process.communicate()


@pytest.mark.parametrize(("raised", "says"), [
    ("unable to lock file, errno = 11, error message = 'Resource temporarily unavailable'",
     "is locked by a program that has it open for writing (errno 11: Resource temporarily unavailable)"),
    ("unable to lock file, errno = 37, error message = 'No locks available'",
     "cannot be locked: its file system has no locks (errno 37: No locks available)"),
    ("unable to lock file, errno = 524, error message = 'Unknown error 524'", "its file system has no locks")])
def test_a_lock_is_told_from_damage(tmp_path, monkeypatch, raised, says) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(f"Unable to synchronously open file ({raised})")

    monkeypatch.setattr(h5py, "File", refuse)
    with pytest.raises(DataError) as caught:
        opened(tmp_path / "a.hdf5", "a.hdf5")
    assert says in caught.value.message
    assert caught.value.remedy == "HDF5_USE_FILE_LOCKING=FALSE in the host's env in hosts.toml"


@pytest.mark.parametrize(("libver", "mode"), [("latest", ""), ("latest", "swmr")])
def test_the_mark_of_a_writer_that_crashed_is_named(demonstrations, libver, mode) -> None:
    path = demonstrations.folder / "task_demo.hdf5"
    h5py.File(path, "w", libver=libver).close()
    process = writer(path, libver, mode)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    error = refused(demonstrations.folder)
    assert error.message == ("task_demo.hdf5 is marked as open for writing: a program writes to it, or one that "
                             "crashed has left the mark")
    assert error.remedy.startswith(f"h5clear -s {path}")


def test_a_file_without_permission_is_not_called_damaged(demonstrations, monkeypatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Unable to synchronously open file (unable to open file: errno = 13)")

    demonstrations.write()
    monkeypatch.setattr(h5py, "File", refuse)
    assert refused(demonstrations.folder).message == "task_demo.hdf5 cannot be opened: Permission denied"


@pytest.mark.parametrize(("content", "says"), [
    (b"<!DOCTYPE html><title>Sign in</title>", "is a web page (HTML): 'Sign in', not an HDF5 file"),
    (b'{"error": "Repository not found"}', "is a JSON text: 'Repository not found', not an HDF5 file"),
    (bytes(5000), "is zeros in its first 4096 bytes: a hole that an interrupted copy left, not an HDF5 file"),
    (b"\x1f\x8b\x08" + bytes(40), "is a gzip archive, not an HDF5 file"),
    (b"\x93\x01\x02\xff" * 9, "cannot be opened: damaged, or not an HDF5 file")])
def test_what_lies_in_place_of_a_file_is_named(demonstrations, content, says) -> None:
    demonstrations.write().write_bytes(content)
    assert says in refused(demonstrations.folder).message


# --- filters and chunks ---

def chunked(demo: h5py.Group, camera: str, set_filter, shape=(6, 128, 128, 3)) -> h5py.h5d.DatasetID:
    del demo[f"obs/{camera}"]
    pipeline = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    pipeline.set_chunk(shape)
    set_filter(pipeline)
    return h5py.h5d.create(demo["obs"].id, camera.encode(), h5py.h5t.NATIVE_UINT8, h5py.h5s.create_simple(shape),
                           pipeline)


@pytest.mark.parametrize(("number", "name"), [(32001, "blosc"), (32015, "zstd"), (40000, "unknown")])
def test_a_filter_that_is_not_installed_is_named(demonstrations, monkeypatch, number, name) -> None:
    def compress(data: h5py.Group) -> None:
        chunked(data["demo_1"], "agentview_rgb", lambda pipeline: pipeline.set_filter(
            number, h5py.h5z.FLAG_OPTIONAL, (1,))).write_direct_chunk((0, 0, 0, 0), b"packed", 0)

    demonstrations.write(change=compress)
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    error = refused(demonstrations.folder)
    assert error.message == (f"task_demo.hdf5: demo_1: obs/agentview_rgb is compressed by the HDF5 filter '{name}' "
                             f"({number}), which is not installed")
    assert error.remedy.startswith("inv deploy --env   # with requirements = [\"hdf5plugin\"]")
    assert survey.summarise(demonstrations.folder, 10).problem == error.message


def whole_episodes(data: h5py.Group) -> None:
    """Each camera's images of an episode in one gzip chunk."""
    for number, demo in enumerate(data.values()):
        for camera in libero.CAMERAS:
            images = np.random.default_rng(number).integers(0, 50, demo[f"obs/{camera}"].shape, np.uint8)
            del demo[f"obs/{camera}"]
            demo.create_dataset(f"obs/{camera}", data=images, chunks=images.shape, compression="gzip")


def test_an_episode_in_one_chunk_is_unpacked_once_and_named(demonstrations) -> None:
    path = demonstrations.write(steps=40, change=whole_episodes)
    dataset = libero.index(demonstrations.folder)
    assert "slow: 40 images are one gzip chunk, so that a sample may unpack 2.0 MB a camera" in dataset.read_as[0]
    frames = libero.Frames(dataset)
    right = frames.read(dataset.episodes[1], 7)
    with h5py.File(path, locking=False) as file:
        assert np.array_equal(right[0], file["data/demo_1/obs/agentview_rgb"][7][::-1])
    path.write_bytes(path.read_bytes()[:2000])  # what was unpacked is not read again
    assert np.array_equal(frames.read(dataset.episodes[1], 7), right)
    assert frames.read(dataset.episodes[1], 39).any()
    frames.close()


def test_unpacked_chunks_take_bounded_memory(demonstrations, monkeypatch) -> None:
    from rdtops.trainer.data import frames as module

    demonstrations.write(episodes=5, steps=40, change=whole_episodes)
    dataset = libero.index(demonstrations.folder)
    monkeypatch.setattr(module, "KEPT_BYTES", 5 << 20)
    frames = libero.Frames(dataset)
    seen = {e.name: frames.read(e, 3) for e in dataset.episodes}
    assert len(frames._kept) == 2
    assert frames._kept_bytes <= module.KEPT_BYTES
    assert all(np.array_equal(frames.read(e, 3), seen[e.name]) for e in dataset.episodes)


def test_a_slow_reader_that_goes_on_is_not_taken_for_hung(demonstrations, monkeypatch) -> None:
    """A sign of life each second: episodes together take longer than the silence that is allowed."""
    demonstrations.write(episodes=2)
    told = []
    monkeypatch.setattr(isolation, "_announce", told.append)
    monkeypatch.setattr(isolation, "TOLD_S", 0.05)
    monkeypatch.setattr(libero.Frames, "read", lambda *_: time.sleep(0.03))
    assert isolation._damaged_images(libero.index(demonstrations.folder)) == []
    assert len(told) >= 5


# --- images' convention ---

@pytest.mark.parametrize(("stated", "row"), [("OpenGL", -1), ("opengl", -1), (b"OPENGL", -1), ("OpenCV", 0),
                                             (np.array(["opencv"], h5py.string_dtype()), 0), (" opengl ", -1)])
def test_the_convention_of_images_is_read_in_any_case(demonstrations, stated, row) -> None:
    demonstrations.write(change=attribute("macros_image_convention", stated))
    dataset = libero.index(demonstrations.folder)
    assert (libero.Frames(dataset).read(dataset.episodes[0], 5)[:, row] == 5).all()


@pytest.mark.parametrize("stated", ["vulkan", "", 3, np.array(["opengl", "opencv"], h5py.string_dtype())])
def test_an_unknown_convention_is_refused_and_can_be_declared(demonstrations, stated) -> None:
    demonstrations.write(change=attribute("macros_image_convention", stated))
    assert "task_demo.hdf5: attribute macros_image_convention is " in refused(demonstrations.folder).message
    assert libero.index(demonstrations.folder, declared=Declared(images="upright")).images == {
        "task_demo.hdf5": "upright"}


# --- links ---

@pytest.mark.parametrize("stored", ["gzip", "in one piece"])
def test_demonstrations_behind_links_are_read_once_from_the_right_file(demonstrations, stored) -> None:
    """Parts without attributes or of another layout, and a file of links to them, as h5py's manual suggests."""
    def unpack(data: h5py.Group) -> None:
        for demo in data.values():
            for camera in libero.CAMERAS if stored == "in one piece" else ():
                images = demo[f"obs/{camera}"][()]
                del demo[f"obs/{camera}"]
                demo[f"obs/{camera}"] = images

    demonstrations.write("whole.hdf5", episodes=3, change=unpack)
    (demonstrations.folder / "parts").mkdir()
    with h5py.File(demonstrations.folder / "whole.hdf5") as whole, \
            h5py.File(demonstrations.folder / "index.hdf5", "w") as linking:
        data = linking.create_group("data")
        data.attrs["problem_info"] = whole["data"].attrs["problem_info"]
        for number in range(3):
            with h5py.File(demonstrations.folder / "parts" / f"{number}.hdf5", "w") as part:
                part.create_dataset("before", data=np.arange(1000 * number))  # other offsets in each file
                whole.copy(f"data/demo_{number}", part, "episode")
            data[f"demo_{number}"] = h5py.ExternalLink(f"parts/{number}.hdf5", "/episode")
    right = libero.index(demonstrations.folder, declared=Declared(
        without="index.hdf5,parts/0.hdf5,parts/1.hdf5,parts/2.hdf5"))
    dataset = libero.index(demonstrations.folder, declared=Declared(without="whole.hdf5"))
    assert [(e.file, e.name) for e in dataset.episodes] == [("index.hdf5", f"demo_{n}") for n in range(3)]
    assert set(dataset.md5) == {"index.hdf5", "parts/0.hdf5", "parts/1.hdf5", "parts/2.hdf5"}
    ours, theirs = libero.Frames(dataset), libero.Frames(right)
    for sample in range(len(dataset)):
        assert np.array_equal(ours.read(*dataset.locate(sample)), theirs.read(*right.locate(sample)))
    assert (any(ours._places.values()), any(theirs._places.values())) == (stored != "gzip",) * 2
    ours.close(), theirs.close()


def test_one_recording_under_two_names_is_read_once_and_said(demonstrations) -> None:
    demonstrations.write("a.hdf5", change=lambda data: data.__setitem__("demo_5", h5py.SoftLink("/data/demo_0")))
    (demonstrations.folder / "b.hdf5").symlink_to("a.hdf5")
    dataset = libero.index(demonstrations.folder)
    assert [(e.file, e.name) for e in dataset.episodes] == [("a.hdf5", "demo_0"), ("a.hdf5", "demo_1")]
    assert "demo_5 is the same recording as a.hdf5:demo_0 and read once" in dataset.read_as[0]
    assert "demo_0 is the same recording as a.hdf5:demo_0 and read once, and 2 more like it" in dataset.read_as[1]


def test_region_references_do_no_harm(demonstrations) -> None:
    demonstrations.write(change=lambda data: data.attrs.__setitem__("part", data["demo_0/actions"].regionref[0:2]))
    assert len(libero.index(demonstrations.folder).episodes) == 2


# --- the listing ---

def test_what_macos_and_downloads_leave_beside_is_no_demonstration(demonstrations) -> None:
    demonstrations.write("a.hdf5")
    demonstrations.write("UPPER.HDF5")
    demonstrations.write("b.h5")
    shutil.copytree(demonstrations.folder, demonstrations.folder / ".cache")
    for name in ("._a.hdf5", "c.hdf5.part", "d.hdf5~"):
        (demonstrations.folder / name).write_bytes(b"\0\x05\x16\x07")
    assert set(libero.index(demonstrations.folder).md5) == {"UPPER.HDF5", "a.hdf5", "b.h5"}


@pytest.mark.parametrize(("files", "kind"), [
    (["meta/info.json", "data/chunk-000/episode_000000.parquet"], "a LeRobot dataset (meta/info.json)"),
    (["1.0.0/dataset_info.json", "1.0.0/x-train.tfrecord-00000-of-00016"],
     "an RLDS dataset (TensorFlow Datasets) (1.0.0/dataset_info.json)"),
    (["x-train.tfrecord-00000-of-00016"],
     "an RLDS dataset (TensorFlow Datasets) (x-train.tfrecord-00000-of-00016)"),
    (["push.zarr/.zgroup", "push.zarr/data/.zgroup"], "a zarr store, as Diffusion Policy writes (push.zarr/.zgroup)"),
    (["a/0.pkl"], "pickled data (a/0.pkl)"), (["goal.zip"], "an archive that is not unpacked (goal.zip)"),
    (["a_demo.hdf5.incomplete"], "a download that has not ended"), (["README.md"], ""), ([], "")])
def test_a_folder_of_another_kind_is_named(tmp_path, files, kind) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert dataset_files.other_kind(str(tmp_path)) == kind
    error = refused(tmp_path)
    assert error.message == f"{tmp_path} has no *.hdf5 file{f': {kind}' if kind else ''}"
    assert error.remedy.startswith("convert it" if kind else "inv deploy")


# --- other layouts ---

def robomimic(data: h5py.Group) -> None:
    """As robomimic's dataset_states_to_obs names the fields."""
    for demo in data.values():
        ours = ("obs/joint_states", "obs/gripper_states", "obs/ee_pos", "obs/ee_ori")
        for name, theirs in zip(ours, ROBOMIMIC.fields, strict=True):
            values = demo[name][()]
            del demo[name]
            if theirs.endswith("quat"):
                angle = np.linalg.norm(values, axis=1, keepdims=True)
                values = np.hstack([values / angle * np.sin(angle / 2), np.cos(angle / 2)])
            demo[theirs] = values
        for camera, theirs in zip(libero.CAMERAS, ROBOMIMIC.cameras, strict=True):
            demo.move(f"obs/{camera}", f"obs/{theirs}")


def test_robomimics_names_are_read_with_the_same_numbers(demonstrations) -> None:
    demonstrations.write("a.hdf5", observed="before")
    right = libero.index(demonstrations.folder, declared=Declared(images="upright"))
    images = [libero.Frames(right).read(e, 3) for e in right.episodes]
    demonstrations.write("a.hdf5", observed="before", change=robomimic)
    error = refused(demonstrations.folder)
    assert "images by robomimic's names do not say how they are stored" in error.message
    assert "--set images=upright" in error.remedy
    dataset = libero.index(demonstrations.folder, declared=Declared(images="upright"))
    for ours, theirs, image in zip(dataset.episodes, right.episodes, images, strict=True):
        assert np.array_equal(ours.joint_rad_T7, theirs.joint_rad_T7)
        assert np.allclose(ours.axis_angle_rad_T3, theirs.axis_angle_rad_T3, atol=1e-6)
        assert np.array_equal(libero.Frames(dataset).read(ours, 3), image)


def test_a_quaternion_that_is_none_is_named(demonstrations) -> None:
    def change(data: h5py.Group) -> None:
        robomimic(data)
        data["demo_1/obs/robot0_eef_quat"][3] = 0

    demonstrations.write(change=change)
    assert "demo_1: obs/robot0_eef_quat is no unit quaternion at step 3" in refused(
        demonstrations.folder, images="upright").message


def test_states_are_needed_only_to_find_out_the_moment(demonstrations) -> None:
    demonstrations.write(change=lambda data: [demo.__delitem__("states") for demo in data.values()])
    error = refused(demonstrations.folder)
    assert "demo_0: states is missing: it shows whether obs were recorded before or after the action" in error.message
    assert error.remedy.startswith("ask whoever recorded it, then: --set observed=after")
    dataset = libero.index(demonstrations.folder, declared=Declared(observed="before"))
    assert dataset.episodes[0].observed == "before"


def test_filter_keys_are_said(demonstrations) -> None:
    demonstrations.write(change=lambda data: data.file.__setitem__("mask/train", np.array([b"demo_0"])))
    assert "its filter keys (mask/train and others) are not used" in libero.index(demonstrations.folder).read_as[0]


@pytest.mark.parametrize(("names", "says"), [
    (("action", "observations/qpos", "observations/images/top"), "it is an ALOHA episode"),
    (("actions", "observations", "rewards", "terminals"), "it is a D4RL dataset"),
    (("action/cartesian_velocity", "observation/robot_state/x"), "it is a DROID trajectory"),
    (("data/demo_1/actions", "data/demo_1/states"), "the file has states and actions alone, as robosuite records them"),
    (("something",), "it has 'something'")])
def test_another_layout_is_named(tmp_path, names, says) -> None:
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        for name in names:
            file[name] = np.zeros((4, 7))
        if "data" in file:
            file["data"].attrs["problem_info"] = '{"language_instruction": "x"}'
    assert says in refused(tmp_path).message


# --- the settings and the summary ---

def test_the_settings_are_part_of_a_configuration_and_older_ones_are_read() -> None:
    train = override(preset("tiny"), ["instruction=close it", "without=a.hdf5,b.hdf5:demo_1", "images=mirrored"])
    assert Declared.of(train) == Declared("auto", "mirrored", "close it", "a.hdf5,b.hdf5:demo_1")
    older = {k: v for k, v in preset("tiny").to_json().items() if k not in ("instruction", "without")}
    assert type(train).from_json(older) == preset("tiny")


def test_the_summary_reads_what_the_training_will_read(demonstrations) -> None:
    demonstrations.write("a.hdf5", change=bare)
    path = demonstrations.write("b.hdf5")
    os.truncate(path, 3000)
    declared = ("--instruction=close it", "--without=b.hdf5")
    line = [sys.executable, "-m", "rdtops.trainer.survey", str(demonstrations.folder), "10", "delta_velocity"]
    good, bad = (json.loads(subprocess.run([*line, *options], capture_output=True, text=True, check=True).stdout)
                 for options in (declared, declared[:1]))
    assert (good["problem"], good["files"], good["episodes"]) == ("", 1, 2)
    assert bad["problem"].startswith("b.hdf5 is truncated")
    assert bad["without"] == ["b.hdf5"]
    assert bad["wrong_files"]["b.hdf5"][0] == 3000
    assert len(bad["wrong_files"]["b.hdf5"][1]) == 32


def test_the_summary_reads_one_image_of_each_file(demonstrations) -> None:
    path = demonstrations.write(episodes=1)
    with h5py.File(path) as file:
        place = file["data/demo_0/obs/agentview_rgb"].id.get_chunk_info(0)
    with path.open("r+b") as raw:
        raw.seek(place.byte_offset)
        raw.write(b"\xff" * place.size)
    assert "demo_0, step 0, obs/agentview_rgb cannot be read" in survey.summarise(demonstrations.folder, 10).problem


def test_the_recording_is_read_as_before() -> None:
    dataset = libero.index(RECORDING)
    assert (dataset.without, set(dataset.images.values())) == ((), {"upside_down"})
