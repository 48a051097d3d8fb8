"""Films, read back: the format that browsers play, one frame a step, both cameras and the words on it."""

from __future__ import annotations

import subprocess

import numpy as np
import pytest

from rdtops.errors import SimulatorError
from rdtops.trainer.simulation import film

imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="the extra `eval` is not installed")
LONG = "put the white mug on the left plate and put the yellow and white mug on the right plate"  # LIBERO-10's longest


@pytest.fixture
def frames():
    """Two cameras: one red, one blue, each with a green bar that wanders down."""
    made = np.zeros((30, 2, 128, 128, 3), np.uint8)
    made[:, 0, ..., 0] = made[:, 1, ..., 2] = 200
    for step in range(30):
        made[step, :, 4 * step:4 * step + 8, :, 1] = 255
    return list(made)


def read(path):
    """What ffmpeg says of a film, and its frames."""
    done = subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"],
                          capture_output=True, check=True)
    (stream,) = [line for line in done.stderr.decode().partition("Output")[0].splitlines() if "Video:" in line]
    return stream, np.frombuffer(done.stdout, np.uint8).reshape(-1, 304, 512, 3)


def test_a_film_is_h264_for_browsers_with_a_frame_for_each_step(frames, tmp_path):
    path = tmp_path / "videos" / "a.mp4"
    film.write(path, frames, "close the drawer", "success", 200)
    about, shown = read(path)
    assert [word for word in ("h264", "yuv420p", "512x304", "20 fps") if word not in about] == []
    assert len(shown) == 30
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")  # a browser can begin before it has all
    left, right = shown[20][film.STRIP + 100, 128], shown[20][film.STRIP + 100, 384]
    assert left[0] > 150 > left[2]
    assert right[2] > 150 > right[0]
    assert shown[0][film.STRIP + 8, 128, 1] > 150 > shown[29][film.STRIP + 8, 128, 1]  # upright: it begins on top
    assert [p.name for p in path.parent.iterdir()] == ["a.mp4"]


def test_every_frame_has_the_words_and_the_outcome_has_its_colour(frames):
    for outcome, channel in (("success", 1), ("failure", 0)):
        for picture in film.drawn(frames[:2], LONG, outcome, 200):
            strip = picture[:film.STRIP].astype(int)
            assert (strip[:24, :256].max(axis=(0, 2)) > 150).sum() > 50  # the instruction
            assert strip[24:, :150].max() > 150  # the step
            verdict = strip[24:, 300:].reshape(-1, 3)
            brightest = verdict[verdict.sum(axis=1).argmax()]
            assert brightest.argmax() == channel
            assert (strip[:24, -6:].max() < 60)  # even a long instruction stays inside


def test_a_film_that_cannot_be_written_leaves_nothing(frames, tmp_path):
    (tmp_path / "a.mp4").mkdir()
    with pytest.raises(OSError, match=r"a\.mp4"):
        film.write(tmp_path / "a.mp4", frames, "close", "failure", 200)
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_without_a_writer_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(film.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SimulatorError, match="imageio-ffmpeg") as caught:
        film.require()
    assert "[trainer,eval]" in caught.value.remedy
