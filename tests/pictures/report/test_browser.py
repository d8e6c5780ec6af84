"""The page as people meet it: a real Chromium, keys pressed, colours looked at."""

import json
from dataclasses import replace

import pytest

from tests.pictures.report.browser import Browser, missing
from tests.pictures.report.builders import HOSTILE, dataset, heatmaps, masks, page, perturbation_run, scores
from tests.pictures.report.test_page import embedded

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing()), reason=f"not installed here: {', '.join(missing())}"),
]

SHOWN = "return [...document.querySelectorAll('#cards .card')].map((card) => card.dataset.image)"
CARDS = "return document.querySelectorAll('.card').length"
COUNT = "return document.getElementById('count').textContent"
LAID_OUT = (
    "[...document.querySelectorAll('.card .stack')]"
    ".filter((one) => one.checkVisibility({contentVisibilityAuto: true})).length"
)
OPACITY = """
const layers = document.querySelector(arguments[0]).querySelectorAll('img');
return Object.fromEntries([...layers].map((layer) => [layer.className, Number(getComputedStyle(layer).opacity)]))
"""
# WCAG 2: relative luminance of the ink against that of the nearest opaque ground, of every text that is laid out.
CONTRASTS = """
const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
const light = (colour) => numbers(colour).slice(0, 3).map((c) => c / 255)
  .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
  .reduce((sum, c, k) => sum + c * [0.2126, 0.7152, 0.0722][k], 0);
const opaque = (colour) => { const [, , , alpha = 1] = numbers(colour); return alpha > 0; };
function ground(node) {
  for (let at = node; at; at = at.parentElement) {
    const { backgroundColor } = getComputedStyle(at);
    const box = at.tagName === 'g' && at.querySelector('.box:not(.outside)');
    if (box) return getComputedStyle(box).fill;
    if (opaque(backgroundColor)) return backgroundColor;
  }
  throw new Error('no ground');
}
const found = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const node = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || !node.checkVisibility()) continue;
  if (node.closest('script, noscript, :disabled')) continue;
  const style = getComputedStyle(node);
  const [a, b] = [light(node.closest('svg') ? style.fill : style.color), light(ground(node))];
  found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), walker.currentNode.data.trim().slice(0, 40)]);
}
return found
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A page with everything: two runs with truth, scores, curves, hostile names."""
    directory = tmp_path_factory.mktemp("report")
    data = dataset(directory / "data", images=7, classes=HOSTILE)
    runs = [perturbation_run(HOSTILE[0], 0.1), perturbation_run("b", 0.3)]
    inputs = [
        heatmaps(directory / "cam.h5", data),
        masks(directory / "masks.h5", data),
        scores(directory / "scores.h5", {"protocol": "perturbation", "runs": runs}),
    ]
    return directory / "page.html", page(directory / "page.html", inputs, data)


@pytest.fixture(scope="module", params=["light", "dark"])
def browsers(request):
    browser = Browser(dark=request.param == "dark")
    yield browser, request.param
    browser.close()


@pytest.fixture
def browser(browsers, made):
    found, _ = browsers
    found.size(1280, 900)
    found.log()
    found.requests()
    found.open(made[0])
    return found


def test_the_page_opens_without_an_error_or_a_request(browser, made):
    browser.run("document.querySelectorAll('details').forEach((step) => { step.open = true })")
    browser.run("document.querySelector('.picture').click()")
    assert browser.run("return document.getElementById('viewer').open")
    assert browser.run("return [...document.images].every((image) => image.complete && image.naturalWidth > 0)")
    assert browser.log() == []
    assert browser.requests() == [made[0].as_uri()]


def test_the_log_would_tell_a_violation(browser):
    browser.run("document.body.append(Object.assign(new Image(), {src: 'http://127.0.0.1:9/x.png'}))")
    assert any("Content Security Policy" in line for line in browser.log())
    browser.run("document.body.insertAdjacentHTML('beforeend', '<b onclick=alert(1)>x</b>')")
    assert browser.run("document.querySelector('b[onclick]').click(); return true")
    assert any("inline event handler" in line for line in browser.log())


