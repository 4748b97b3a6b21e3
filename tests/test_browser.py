"""The report in a real browser: it draws, reacts, and asks the network for nothing."""

import os
import shutil

import pytest
from test_report import _fact, _render

sync_api = pytest.importorskip("playwright.sync_api", reason="needs the extra browser")
BROWSER = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = [
    pytest.mark.skipif(
        BROWSER is None, reason="no Chromium: install Debian's chromium, or set CHROMIUM"
    ),
    # The browser's driver leaves its pipes and event loop to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
NAMES = ("lenet", "resnet20", "densenet40_k12", "mobilenet")


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as driver:
        started = driver.chromium.launch(
            executable_path=BROWSER,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield started
        started.close()


@pytest.fixture
def opened(browser, tmp_path):
    """The page, with what it complained of and what it asked for."""
    path = tmp_path / "report.html"
    path.write_text(_render({name: _fact(name, name) for name in NAMES}))
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    complaints, requests = [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())
    yield page, complaints, requests
    page.close()


def _lines(page, chart):
    selector = f"[data-chart='{chart}'] polyline"
    return page.eval_on_selector_all(selector, "all => all.map(e => e.dataset.name)")


def test_the_curves_are_there_and_nothing_is_asked_for_nor_complained_of(opened):
    page, complaints, requests = opened
    for part in ("train", "eval"):
        for what in ("loss", "accuracy"):
            assert _lines(page, f"{part}_{what}") == list(NAMES)
    assert _lines(page, "own_0_loss") == ["training", "validation"]
    assert _lines(page, "gradients_init") == ["plain56"]
    assert page.locator("[data-chart='cost_flops'] circle").count() == len(NAMES)
    points = page.get_attribute("[data-chart='eval_accuracy'] polyline", "points").split(" ")
    (x1, y1), (x2, y2) = ([float(n) for n in point.split(",")] for point in points)
    assert x1 < x2 and y1 > y2  # accuracy rises, and a picture's y falls
    assert complaints == []
    assert [url for url in requests if not url.startswith("data:")] == [page.url]


def test_a_network_is_switched_off_and_on(opened):
    page, complaints, _ = opened
    page.get_by_label("resnet20", exact=True).uncheck()
    assert _lines(page, "train_loss") == ["lenet", "densenet40_k12", "mobilenet"]
    assert not page.locator("[data-own='1']").is_visible()
    assert page.locator("[data-chart='cost_flops'] circle").count() == len(NAMES) - 1
    page.get_by_label("resnet20", exact=True).check()
    assert _lines(page, "train_loss") == list(NAMES)
    assert _lines(page, "own_1_loss") == ["training", "validation"]
    for name in NAMES:
        page.get_by_label(name, exact=True).uncheck()
    assert "nothing to show" in page.text_content("[data-chart='train_loss'] svg")
    assert complaints == []


def test_values_are_read_by_pointer_and_by_keyboard(opened):
    page, complaints, _ = opened
    chart = page.locator("[data-chart='eval_accuracy']")
    chart.scroll_into_view_if_needed()
    box = chart.locator("svg").bounding_box()
    page.mouse.move(box["x"] + box["width"] - 20, box["y"] + 50)
    readout = chart.locator(".readout")
    assert readout.inner_text().startswith("epochs 2")
    assert "mobilenet 0.5" in readout.inner_text()
    page.mouse.move(0, 0)
    assert readout.inner_text() == ""
    chart.locator("svg").focus()
    page.keyboard.press("ArrowLeft")
    assert "epochs 1" in readout.inner_text() and "lenet 0.25" in readout.inner_text()
    page.select_option("#axis", "minutes")
    assert "minutes of training" in chart.locator("svg").text_content()
    assert complaints == []


@pytest.mark.parametrize("width", [1280, 380])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_narrow_and_wide_light_and_dark(opened, width, scheme, tmp_path):
    page, complaints, _ = opened
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    page.wait_for_timeout(100)  # for the redrawing after the change of size
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ink, paper = page.evaluate(
        "(s => [s.color, s.backgroundColor])(getComputedStyle(document.body))"
    )
    lightness = lambda rgb: sum(map(int, rgb[4:-1].split(",")))  # noqa: E731
    assert (lightness(ink) > lightness(paper)) == (scheme == "dark")
    chart = page.locator("[data-chart='train_loss'] svg").bounding_box()
    assert 250 < chart["width"] < width
    assert complaints == []


def test_the_page_prints(opened):
    page, complaints, _ = opened
    content = page.pdf(format="A4")
    assert content.startswith(b"%PDF") and len(content) > 20_000
    assert complaints == []
