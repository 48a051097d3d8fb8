"""Pages about a run say what its files say, whatever that is; a browser and a reader of Markdown obey none of it."""

from __future__ import annotations

import html.parser
import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rdtops import pages
from rdtops.contract.tally import Tally, number_words
from rdtops.report import comparison, page, readme
from rdtops.report.folder import RunFolder
from rdtops.ssh.display import printable
from tests.plugins import test_video_download
from tests.report import test_page

folder = test_page.folder
HOSTILE = ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "javascript:alert(1)", "' onload='x",
           "--><svg>", "</title></style></pre>", "{{ 7 * 7 }}{% raw %}", "\x1b]52;c;eA==\x07\u202e\udc80",
           "]]> &lt; &amp;",
           "\n# heading\n<b>\n- [x](javascript:x) ![y](z) `code` **b** www.a.b http://a.b |x|\n    indented")
TAGS = {"html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "span", "div", "b", "section",
        "details", "summary", "figure", "figcaption", "svg", "line", "text", "circle", "g", "polyline", "i", "em",
        "table", "thead", "tbody", "tr", "th", "td", "code", "pre", "a", "br", "video", "footer", "h4", "dl", "dt",
        "dd", "ul", "li", "label", "input", "select", "option", "script"}
ATTRIBUTES = {"lang", "charset", "name", "content", "class", "style", "title", "viewbox", "role", "aria-label", "x",
              "y", "x1", "x2", "y1", "y2", "r", "cx", "cy", "text-anchor", "points", "controls", "muted", "loop",
              "preload", "src", "href", "open", "http-equiv", "data-head", "dx", "dy", "preserveaspectratio",
              "playsinline", "type", "value", "colspan", "checked", "selected", "hidden"}
CLASSES = {"state", "finished", "running", "failed", "stopped", "lost", "faint", "facts", "fail", "warn", "ok", "skip",
           "grid", "tick", "mark", "raw", "loss", "heldout", "speed", "split", "keys", "name", "interval", "rate",
           "scroll", "number", "word", "mono", "videos", "note", "success", "failure", "error", "",
           "chart", "about", "breaks", "break", "films", "task", "switches", "first", "bar", "rated", "other", "marks",
           *(f"p{n}" for n in range(9))}
SCRIPT, POLICY = (pages.html().globals[name] for name in ("script", "policy"))
LINK = re.compile(r"data:video/mp4;base64,[A-Za-z0-9+/=]+|(checkpoints/step_\d+/|eval/[^:]+\.mp4|videos/[^:]+\.mp4"
                  r"|(\.\./)*([^/:]+/)*report\.html)")
many = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
leaves = (st.sampled_from(HOSTILE) | st.none() | st.booleans() | st.integers() | st.text(max_size=8)
          | st.floats() | st.sampled_from([10 ** 400, -1, 1e300, -1e308, 5e-324]))
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(leaves.map(str), inner,
                                                                                         max_size=2), max_leaves=4)


@pytest.fixture
def whole(folder):
    for video in folder.rglob("large.mp4"):
        video.write_bytes(b"small after all")
    return folder, jsons_of(folder)


class Page(html.parser.HTMLParser):
    """Reads a page, and fails at whatever no page of ours has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.opened, self.data = [], []
        self.feed(text)
        self.close()
        assert self.opened == []
        assert printable(text) == text

    def handle_starttag(self, tag, attrs):
        assert tag in TAGS
        for name, value in attrs:
            assert name in ATTRIBUTES
            assert name != "class" or set(value.split(" ")) <= CLASSES
            assert name not in ("src", "href") or LINK.fullmatch(value)
            assert name != "style" or re.fullmatch(r"width:[-+.0-9a-z]+%", value)
        assert tag != "meta" or "http-equiv" not in dict(attrs) or dict(attrs)["content"] == POLICY
        if tag not in ("meta", "br"):
            self.opened.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.opened.pop()

    def handle_endtag(self, tag):
        assert self.opened.pop() == tag

    def handle_data(self, data):
        assert self.opened[-1:] != ["script"] or data == SCRIPT
        self.data.append(data)

    def handle_comment(self, data):
        raise AssertionError(data)

    handle_pi = unknown_decl = handle_comment


def spoilt(value, odd, random):
    """The same JSON with something odd in some places."""
    if random.random() < 0.1:
        return random.choice(odd)
    if isinstance(value, dict):
        return {key: inner if key == "time_s" else spoilt(inner, odd, random) for key, inner in value.items()}
    return [spoilt(inner, odd, random) for inner in value] if isinstance(value, list) else value


def renamed(value, word):
    """The same JSON with the word for every text."""
    if isinstance(value, dict):
        return {key: renamed(inner, word) for key, inner in value.items()}
    if isinstance(value, list):
        return [renamed(inner, word) for inner in value]
    return word if isinstance(value, str) else value


def jsons_of(root):
    """What the run's files hold: a list for each."""
    return {path: [json.loads(line) for line in
                   (path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()])]
            for path in sorted(root.rglob("*.json*"))}


def change(jsons, changed):
    for path, found in jsons.items():
        path.write_text("\n".join(json.dumps(changed(one)) for one in found) + "\n")
        if path.name == "config.json" and not isinstance(json.loads(path.read_text()), dict):
            path.write_text("{}")  # without one it is no run


