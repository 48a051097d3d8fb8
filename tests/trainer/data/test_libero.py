from __future__ import annotations

import collections
import os
import pickle
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from proofs.trainer_bench.speed import as_libero_stores
from rdtops.errors import DataError
from rdtops.trainer.data import frames as frames_module
from rdtops.trainer.data import libero
from tests.trainer.conftest import RECORDING

RECORDED = "KITCHEN_SCENE10_close_the_top_drawer_of_the_cabinet_demo.hdf5"


def refused(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        libero.index(folder)
    return caught.value.message


def test_the_recording_is_read_as_what_it_is() -> None:
    dataset = libero.index(RECORDING)
    assert dataset.instructions == ("close the top drawer of the cabinet",)
    assert [(e.name, len(e.actions_T7), e.observed) for e in dataset.episodes] == [
        ("demo_0", 47, "after"), ("demo_1", 48, "after")]
    assert len(dataset) == 46 + 47
    assert list(dataset.md5) == [RECORDED]


@pytest.mark.parametrize(("observed", "lead", "samples"), [("after", 1, 5), ("before", 0, 6)])
def test_it_is_found_out_whether_observations_follow_the_action(demonstrations, observed, lead, samples) -> None:
    demonstrations.write(observed=observed, episodes=1)
    dataset = libero.index(demonstrations.folder)
    assert dataset.episodes[0].observed == observed
    assert dataset.episodes[0].lead == lead
    assert len(dataset) == samples


def test_a_regenerated_file_beside_an_original_keeps_its_own_pairing(demonstrations) -> None:
    demonstrations.write("a.hdf5", observed="after")
    demonstrations.write("b.hdf5", observed="before")
    assert {e.file: e.observed for e in libero.index(demonstrations.folder).episodes} == {
        "a.hdf5": "after", "b.hdf5": "before"}


def test_a_playback_that_drifted_a_little_is_still_recognised(demonstrations) -> None:
    def drift(data: h5py.Group) -> None:
        data["demo_0/obs/joint_states"][...] += 0.005

    demonstrations.write(change=drift)
    assert libero.index(demonstrations.folder).episodes[0].observed == "after"


def test_joints_that_fit_neither_are_refused_with_both_errors(demonstrations) -> None:
    def scramble(data: h5py.Group) -> None:
        for demo in data.values():
            demo["obs/joint_states"][...] = 5.0

    demonstrations.write(change=scramble)
    assert "cannot tell whether obs were recorded before or after the action" in refused(demonstrations.folder)


def scramble(data: h5py.Group) -> None:
    for demo in data.values():
        demo["obs/joint_states"][...] = 5.0


@pytest.mark.parametrize(("observed", "lead"), [("after", 1), ("before", 0)])
def test_the_moment_can_be_declared_where_the_file_does_not_tell(demonstrations, observed, lead) -> None:
    demonstrations.write(change=scramble)
    dataset = libero.index(demonstrations.folder, declared=libero.Declared(observed=observed))
    assert dataset.episodes[0].lead == lead
    assert "\n".join(dataset.read_as) == (
        f"task_demo.hdf5: observations {observed} the action of their index (declared); images stored upside down, "
        "turned upright (not stated, LIBERO's are)")


def test_a_declaration_that_the_file_contradicts_is_refused_with_both_errors(demonstrations) -> None:
    demonstrations.write(observed="before")
    with pytest.raises(DataError, match="recorded after the action, but the file shows before") as caught:
        libero.index(demonstrations.folder, declared=libero.Declared(observed="after"))
    assert caught.value.remedy.startswith("--set observed=before")


@pytest.mark.parametrize(("declared", "row"), [("upside_down", -1), ("upright", 0)])
def test_how_images_are_stored_can_be_declared(demonstrations, declared, row) -> None:
    demonstrations.write(change=lambda data: data.attrs.__setitem__("macros_image_convention", "opencv"))
    dataset = libero.index(demonstrations.folder, declared=libero.Declared(images=declared))
    assert (libero.Frames(dataset).read(dataset.episodes[0], 5)[:, row] == 5).all()
    assert "(declared)" in dataset.read_as[0]


def test_what_was_found_out_is_said_once_for_files_alike(demonstrations) -> None:
    for name in ("a", "b", "c"):
        demonstrations.write(f"{name}.hdf5", observed="before" if name == "c" else "after")
    alike, other, copied = libero.index(demonstrations.folder).read_as
    assert copied.startswith("b.hdf5 is a copy of a.hdf5")
    assert alike.startswith("2 files, a.hdf5 first: observations after the action of their index (found in states)")
    assert other.startswith("c.hdf5: observations before the action")


def test_every_observation_with_an_action_is_a_sample(demonstrations) -> None:
    """The last ones too, where the placing happens: a chunk longer than what is left is no reason to drop them."""
    demonstrations.write(episodes=3, steps=4)
    dataset = libero.index(demonstrations.folder)
    located = collections.Counter((e.name, step) for e, step in map(dataset.locate, range(len(dataset))))
    assert located == {(f"demo_{n}", step): 1 for n in range(3) for step in range(3)}


def test_images_are_made_upright_once(demonstrations) -> None:
    demonstrations.write()
    dataset = libero.index(demonstrations.folder)
    frames = libero.Frames(dataset).read(dataset.episodes[0], 5)
    assert frames.shape == (2, 128, 128, 3)
    assert frames.dtype == np.uint8
    assert (frames[:, -1] == 5).all()  # the stored top row is the bottom one
    assert not frames[:, :-1].any()


def test_images_that_are_upright_already_stay_so(demonstrations) -> None:
    def say(data: h5py.Group) -> None:
        data.attrs["macros_image_convention"] = "opencv"

    demonstrations.write(change=say)
    dataset = libero.index(demonstrations.folder)
    assert (libero.Frames(dataset).read(dataset.episodes[0], 5)[:, 0] == 5).all()


@pytest.mark.parametrize("stated", ["Close  the drawer", ["Close", "the", "drawer"]])
def test_an_instruction_is_a_text_or_a_list_of_words(demonstrations, stated) -> None:
    demonstrations.write(instruction=stated)
    assert libero.index(demonstrations.folder).instructions == ("Close the drawer",)


def test_files_below_the_folder_are_found_and_each_is_opened_once(demonstrations, monkeypatch) -> None:
    deep = demonstrations.folder / "libero_90"
    deep.mkdir()
    for number in range(3):
        demonstrations.write(f"libero_90/{number}.hdf5")
    dataset = libero.index(demonstrations.folder)
    opened = []
    real = frames_module.opened
    monkeypatch.setattr(frames_module, "opened", lambda path, name: opened.append(name) or real(path, name))
    frames = libero.Frames(dataset)
    for sample in range(len(dataset)):
        frames.read(*dataset.locate(sample))
    assert sorted(opened) == ["libero_90/0.hdf5", "libero_90/1.hdf5", "libero_90/2.hdf5"]
    frames.close()


def test_open_files_do_not_cross_into_another_process(demonstrations) -> None:
    demonstrations.write()
    dataset = libero.index(demonstrations.folder)
    frames = libero.Frames(dataset)
    here = frames.read(dataset.episodes[0], 3)
    there = pickle.loads(pickle.dumps(frames))
    assert not there._files
    assert np.array_equal(there.read(there.dataset.episodes[0], 3), here)


def set_attribute(name, value):
    return lambda data: data.attrs.__setitem__(name, value)


def remove(path):
    return lambda data: data.__delitem__(path)


def replace(path, values):
    def change(data: h5py.Group) -> None:
        del data[path]
        data[path] = values

    return change


def put(path, place, value):
    return lambda data: data[path].__setitem__(place, value)


@pytest.mark.parametrize(("change", "says"), [
    (remove("demo_1/obs/ee_pos"), "demo_1: obs/ee_pos is missing"),
    (remove("demo_1/states"), "demo_1: states is missing"),
    (remove("demo_0/obs/agentview_rgb"), "demo_0: obs/agentview_rgb is missing"),
    (remove("demo_1/obs/eye_in_hand_rgb"), "demo_1: obs/eye_in_hand_rgb is missing"),
    (replace("demo_1/obs/ee_ori", np.zeros((5, 3))), "demo_1: obs/ee_ori has 5 steps, but actions has 6"),
    (replace("demo_0/obs/ee_ori", np.zeros((6, 4))), "obs/ee_ori has shape (6, 4) of float64, expected (steps, 3)"),
    (replace("demo_0/actions", np.zeros((0, 7))), "demo_0: actions has no steps"),
    (replace("demo_0/actions", np.zeros((5, 7))), "demo_0: actions has 5 steps, but num_samples is 6"),
    (put("demo_1/actions", (4, 2), np.nan), "demo_1, step 4: actions is not finite"),
    (put("demo_0/obs/joint_states", (3, 0), np.inf), "demo_0, step 3: obs/joint_states is not finite"),
    (put("demo_1/actions", (2, 0), 1.3), "demo_1, step 2: actions is outside [-1, 1]"),
    (replace("demo_1/obs/agentview_rgb", np.zeros((6, 64, 64, 3), np.uint8)),
     "demo_1: obs/agentview_rgb has shape (6, 64, 64, 3) of uint8, expected (6, 128, 128, 3)"),
    (replace("demo_0/obs/agentview_rgb", np.zeros((6, 64, 64, 3), np.uint8)),
     "demo_0: obs/agentview_rgb has shape (6, 64, 64, 3), expected (steps, edge, edge, 3) with an edge of 128 or 256"),
    (replace("demo_1/obs/eye_in_hand_rgb", np.zeros((6, 128, 128, 3), np.float32)),
     "demo_1: obs/eye_in_hand_rgb has shape (6, 128, 128, 3) of float32"),
    (lambda data: [data.__delitem__(name) for name in list(data)], "no episodes (data/demo_0, ...)"),
    (set_attribute("problem_info", "{}"), "problem_info has no language_instruction"),
    (replace("demo_0/states", np.zeros((6, 9), "S4")), "demo_0: states has shape (6, 9) of |S4, expected (steps, 8 or"),
    (put("demo_1/obs/ee_pos", (2, 0), 1e300), "demo_1, step 2: obs/ee_pos is not finite"),
    (replace("demo_0/obs", np.zeros(3)), "demo_0: obs/agentview_rgb is missing"),
    (set_attribute("problem_info", "[1]"), "problem_info has no language_instruction"),
    (set_attribute("problem_info", '{"language_instruction": {"a": 1}}'), "must be a string or a list of words: {"),
    (set_attribute("problem_info", '{"language_instruction": ["a", 1]}'), "must be a string or a list of words"),
    (set_attribute("problem_info", '{"language_instruction": " "}'), "problem_info has no language_instruction"),
])
def test_what_is_wrong_is_found_before_training_with_its_place(demonstrations, change, says) -> None:
    demonstrations.write("a_demo.hdf5", change=change)
    message = refused(demonstrations.folder)
    assert message.startswith("a_demo.hdf5")
    assert says in message


def test_an_episode_of_one_observation_has_nothing_to_learn_from(demonstrations) -> None:
    demonstrations.write("long.hdf5", episodes=1)

    def shorten(data: h5py.Group) -> None:
        del data["demo_1"]
        demonstrations._episode(data.create_group("demo_1"), 1, 1, "after")

    demonstrations.write("short.hdf5", change=shorten)
    assert "demo_1 has 1 steps: no action follows an observation" in refused(demonstrations.folder)


def test_images_of_two_sizes_are_refused_with_both_files(demonstrations) -> None:
    demonstrations.write("a.hdf5")

    def enlarge(data: h5py.Group) -> None:
        for demo in data.values():
            for camera in libero.CAMERAS:
                del demo[f"obs/{camera}"]
                demo[f"obs/{camera}"] = np.zeros((6, 256, 256, 3), np.uint8)

    demonstrations.write("b.hdf5", change=enlarge)
    assert refused(demonstrations.folder) == "b.hdf5: images are 256 x 256, those of a.hdf5 128 x 128"


@pytest.mark.parametrize(("share", "says"), [
    (0.0, "is empty"), (0.01, "is truncated: it holds 37.6 kB of 3.76 MB (37583 of 3758358 bytes)"),
    (0.5, "is truncated: it holds 1.88 MB of 3.76 MB"), (0.99, "is truncated: it holds 3.72 MB of 3.76 MB")])
def test_a_truncated_file_is_found_at_once(tmp_path, share, says) -> None:
    path = Path(shutil.copy(RECORDING / RECORDED, tmp_path))
    os.truncate(path, int(path.stat().st_size * share))
    assert f"{RECORDED} {says}" in refused(tmp_path)


def test_an_empty_folder_says_so(tmp_path) -> None:
    assert "has no *.hdf5 file" in refused(tmp_path)


def test_a_file_of_another_kind_says_so(tmp_path) -> None:
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["weights"] = np.zeros(3)
    assert refused(tmp_path) == "a.hdf5: no group 'data': it has 'weights'"


def test_a_damaged_image_is_named_when_it_is_read(demonstrations) -> None:
    demonstrations.with_damaged_image()
    dataset = libero.index(demonstrations.folder)
    with pytest.raises(DataError, match="demo_1, step 4, obs/agentview_rgb cannot be read"):
        libero.Frames(dataset).read(dataset.episodes[1], 4)


# past HDF5 -----------------------------------------------------------------------------------------------------------

@pytest.fixture
def uncompressed(tmp_path) -> Path:
    """The recording as LIBERO's exporter stores it: each camera's images in one piece."""
    as_libero_stores(RECORDING, tmp_path)
    return tmp_path


def test_images_in_one_piece_are_read_past_hdf5_and_are_the_same(uncompressed, monkeypatch) -> None:
    ours, theirs = libero.index(uncompressed), libero.index(RECORDING)
    fast, slow = libero.Frames(ours), libero.Frames(theirs)
    for sample in range(len(ours)):
        assert np.array_equal(fast.read(*ours.locate(sample)), slow.read(*theirs.locate(sample)))
    monkeypatch.setattr(fast, "_unpacked", None)  # by now HDF5 is not asked any more
    fast.read(*ours.locate(7))


def test_a_place_that_does_not_hold_the_image_is_not_believed(uncompressed, monkeypatch) -> None:
    dataset = libero.index(uncompressed)
    right = libero.Frames(dataset).read(*dataset.locate(7))
    monkeypatch.setattr(frames_module, "_frame_at", lambda *_: np.zeros((128, 128, 3), np.uint8))
    assert np.array_equal(libero.Frames(dataset).read(*dataset.locate(7)), right)


def test_a_file_that_was_cut_meanwhile_says_where(uncompressed) -> None:
    dataset = libero.index(uncompressed)
    frames = libero.Frames(dataset)
    for episode in dataset.episodes:
        frames.read(episode, 0)
    path = uncompressed / RECORDED
    os.truncate(path, path.stat().st_size // 8)
    with pytest.raises(DataError, match=r"demo_1, step 40, obs/\w+ cannot be read: the file is too short"):
        frames.read(dataset.episodes[1], 40)


# --- what a file has elsewhere ---

IMAGES = "demo_0/obs/agentview_rgb"


def elsewhere(folder: Path, name: str = "pixels.hdf5") -> Path:
    """A file with images that fit."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["images"] = np.full((6, 128, 128, 3), 7, np.uint8)
    return path


def linked(target: str, path: str = "/images"):
    def change(data: h5py.Group) -> None:
        del data[IMAGES]
        data[IMAGES] = h5py.ExternalLink(target, path)
    return change


@pytest.mark.parametrize("relative", [False, True])
def test_a_link_out_of_the_dataset_is_refused_and_not_followed(demonstrations, tmp_path, relative) -> None:
    outside = elsewhere(tmp_path / "outside")
    target = "../outside/pixels.hdf5" if relative else str(outside)
    demonstrations.write(change=linked(target))
    assert refused(demonstrations.folder) == (
        f"task_demo.hdf5: 'data/{IMAGES}' is an external link to '/images' of '{target}', which is not one of the "
        "dataset's *.hdf5 files: data outside of them are not read")
    with pytest.raises(DataError, match="is an external link to"):
        libero.sample(demonstrations.folder, 1)
    assert "is an external link to" in libero.look(demonstrations.folder, 10).problems[0].error.message


def test_a_link_to_what_must_not_even_be_opened_is_refused_at_once(demonstrations, tmp_path) -> None:
    os.mkfifo(demonstrations.folder / "x.hdf5.fifo")
    demonstrations.write(change=linked(str(demonstrations.folder / "x.hdf5.fifo")))
    assert "is an external link to" in refused(demonstrations.folder)


def test_a_link_through_a_symlink_of_the_folder_leads_out_as_well(demonstrations, tmp_path) -> None:
    (demonstrations.folder / "pixels.h5.hdf5").symlink_to(elsewhere(tmp_path / "outside"))
    demonstrations.write("a.hdf5", change=linked("pixels.h5.hdf5"))
    assert refused(demonstrations.folder).startswith(f"a.hdf5: 'data/{IMAGES}' is an external link to")


def test_a_sibling_of_the_dataset_may_hold_the_images(demonstrations) -> None:
    demonstrations.write("b.hdf5", episodes=1)
    demonstrations.write("a.hdf5", episodes=1, change=linked("b.hdf5", f"/data/{IMAGES}"))
    dataset = libero.index(demonstrations.folder)
    assert set(dataset.md5) == {"a.hdf5", "b.hdf5"}
    frames = libero.Frames(dataset)
    first, second = (frames.read(episode, 3) for episode in dataset.episodes)
    frames.close()
    assert np.array_equal(first, second)


def test_a_sibling_that_leads_out_is_found_through_the_link(demonstrations, tmp_path) -> None:
    demonstrations.write("b.hdf5", episodes=1, change=linked(str(elsewhere(tmp_path / "outside"))))
    demonstrations.write("a.hdf5", episodes=1, change=linked("b.hdf5", f"/data/{IMAGES}"))
    assert refused(demonstrations.folder).startswith("b.hdf5: ")
    assert "is an external link" in refused(demonstrations.folder)


def test_siblings_that_link_to_each_other_end(demonstrations) -> None:
    demonstrations.write("a.hdf5", episodes=1, change=lambda data: data.update(other=h5py.ExternalLink("b.hdf5", "/")))
    demonstrations.write("b.hdf5", episodes=1, change=lambda data: data.update(other=h5py.ExternalLink("a.hdf5", "/")))
    assert len(libero.index(demonstrations.folder).episodes) == 2


@pytest.mark.parametrize("where", ["outside/raw.bin", "demonstrations/raw.bin"])
def test_values_in_a_raw_file_are_refused(demonstrations, tmp_path, where) -> None:
    raw = tmp_path / where
    raw.parent.mkdir(exist_ok=True)
    raw.write_bytes(bytes(6 * 128 * 128 * 3))

    def change(data: h5py.Group) -> None:
        del data[IMAGES]
        data.create_dataset(IMAGES, (6, 128, 128, 3), np.uint8, external=[(str(raw), 0, h5py.h5f.UNLIMITED)])

    demonstrations.write(change=change)
    assert f"'data/{IMAGES}' has its values in the raw file '{raw}'" in refused(demonstrations.folder)


def test_a_virtual_dataset_of_another_file_is_refused_and_one_of_the_same_read(demonstrations, tmp_path) -> None:
    def virtual(source: str, path: str):
        def change(data: h5py.Group) -> None:
            layout = h5py.VirtualLayout((6, 128, 128, 3), np.uint8)
            layout[:] = h5py.VirtualSource(source, path, (6, 128, 128, 3))
            del data[IMAGES]
            data.create_virtual_dataset(IMAGES, layout)
        return change

    demonstrations.write(change=virtual(str(elsewhere(tmp_path / "outside")), "images"))
    assert refused(demonstrations.folder).endswith(
        f"'data/{IMAGES}' has its values, as a virtual dataset, in '{tmp_path}/outside/pixels.hdf5', another file: "
        "where it is not found, HDF5 reads zeros without an error")
    demonstrations.write(change=virtual(".", "/data/demo_1/obs/agentview_rgb"))
    assert len(libero.index(demonstrations.folder).episodes) == 2


def test_a_soft_link_within_a_file_is_fine(demonstrations) -> None:
    def change(data: h5py.Group) -> None:
        del data[IMAGES]
        data[IMAGES] = h5py.SoftLink("/data/demo_1/obs/agentview_rgb")

    demonstrations.write(change=change)
    assert len(libero.index(demonstrations.folder).episodes) == 2


def test_names_in_a_file_are_shown_escaped(demonstrations) -> None:
    demonstrations.write(change=lambda data: data.update({"\x1b[2J": h5py.ExternalLink("/etc/\x1bpasswd", "/")}))
    assert refused(demonstrations.folder).isprintable()
