"""The loss curve of a fetched run: an SVG that needs nothing, and a PNG where matplotlib is installed."""

import importlib.util
import tomllib
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from rdtops.contract.journal import Event
from rdtops.report import curve
from rdtops.report.chart import picture
from rdtops.runs.results import PNG, SVG, Fetched
from rdtops.runs.story import Story

OF_SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def story() -> Story:
    return Story.from_events([
        *(Event("step", 0.0, {"step": step, "loss": 1.0 / step}) for step in range(1, 41)),
        Event("heldout", 0.0, {"step": 40, "loss": 0.05}),
        Event("checkpoint", 0.0, {"step": 40, "name": "step_000040", "size_bytes": 10, "digest": "0" * 32})])


def drawn(story: Story, folder: Path) -> ET.Element:
    curve.draw(story, folder, "20261124-101530-tiny-3fa9")
    return ET.parse(folder / SVG).getroot()


def fetched_to(folder: Path) -> Fetched:
    return Fetched("lab", None, folder, (), 0, 0, 0, 0.0)


def test_the_svg_stands_alone_and_has_every_curve_with_its_name(story, tmp_path):
    svg = drawn(story, tmp_path)
    texts = [text.text for text in svg.iter(f"{OF_SVG}text")]
    assert {"20261124-101530-tiny-3fa9", "each logged step", "running mean", "validation loss"} <= set(texts)
    polylines = [line for line in svg.iter(f"{OF_SVG}polyline") if line.get("points") != "0,0 20,0"]  # of the legend
    assert [len(line.get("points").split()) for line in polylines] == [40, 40, 1]
    assert [mark.find(f"{OF_SVG}title").text for mark in svg.iter(f"{OF_SVG}line") if mark.get("class") == "mark"] == [
        "step_000040, 10 bytes"]
    text = (tmp_path / SVG).read_text()
    assert "var(" not in text  # of a page's style sheet, which is not here
    assert "href" not in text


def test_a_run_without_a_step_has_a_picture_that_says_so(tmp_path):
    assert "no step yet" in [text.text for text in drawn(Story(), tmp_path).iter(f"{OF_SVG}text")]


def test_a_title_is_text_whatever_is_in_it(story):
    svg = ET.fromstring(picture(curve.lines(story), "<script>a & b</script>\x1b[2J\x00"))
    assert [e for e in svg.iter() if "script" in e.tag] == []
    assert "<script>a & b</script>" in svg.find(f"{OF_SVG}title").text


def test_matplotlib_is_no_part_of_the_base_install():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert not [line for line in project["dependencies"] if line.startswith(("matplotlib", "numpy", "torch"))]
    assert project["optional-dependencies"]["plots"] == ["matplotlib>=3.10"]


def test_with_matplotlib_there_is_a_png_too_and_people_are_shown_that(story, tmp_path):
    drawn(story, tmp_path)
    assert (tmp_path / PNG).read_bytes().startswith(b"\x89PNG")
    assert fetched_to(tmp_path).curve == tmp_path / PNG
    assert curve.is_drawn(tmp_path)
    (tmp_path / PNG).unlink()
    assert not curve.is_drawn(tmp_path)  # it was installed since


def test_without_matplotlib_the_svg_is_the_curve_and_no_old_png_stays(story, tmp_path, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find_spec(name))
    (tmp_path / PNG).write_bytes(b"of yesterday")
    drawn(story, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [SVG]
    assert fetched_to(tmp_path).curve == tmp_path / SVG
    assert curve.is_drawn(tmp_path)