def check(root):
    run = RunFolder.read(root)
    shown = Page(page.page(run))
    Page(comparison.page([run, run]))
    text = readme.readme(run)
    assert printable(text) == text
    check_markdown(text)
    return "".join(shown.data), text


def check_markdown(text):
    """Outside of code there is neither HTML nor a link, and each block is one of ours."""
    for line in text.splitlines():
        assert re.match(r"$|# |## (Result|Configuration|Code and data|Next commands|Files)$|- |    inv |"
                        r"Preset `|\w+ on ", line), line
        prose = "" if line.startswith("    ") else re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)", "", line)
        assert not re.search(r"[<>&\[\]|*\\`@]|://|www\.", prose), line


@pytest.mark.parametrize("word", HOSTILE)
def test_a_hostile_word_in_every_field_is_text(folder, word):
    def changed(value):
        kind = value.pop("kind", None) if "time_s" in value else None
        return {**renamed(value, word), **({"kind": kind} if kind else {}), word: word}

    change(jsons_of(folder), changed)
    (folder / "train.log").write_bytes(word.encode("utf-8", "surrogateescape"))
    data, _ = check(folder)
    assert " ".join(printable(word).split()) in " ".join(data.split())


@many
@given(odd=st.lists(values, min_size=4, max_size=4), random=st.randoms(use_true_random=True))
def test_wrong_kinds_in_any_field_make_a_page_all_the_same(whole, odd, random):
    root, jsons = whole
    change(jsons, lambda value: spoilt(value, odd, random))
    check(root)


@many
@given(odd=st.lists(values, min_size=4, max_size=4), random=st.randoms(use_true_random=True))
def test_the_page_of_videos_shows_any_report(odd, random):
    report = spoilt(test_video_download.REPORT, odd, random)
    Page(pages.evaluation_page(report if isinstance(report, dict) else {}))


@pytest.mark.parametrize("word", HOSTILE)
def test_the_page_of_videos_says_a_hostile_word_and_obeys_none(word):
    shown = Page(pages.evaluation_page(renamed(test_video_download.REPORT, word)))
    assert " ".join(printable(word).split()) in " ".join("".join(shown.data).split())


@pytest.mark.parametrize("path", ["/etc/passwd.mp4", "../x.mp4", "videos/../../x.mp4", "javascript:x.mp4",
                                  "//a.b/c.mp4", "videos/x.py", "x.mp4", "videos//x.mp4", 7, None, ["videos/x.mp4"]])
def test_a_film_is_a_planned_one_below_videos(path):
    report = {**test_video_download.REPORT, "trials": [test_video_download.trial(0, "success", video=path)]}
    assert "<video" not in pages.evaluation_page(report)


def test_a_film_of_any_name_is_linked_by_its_address():
    report = {**test_video_download.REPORT,
              "trials": [test_video_download.trial(0, "success", video='videos/a "b" #1?.mp4')]}
    assert 'src="videos/a%20%22b%22%20%231%3F.mp4"' in pages.evaluation_page(report)


def test_a_link_or_a_folder_that_is_called_a_video_is_left_out(folder, tmp_path):
    (tmp_path / "secret").write_bytes(b"secret")
    videos = next(folder.glob("eval/*/videos"))
    (videos / "a.mp4").symlink_to(tmp_path / "secret")
    (videos / "b.mp4").mkdir()
    text = page.page(RunFolder.read(folder))
    assert text.count("<video") == 2


@pytest.mark.parametrize("name", ["report.html", "README.md"])
@pytest.mark.parametrize("broken", [b"", b"\xff\xfe half", b"x" * 3_000_000])
def test_a_broken_page_is_made_anew(folder, name, broken):
    test_page.text_of(folder)
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(broken)
    test_page.text_of(folder)
    assert (folder / name).read_bytes() == whole


def test_a_page_replaces_a_link_and_never_writes_through_it(tmp_path):
    (tmp_path / "other").write_text("page")
    (tmp_path / "page").symlink_to(tmp_path / "other")
    pages.write(tmp_path / "page", "page")
    assert not (tmp_path / "page").is_symlink()
    pages.write(tmp_path / "page", "another")
    assert (tmp_path / "other").read_text() == "page"


@given(values)
def test_a_number_of_others_is_a_number_or_a_question_mark(value):
    assert re.fullmatch(r"|\?|-?[0-9.einf+-]+", number_words(value))
    tally = Tally.of({"success_rate": value, "wilson_95": [value, value], "successes": value, "trials": value,
                      "errors": value, "mean_steps_to_success": value, "language": value})
    assert re.fullmatch(r"(\?|-?[0-9.e+-]+) of (\?|-?[0-9.e+-]+)|no outcome", tally.counts_words)


@given(st.text() | st.sampled_from(HOSTILE))
def test_code_in_markdown_ends_where_it_should(word):
    text = pages.markdown().from_string("a {{ w | code }} b").render(w=word)
    assert "\n" not in text
    fence = re.match(r"a (`+)", text)[1]
    assert text.endswith(f"{fence} b")
    assert re.findall(r"(?<!`)" + fence + r"(?!`)", text) == [fence, fence]