def test_arrow_keys_move_from_photograph_over_heatmap_and_mask_to_truth(browser):
    value = "return document.activeElement.getAttribute('aria-valuetext')"
    browser.focus("#blend")
    browser.press("home")
    assert browser.run(OPACITY, "#cards .card") == {"photograph": 1, "heatmap": 0, "mask": 0, "truth": 0}
    assert browser.run(value) == "photograph"
    browser.press(*["right"] * 4)
    assert browser.run(value) == "60 % photograph, 40 % heatmap"
    assert 0 < browser.run(OPACITY, "#cards .card")["heatmap"] < 0.65
    for name, strength in (("heatmap", 0.65), ("mask", 0.7)):
        browser.press(*["right"] * (6 if name == "heatmap" else 10))
        assert browser.run(value) == name
        seen = browser.run(OPACITY, "#cards .card")
        assert {layer: opacity for layer, opacity in seen.items() if opacity} == {
            "photograph": 1,
            name: pytest.approx(strength),
        }
    browser.press("end")
    assert browser.run(OPACITY, "#cards .card") == {
        "photograph": 1,
        "heatmap": 0,
        "mask": 0,
        "truth": pytest.approx(0.7),
    }


def test_filters_work_by_keyboard_alone(browser, made):
    data = embedded(made[1])
    everything = browser.run(SHOWN)
    assert len(everything) == 7
    browser.focus("#class")
    browser.press("down")
    first = min({k for image in data["images"] for k in image["classes"]})
    assert set(browser.run(SHOWN)) == {image["id"] for image in data["images"] if first in image["classes"]}
    browser.press("up", "tab", "tab", *"4 ")
    assert browser.run("return document.activeElement.id") == "search"
    assert browser.run(SHOWN) == [image["id"] for image in data["images"] if "4 " in image["id"]]
    assert browser.run(COUNT) == "1 of 7 images"


def test_the_worst_come_first_and_the_order_follows_the_run(browser, made):
    images = embedded(made[1])["images"]

    def sorted_by(run, sign=1):
        rows = sorted((sign * image["runs"][run]["iou"], k) for k, image in enumerate(images))
        return [images[k]["id"] for _, k in rows]

    assert browser.run(SHOWN) == sorted_by(0)
    browser.focus("#run")
    browser.press("down")
    assert browser.run(SHOWN) == sorted_by(1)
    assert sorted_by(0) != sorted_by(1)
    browser.focus("#order")
    browser.press("down")
    assert browser.run(SHOWN) == sorted_by(1, -1)


def test_an_image_opens_and_closes_by_keyboard_with_all_runs_beside_each_other(browser):
    first, second, *_ = browser.run(SHOWN)
    browser.focus("#cards .card:first-child button")
    browser.press("enter")
    head = "return document.getElementById('viewer-id').textContent"
    assert browser.run(head) == first
    assert browser.run("return document.querySelectorAll('#viewer-runs figure').length") == 2
    assert browser.run("return document.activeElement.id") == "viewer-blend"
    browser.press("end")
    assert browser.run(OPACITY, "#viewer-runs figure:last-child")["truth"] == pytest.approx(0.7)
    browser.focus("#next")
    browser.press("enter")
    assert browser.run(head) == second
    browser.press("escape")
    assert not browser.run("return document.getElementById('viewer').open")
    assert browser.run("return document.activeElement.classList.contains('picture')")


def test_every_control_has_a_name_and_shows_that_it_has_the_focus(browser):
    count = browser.run("return document.querySelectorAll('a, button, select, input, summary, [tabindex]').length")
    seen = set()
    for _ in range(count + 5):
        browser.press("tab")
        name, outline, words = browser.run(
            "const at = document.activeElement, label = at.labels && at.labels[0];"
            "return [at.tagName + at.id, getComputedStyle(at).outlineStyle + getComputedStyle(at).outlineWidth,"
            " (at.ariaLabel || (label || at).textContent || '').trim()]"
        )
        if name == "BODY":
            break
        assert (outline, bool(words)) == ("solid3px", True), name
        seen.add(name)
    assert {"INPUTblend", "SELECTrun", "SELECTclass", "SELECTorder", "INPUTsearch", "BUTTONtheme", "SUMMARY"} <= seen


