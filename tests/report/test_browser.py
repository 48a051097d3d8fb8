"""Pages as a browser shows them: a run, an evaluation and a comparison, on a phone and a desk, in light and dark."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from rdtops import pages, report
from rdtops.contract.journal import Journal
from tests import browser
from tests.plugins.test_video_download import REPORT, trial
from tests.report import test_page

pytestmark = pytest.mark.skipif(bool(browser.missing()), reason=browser.missing() or "there is one")
FILMS = Path(__file__).parents[2] / "docs" / "films"
OTHER = "20261125-090011-tiny-bb03"
KINDS = ("run", "evaluation", "comparison")
SMALLEST_PX, LEAST_CONTRAST = 12, 4.5  # of letters: WCAG 2.2 AA asks for the contrast
# What a person would stumble over, as sentences. An element that is folded away has no box.
STUMBLES = """(wide => {
  const found = [];
  const linear = c => c > .04045 ? ((c + .055) / 1.055) ** 2.4 : c / 12.92;
  const luminance = rgb => rgb.slice(0, 3).reduce((sum, c, n) => sum + linear(c / 255) * [.2126, .7152, .0722][n], 0);
  const rgba = text => text.match(/[\\d.]+/g).map(Number);
  const paper = element => {
    for (let at = element; at; at = at.parentElement) {
      const colour = rgba(getComputedStyle(at).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  if (document.documentElement.scrollWidth > wide) found.push("the page scrolls sideways");
  for (const element of document.querySelectorAll("body *")) {
    const box = element.getBoundingClientRect(), style = getComputedStyle(element);
    if (!element.checkVisibility() || !box.width || element.closest("script")) continue;
    const name = element.outerHTML.slice(0, 80);
    if (box.right > wide + 1 || box.left < -1) found.push("outside of the window: " + name);
    const own = [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim());
    if (!own || ["TITLE", "OPTION"].includes(element.tagName.toUpperCase())) continue;
    const scale = element.getScreenCTM ? element.getScreenCTM().a : 1;
    if (parseFloat(style.fontSize) * scale < SMALLEST_PX) found.push("small letters: " + name);
    const ink = rgba(element.getScreenCTM ? style.fill : style.color);
    const [a, b] = [luminance(ink), luminance(paper(element))];
    const contrast = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (contrast < LEAST_CONTRAST) found.push("contrast of " + contrast.toFixed(1) + ": " + name);
  }
  return found;
})""".replace("SMALLEST_PX", str(SMALLEST_PX)).replace("LEAST_CONTRAST", str(LEAST_CONTRAST))
SHOWN = "[...document.querySelectorAll('figure')].filter(f => f.checkVisibility()).map(f => f.className)"
PLAYED = """Promise.all([...document.querySelectorAll('video')].filter(v => v.checkVisibility()).map(async video => {
  await video.play();
  while (video.currentTime < .1) await new Promise(done => setTimeout(done, 20));
  return [video.src.slice(0, 5), video.videoWidth > 0, video.playbackRate];
}))"""


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """The pages by kind."""
    host = tmp_path_factory.mktemp("fetched") / "lab"
    runs = [test_page.fetched_run(host, run_id) for run_id in (test_page.RUN, OTHER)]
    journal = Journal(runs[0] / "journal.jsonl")
    journal.append("stopped", step=40, signal="SIGTERM")
    journal.append("started", resumed_from_step=40, world_size=1, device="cpu")
    evaluation = evaluation_of(runs[0])
    for film in runs[0].glob("eval/*/videos/*.mp4"):
        shutil.copy(FILMS / "drawer_success.mp4", film)
    found = {"run": report.describe(runs[0]), "comparison": report.compare(runs), "evaluation": evaluation}
    assert set(found) == set(KINDS)
    return found


def evaluation_of(run):
    """An evaluation in its own folder, as the plugin leaves it: a failure, an error, a success, videos beside it."""
    folder = run.parent / "evaluation"
    (folder / "videos").mkdir(parents=True)
    for name in ("a", "b"):
        shutil.copy(FILMS / "pick_success.mp4", folder / "videos" / f"{name}.mp4")
    trials = [trial(0, "success", video="videos/a.mp4"), trial(1, "error", error="ended by SIGSEGV " + "x" * 90),
              trial(2, "failure", video="videos/b.mp4")]
    language = "put the white mug on the left plate and put the yellow and white mug on the right plate"
    task = {**REPORT["tasks"][0], "language": language}
    value = {**REPORT, "trials": trials, "tasks": [task], "notes": ["a" * 120]}
    (folder / "report.json").write_text(json.dumps(value))
    return pages.write(folder / "index.html", pages.evaluation_page(value))


@pytest.fixture(scope="module")
def window(tmp_path_factory):
    with browser.started(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_small_faint_or_cut_off_on_a_phone_and_a_desk_in_light_and_dark(window, shown, kind):
    papers = set()
    for size in (browser.PHONE, browser.DESK):
        for dark in (False, True):
            window.open(shown[kind], size, dark=dark)
            window.ask("document.querySelectorAll('details').forEach(one => one.open = true)")
            assert window.ask(f"{STUMBLES}({size[0]})") == [], (size, dark)
            assert window.errors == []
            papers.add(window.ask("getComputedStyle(document.body).backgroundColor"))
    assert len(papers) == 2


@pytest.mark.parametrize(("kind", "address"), [("run", "data:"), ("evaluation", "file:")])
def test_videos_play_at_the_chosen_speed_below_their_captions(window, shown, kind, address):
    window.open(shown[kind], browser.PHONE)
    assert window.ask(PLAYED) == [[address, True, 1], [address, True, 1]]
    window.ask("(s => { s.value = '2'; s.dispatchEvent(new Event('change', {bubbles: true})) })"
               "(document.querySelector('.speed select'))")
    assert window.ask(PLAYED) == [[address, True, 2], [address, True, 2]]
    assert window.ask("[...document.querySelectorAll('video')].every(v => v.previousElementSibling"
                      ".getBoundingClientRect().bottom <= v.getBoundingClientRect().top)")
    assert window.errors == []


def test_failures_are_first_and_can_be_all_that_is_shown_without_a_script(window, shown):
    window.open(shown["evaluation"], browser.PHONE, scripts=False)
    assert window.ask(SHOWN) == ["failure", "error", "success"]
    assert not window.ask("document.querySelector('.speed').checkVisibility()")
    for choice in ("failure", "error", "success"):
        window.ask(f"document.querySelector('[value={choice}]').click()")
        assert window.ask(SHOWN) == [choice]
    window.ask("document.querySelector('[value=all]').click()")
    assert len(window.ask(SHOWN)) == 3


def test_a_browser_runs_no_script_but_ours_and_asks_no_network(window, shown, tmp_path):
    """Even where a page had let markup of a host through."""
    text = shown["evaluation"].read_text()
    bad = ("<script>document.title = 'pwned'</script><img src='https://example.org/a.png' onerror='document.title = 1'>"
           "<svg onload='document.title = 2'></svg><link rel=stylesheet href='https://example.org/a.css'>")
    page = pages.write(tmp_path / "page.html", text.replace("<h1>", bad + "<h1>"))
    window.open(page, browser.DESK)
    assert window.ask("document.title") == "step_002000 on libero_90: 50.0 %"
    assert len([error for error in window.errors if "Content Security Policy" in error]) >= 4, window.errors
