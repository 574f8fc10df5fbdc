"""browser.html in a real browser: filters, frames, keys, hostile text, no network."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from chromium import Page, find_chromium, open_chromium
from recorded_run import (
    RECIPE,
    answer_line,
    draw_benchmark,
    draw_lines,
    make_benchmark,
    make_question,
    write_run,
)

from vica_jax.eval import browser, report
from vica_jax.eval.benchmarks import Refused
from vica_jax.eval.contact_sheet import sheet_path
from vica_jax.eval.results import Results

HOSTILE = (
    "</script><script>document.body.dataset.stolen = 1</script>"
    '<img src=x onerror="document.body.dataset.stolen = 2"><!--<b>&amp;{{DATA}}'
)
IDS = "[...document.querySelectorAll('.card')].map((card) => card.dataset.id)"
BODY = "({...document.body.dataset})"


def text_of(selector: str) -> str:
    return f"document.querySelector({json.dumps(selector)}).textContent"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, Results]:
    """230 questions of every type, some hostile; one video of six has no frames."""
    folder = tmp_path_factory.mktemp("browser") / "run"
    benchmark = draw_benchmark(3, count=230)
    questions = list(benchmark.questions)
    questions[5] = make_question(
        5,
        "object_rel_direction_hard",
        "A",
        video=questions[5].video,
        text=f"Where is {HOSTILE}?",
    )
    lines = draw_lines(benchmark, 3)
    lines[4] = answer_line(questions[4], f"B{HOSTILE}")
    lines[6] = answer_line(questions[6], None, problem=HOSTILE)
    lines[7] = answer_line(
        questions[7],
        "word " * 500,
        finish="length",
        notes=["64 frames asked, 12 there"],
    )
    refused = [Refused(id="9", row=1, question_type="x", reason="unknown")]
    benchmark = make_benchmark(questions, refused=refused)
    recipe = RECIPE | {"note": HOSTILE}
    videos = benchmark.videos
    write_run(folder, benchmark, lines, recipe=recipe, frames=videos[1:])
    sheet_path(folder, videos[1]).write_bytes(b"no picture")
    return folder / "browser.html", report.write_report(folder, resamples=100)


@pytest.fixture(scope="module")
def page():
    path = find_chromium()
    if path is None:
        assert "CI" not in os.environ, "Chromium is missing: the page is not tested"
        pytest.skip("no chromium or google-chrome on PATH")
    with open_chromium(path) as found:
        yield found


def verdict(item) -> str:
    if not item.answered:
        return "unanswered"
    return "right" if item.score == 1 else "partly" if item.score else "wrong"


# --------------------------------------------------------------------------- the view
def test_the_first_page(page: Page, run):
    file, results = run
    page.open(file)
    body = page.evaluate(BODY)
    assert (body["found"], body["page"], body["pages"]) == ("230", "1", "12")
    assert page.evaluate(IDS) == [str(n) for n in range(20)]
    assert page.evaluate("document.title") == "VSI-Bench full, question by question"
    assert page.evaluate(text_of("#title")) == "VSI-Bench full"
    summary = page.evaluate(text_of("#summary"))
    assert summary.startswith(f"{results.overall.score:.1f} (95% interval ")
    answered = sum(item.answered for item in results.items)
    assert f"{answered} of 230 questions answered" in summary
    amiss = page.evaluate(text_of("#amiss"))
    assert f"{230 - answered} unanswered, counted as 0" in amiss
    assert "1 rows of the benchmark refused" in amiss
    assert f"2 of {len(results.benchmark.videos)} videos without frames" in amiss
    rows = page.evaluate("[...document.querySelectorAll('#tasks tr')].length")
    assert rows == 1 + len(results.tasks) + 2
    assert page.evaluate(text_of("#recipe")).endswith(HOSTILE)


def test_frames_are_shown(page: Page, run):
    file, results = run
    page.open(file)
    there = "[...document.querySelectorAll('.sheet img')]"
    page.wait(f"{there}.every((image) => image.dataset.naturalWidth)")
    widths = page.evaluate(f"{there}.map((image) => image.naturalWidth)")
    bare = results.benchmark.videos[:2]  # no file, and a file that is no picture
    shown = [item.question.video not in bare for item in results.items[:20]]
    assert widths == [320] * sum(shown) and 0 < sum(shown) < 20
    without = page.evaluate(
        "[...document.querySelectorAll('.card')].map("
        "(card) => card.textContent.includes('No frames were kept'))"
    )
    assert without == [not x for x in shown]


def test_a_card_says_everything(page: Page, run):
    file, results = run
    place, item = next(
        (n, item)
        for n, item in enumerate(results.items)
        if item.question.kind == "choice" and item.prediction == item.question.truth
    )
    page.open(file, f"id={place}")
    text = page.evaluate(text_of(".card"))
    question = item.question
    assert page.evaluate(text_of(".question")) == question.question
    for option in question.options:
        assert option in text
    marked = page.evaluate(text_of(".options .truth"))
    assert marked.startswith(f"{question.truth}. thing") and "truthanswer" in marked
    assert question.video in text and "score1 accuracy" in text
    assert f"confidence {item.confidence:.3f}" in text
    page.open(file, "id=7")
    text = page.evaluate(text_of(".card"))
    assert "cut at the token limit" in text and "64 frames asked, 12 there" in text


# ---------------------------------------------------------------------------- filters
VIEWS = [
    "show=wrong",
    "show=partly&task=room_size_estimation",
    "show=unanswered&dataset=scannet",
    "task=object_rel_direction&show=right",
    "q=Question%201&page=2",
    "q=SCENE0002%20appearance",
    "sort=confidence-down&page=3",
    "sort=score-up&task=object_counting",
    "sort=score-down&show=all&q=object_",
    "q=nothing+like+this",
]


@pytest.mark.parametrize("view", VIEWS)
def test_views_by_address(page: Page, run, view):
    """The questions that a slow selection here gives, in its order."""
    file, results = run
    wanted = dict(part.split("=") for part in view.split("&"))
    words = wanted.get("q", "").replace("%20", " ").replace("+", " ").lower().split()
    found = []
    for item in results.items:
        question = item.question
        fields = [question.id, question.video, question.question, question.truth]
        fields += [*(question.options or ()), item.prediction or "", item.problem or ""]
        said = " ".join(fields).lower()
        task = re.sub(r"_(easy|medium|hard)$", "", question.question_type)
        if (
            wanted.get("show", "all") in ("all", verdict(item))
            and wanted.get("task", task) == task
            and wanted.get("dataset", question.doc["dataset"])
            == question.doc["dataset"]
            and all(word in said for word in words)
        ):
            found.append(item)
    key, _, way = wanted.get("sort", "order").partition("-")
    if way:
        values = {id(item): getattr(item, key) for item in found}
        last = [item for item in found if values[id(item)] is None]
        first = [item for item in found if values[id(item)] is not None]
        sign = -1 if way == "down" else 1
        found = sorted(first, key=lambda item: sign * values[id(item)]) + last
    start = 20 * (int(wanted.get("page", 1)) - 1)
    page.open(file, view)
    assert page.evaluate("Number(document.body.dataset.found)") == len(found)
    assert page.evaluate(IDS) == [i.question.id for i in found[start : start + 20]]
    assert "nothing" in view or len(found) > 2
    shown = page.evaluate(
        "[...document.querySelectorAll('.card')].map((c) => c.dataset.verdict)"
    )
    assert shown == [verdict(item) for item in found[start : start + 20]]


def test_an_address_of_nonsense_is_the_first_page(page: Page, run):
    page.open(run[0], "task=teleport&show=__proto__&sort=constructor&dataset=x&page=-3")
    body = page.evaluate(BODY)
    assert (body["found"], body["page"]) == ("230", "1")
    page.open(run[0], "page=999")
    assert page.evaluate(BODY)["page"] == "12"
    page.open(run[0], "id=none")
    assert "no question with the id none" in page.evaluate(text_of("#cards"))


def test_controls_change_the_address_and_back_undoes_it(page: Page, run):
    file, _ = run
    page.open(file)
    page.evaluate("document.querySelector('#show [data-show=wrong]').click()")
    assert page.evaluate("location.hash") == "#show=wrong"
    wrong = page.evaluate("Number(document.body.dataset.found)")
    label = page.evaluate(text_of("#show [data-show=wrong]"))
    assert 0 < wrong < 230 and label == f"wrong {wrong}"
    page.evaluate("document.querySelector('#tasks button').click()")
    assert page.evaluate("location.hash") == "#task=object_counting&show=wrong"
    assert page.evaluate("document.querySelector('#task').value") == "object_counting"
    page.evaluate("history.back()")
    page.wait("location.hash === '#show=wrong'")
    page.wait(f"Number(document.body.dataset.found) === {wrong}")
    page.evaluate("document.querySelector('.card a').click()")
    page.wait("location.hash.startsWith('#id=')")
    page.wait("document.querySelectorAll('.card').length === 1")
    page.evaluate("document.querySelector('#clear').click()")
    assert page.evaluate(BODY)["found"] == "230"
    assert page.evaluate("location.hash") in ("", "#")


def test_keys(page: Page, run):
    page.open(run[0])
    focused = "document.activeElement.dataset.id"
    for key, expected in (("j", "0"), ("j", "1"), ("j", "2"), ("k", "1")):
        page.press(key)
        assert page.evaluate(focused) == expected
    page.press("n")
    assert page.evaluate(BODY)["page"] == "2"
    page.press("p")
    page.press("p")  # there is no page before the first
    assert page.evaluate(BODY)["page"] == "1"
    page.press("/")
    assert page.evaluate("document.activeElement.id") == "q"
    for key in "room":
        page.press(key)
    page.wait("location.hash === '#q=room'")
    found = page.evaluate("Number(document.body.dataset.found)")
    assert 0 < found < 230 and page.evaluate("document.activeElement.id") == "q"
    page.press("Escape")
    page.press("j")
    assert page.evaluate(focused) is not None


# ---------------------------------------------------------------------------- strangers
def test_text_of_strangers_stays_text(page: Page, run):
    file, _ = run
    for place, selector, text in (
        (4, ".prediction", f"B{HOSTILE}"),
        (5, ".question", f"Where is {HOSTILE}?"),
        (6, ".problem", HOSTILE),
    ):
        page.open(file, f"id={place}")
        assert page.evaluate(text_of(selector)) == text
        assert "stolen" not in page.evaluate(BODY)
        # What came in text made no element: the page's own images are data.
        images = "[...document.images].every((image) => image.src.startsWith('data:'))"
        assert page.evaluate(images)
    page.open(file, "q=" + "%3C%2Fscript%3E%3Cscript%3Edocument.body")
    assert page.evaluate(BODY)["found"] == "3"
    page.open(file, "id=%3Cimg src=x onerror=document.body.dataset.stolen=3%3E")
    assert "<img src=x" in page.evaluate(text_of("#cards"))
    assert "stolen" not in page.evaluate(BODY)


def test_nothing_is_fetched_and_nothing_goes_wrong(page: Page, run):
    page.open(run[0], "show=wrong")
    urls = [
        event["params"]["request"]["url"]
        for event in page.of(lambda e: e.get("method") == "Network.requestWillBeSent")
    ]
    assert urls and {url.partition(":")[0] for url in urls} <= {"file", "data", "about"}
    pages = {url.partition("#")[0] for url in urls if url.startswith("file")}
    assert pages == {run[0].as_uri()}
    assert page.of(lambda e: e.get("method") == "Runtime.exceptionThrown") == []
    assert page.of(lambda e: e.get("method") == "Log.entryAdded") == []
    # An inline script of somebody else would not run: the policy names ours alone.
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'),"
        "{textContent: 'document.body.dataset.stolen = 4'}))"
    )
    assert "stolen" not in page.evaluate(BODY)
    assert page.of(lambda e: e.get("method") == "Log.entryAdded") != []
    page.events.clear()


@pytest.mark.parametrize("width", [340, 375, 768, 1280])
def test_no_width_scrolls_sideways(page: Page, run, width):
    page.call(
        "Emulation.setDeviceMetricsOverride",
        width=width,
        height=800,
        deviceScaleFactor=1,
        mobile=width < 500,
    )
    try:
        for view in ("", "id=4", "show=unanswered"):
            page.open(run[0], view)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate("document.querySelector('.card').clientWidth") > 300
    finally:
        page.call("Emulation.clearDeviceMetricsOverride")


# ------------------------------------------------------------------- other benchmarks
@pytest.mark.parametrize("name", ["vstibench", "scanqa"])
def test_other_benchmarks(page: Page, name, tmp_path):
    benchmark = draw_benchmark(1, count=30, name=name)
    workdir = write_run(tmp_path / "run", benchmark, draw_lines(benchmark, 1))
    shutil.rmtree(workdir / "frames")
    report.write_report(workdir, resamples=50)
    page.open(workdir / "browser.html")
    assert page.evaluate(BODY)["found"] == "30"
    text = page.evaluate("document.body.textContent")
    assert "Spatial-MLLM" not in page.evaluate(text_of("#cards"))
    if name == "scanqa":
        assert page.evaluate("document.querySelector('#tasks').hidden")
        assert "CIDEr" in page.evaluate(text_of("#amiss"))
        page.open(workdir / "browser.html", "q=brown")
        assert "any of" in page.evaluate(text_of("#cards"))
    else:
        assert "camera displacement" in text


@pytest.mark.slow
def test_a_large_run_opens_quickly(page: Page, tmp_path):
    benchmark = draw_benchmark(1, count=5130, videos=288)
    lines = draw_lines(benchmark, 1)
    frames = benchmark.videos
    workdir = write_run(tmp_path / "run", benchmark, lines, frames=frames)
    report.write_report(workdir, resamples=10)
    page.open(workdir / "browser.html", "show=wrong")
    timing = "performance.getEntriesByType('navigation')[0].loadEventEnd"
    page.wait(f"{timing} > 0")
    assert page.evaluate(timing) < 5000  # milliseconds; 350 where it was written
    page.evaluate("document.querySelector('#show [data-show=all]').click()")
    assert page.evaluate(BODY)["found"] == "5130"
    assert page.evaluate("document.querySelectorAll('.card').length") == 20


# --------------------------------------------------------------------- without browser
def test_the_page_makes_no_markup_of_text():
    folder = Path(browser.__file__).parent
    source = (folder / "browser.html").read_text(encoding="utf-8")
    for way in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
    ):
        assert way not in source
    assert not re.search(r"(?:src|href)=[\"']?(?:https?:)?//", source)
    assert sorted(re.findall(r"\{\{(\w+)\}\}", source)) == [
        *("DATA", "POLICY", "SHEETS", "TITLE")
    ]


def test_data_cannot_end_its_element(run):
    text = run[0].read_text(encoding="utf-8")
    element = re.search(
        r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL
    )
    assert "<" not in element[1] and element[1].isascii()
    data = json.loads(element[1])
    assert data["questions"][4]["prediction"] == f"B{HOSTILE}"
    assert text.count("<script") == 2 + len(run[1].benchmark.videos) - 2
    assert text.count("{{DATA}}") == element[1].count("{{DATA}}") > 0
