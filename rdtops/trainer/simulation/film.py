"""Videos of trials: H.264 that every browser plays, both cameras side by side, with instruction and outcome above:
a player's controls cover the lower edge.

A trial's frames are kept until its outcome is known, so that every frame can show it (400 steps: 39 MB).

Shapes: C cameras, S pixels of a stored edge.
"""

from __future__ import annotations

import contextlib
import importlib.util
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rdtops.errors import SimulatorError
from rdtops.hostlib import files
from rdtops.trainer.simulation.simulator import INSTALL

EDGE = 256  # pixels of a camera's picture
STRIP = 48  # pixels above, for two lines of text
FPS = 20  # the robot's control frequency
ENCODING = ("-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "23", "-preset", "fast", "-threads", "1",
            "-movflags", "+faststart", "-f", "mp4")
COLOURS = {"success": "#7ee787", "failure": "#ff9c8f"}
BACKGROUND, FOREGROUND = "#14161a", "#e6e6e6"


def require() -> None:
    """Raise SimulatorError when imageio-ffmpeg, which writes videos, is not installed."""
    if importlib.util.find_spec("imageio_ffmpeg") is None:
        raise SimulatorError("videos need imageio-ffmpeg, which is not installed", remedy=INSTALL)


def write(path: Path, frames_CSS3: list[np.ndarray], language: str, outcome: str, max_steps: int) -> None:
    """Write a video atomically: one frame a step, the first after the first step. `outcome`: success or failure. Raise
    OSError."""
    from imageio_ffmpeg import get_ffmpeg_exe

    path.parent.mkdir(parents=True, exist_ok=True)
    size = f"{frames_CSS3[0].shape[0] * EDGE}x{EDGE + STRIP}"
    with files.replacing(path) as part:
        command = [get_ffmpeg_exe(), "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size,
                   "-r", str(FPS), "-i", "-", *ENCODING, "-f", "mp4", part]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as ffmpeg:
            assert ffmpeg.stdin
            with contextlib.suppress(BrokenPipeError):  # ffmpeg ended early and printed why
                for picture in drawn(frames_CSS3, language, outcome, max_steps):
                    ffmpeg.stdin.write(picture.tobytes())
            said = ffmpeg.communicate()[1]
        if ffmpeg.returncode:
            raise OSError(f"{path}: ffmpeg ended with {ffmpeg.returncode}: {said.decode(errors='replace').strip()}")


def drawn(frames_CSS3: list[np.ndarray], language: str, outcome: str, max_steps: int) -> Iterator[np.ndarray]:
    """Draw each frame of the video: (STRIP + EDGE, C * EDGE, 3) uint8."""
    steps = len(frames_CSS3)
    verdict = f"{outcome} at step {steps}" if outcome == "success" else f"{outcome} after {steps} steps"
    for step, cameras_CSS3 in enumerate(frames_CSS3, 1):
        picture = Image.new("RGB", (len(cameras_CSS3) * EDGE, EDGE + STRIP), BACKGROUND)
        for number, pixels in enumerate(cameras_CSS3):
            picture.paste(Image.fromarray(pixels).resize((EDGE, EDGE), Image.Resampling.BICUBIC),
                          (number * EDGE, STRIP))
        pen = ImageDraw.Draw(picture)
        _line(pen, language, 4, picture.width, FOREGROUND)
        _line(pen, f"step {step} of {max_steps}", 26, picture.width, FOREGROUND)
        _line(pen, verdict, 26, picture.width, COLOURS[outcome], right=True)
        yield np.asarray(picture)


def _line(pen: ImageDraw.ImageDraw, text: str, top: int, width: int, colour: str, *, right: bool = False) -> None:
    """Write a line in the largest font that fits; instructions of LIBERO-10 are long."""
    font = next((f for size in range(15, 7, -1) if (f := ImageFont.load_default(size)).getlength(text) <= width - 16),
                ImageFont.load_default(8))
    left = width - 8 - font.getlength(text) if right else 8
    pen.text((left, top), text, fill=colour, font=font)