def test_hostile_names_are_text(browser, made):
    browser.run("document.querySelector('.picture').click()")
    assert browser.run("return document.querySelectorAll('script').length") == 2
    assert browser.run("return [...document.images].every((image) => image.src.startsWith('data:'))")
    assert browser.run("return document.querySelectorAll('[onerror], b b').length") == 0
    words = browser.run("return document.body.innerText")
    assert all(name in words for name in HOSTILE)
    assert browser.run("return [...document.getElementById('class').options].map((one) => one.text)")[1] == HOSTILE[0]


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_wider_than_the_screen(browser, width):
    browser.size(width, 800)
    browser.run("document.querySelectorAll('details').forEach((step) => { step.open = true })")
    wide = "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    assert browser.run(wide) == [width, width]
    browser.run("document.querySelector('.picture').click()")
    viewer = "document.getElementById('viewer')"
    assert browser.run(f"return {viewer}.scrollWidth <= {viewer}.clientWidth && {viewer}.offsetWidth <= innerWidth")
    sizes = browser.run(
        "return [...document.querySelectorAll('p, td, th, dd, label, select, button, .id')]"
        ".map((one) => parseFloat(getComputedStyle(one).fontSize))"
    )
    assert min(sizes) >= 12


def test_text_stands_out_in_both_colours_whoever_chose_them(browser, browsers):
    browser.run("document.querySelectorAll('details').forEach((step) => { step.open = true })")
    paper = "return getComputedStyle(document.body).backgroundColor"
    dark = {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 27)"}
    assert browser.run(paper) == dark[browsers[1]]
    for _ in range(2):
        weak = [entry for entry in browser.run(CONTRASTS) if entry[0] < 4.5]
        assert weak == []
        browser.focus("#theme")
        browser.press("enter")
    assert browser.run(paper) == dark[browsers[1]]


def test_the_measure_of_contrast_finds_what_is_weak(browser):
    browser.run("document.querySelector('h1').style.color = '#888888'")
    found = {text[:11]: ratio for ratio, text in browser.run(CONTRASTS)}
    white = browser.run("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert found["xseg report"] == pytest.approx(3.54 if white else 5.06, abs=0.1)


def test_without_javascript_the_tables_are_there_and_a_message(made):
    browser = Browser(scripts=False)
    try:
        browser.open(made[0])
        tree = json.dumps(browser.devtools("Accessibility.getFullAXTree"))
    finally:
        browser.close()
    assert "JavaScript is off" in tree
    assert "mIoU" in tree
    assert "Show 48" not in tree
    assert "Dark colours" not in tree


def test_a_thousand_images_stay_light(tmp_path):
    """What costs time is counted: few cards are made, and of many only those near the screen are laid out."""
    data = dataset(tmp_path / "data", images=10)
    many = replace(data, items=tuple(replace(item, id=f"{k:04d}") for k, item in enumerate(data.items * 100)))
    page(tmp_path / "page.html", [masks(tmp_path / "m.h5", many), heatmaps(tmp_path / "h.h5", many)], many)
    browser = Browser()
    try:
        browser.size(1280, 900)
        browser.open(tmp_path / "page.html")
        assert browser.run(CARDS) == 48
        assert browser.run("return document.querySelectorAll('*').length") < 1500
        assert browser.run(COUNT) == "1000 of 1000 images, 48 shown"
        browser.focus("#search")
        browser.press(*"099")
        assert browser.run(COUNT) == "11 of 1000 images"  # 0099 and 0990 to 0999
        browser.press(*["back"] * 3)
        for shown in range(96, 1009, 48):
            browser.focus("#more")
            browser.press("enter")
            assert browser.run(CARDS) == min(shown, 1000)
        assert browser.run("return document.getElementById('more').hidden")
        browser.wait(f"const count = {LAID_OUT}; return 0 < count && count < 100")
        assert browser.log() == []
    finally:
        browser.close()
