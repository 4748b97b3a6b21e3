"""The page in a real browser, against a real server: choosing, dropping, pasting, clicking."""

import base64
import re
import signal
import subprocess
import sys

import pytest
import serve_helpers
from test_browser import browser, pytestmark  # noqa: F401 (a fixture, and when to skip)

sync_api = pytest.importorskip("playwright.sync_api", reason="needs the extra browser")
app = pytest.importorskip("jaxcnn.serve.app", reason="needs the extra serve")

expect = sync_api.expect
pytestmark = [*pytestmark, pytest.mark.slow]

LIMIT = app.MAX_BYTES
TEN = [
    {"name": f"{i}.png", "mimeType": "image/png", "buffer": serve_helpers.image_file((20 + i, 30))}
    for i in range(10)
]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Where a server of two networks is found."""
    folder = tmp_path_factory.mktemp("served")
    runs = [serve_helpers.write_run(folder / name, seed) for seed, name in ((5, "one"), (6, "two"))]
    command = [sys.executable, "-m", "jaxcnn", "serve", *map(str, runs), "--port=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield process.stdout.readline().split()[0]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130


@pytest.fixture
def page(browser, address):  # noqa: F811
    """The page; what it complains of, or asks of others, fails the test."""
    opened = browser.new_page(viewport={"width": 1200, "height": 900})
    complaints, strange = [], []
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on(
        "request",
        lambda request: (
            strange.append(request.url)
            if not request.url.startswith((address, "data:", "blob:"))
            else None
        ),
    )
    opened.goto(address)
    expect(opened.locator("#networks")).to_have_text("one, two")
    yield opened
    opened.close()
    # The browser itself notes refused requests on the console.
    assert [text for text in complaints if "Failed to load resource" not in text] == []
    assert strange == []


def _transfer(page, content, kind="image/png", name="dropped.png"):
    """A DataTransfer with one file, as a browser makes it when something is dropped."""
    return page.evaluate_handle(
        """([base64, kind, name]) => {
          const bytes = Uint8Array.from(atob(base64), character => character.charCodeAt(0));
          const transfer = new DataTransfer();
          transfer.items.add(new File([bytes], name, { type: kind }));
          return transfer;
        }""",
        [base64.b64encode(content).decode(), kind, name],
    )


def _results(page, count):
    """The results on the page, when there are so many."""
    expect(page.locator(".result")).to_have_count(count, timeout=30_000)
    return page.locator(".result")


def _choose(page, content, name="chosen.png"):
    page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": content})


def _status(page, part):
    """What the page says, when that has a part."""
    expect(page.locator("#status")).to_contain_text(part)
    return page.inner_text("#status")


def test_a_chosen_image_gets_the_classes_of_both_networks_and_where_they_looked(page):
    _choose(page, serve_helpers.image_file())
    result = _results(page, 1).first
    assert result.locator("h3").all_inner_texts() == ["one", "two"]
    assert result.locator("figcaption").inner_text() == "chosen.png"
    for card in result.locator(".card").all():
        assert card.locator("li").count() == 5
        shares = [float(text.split()[-2]) for text in card.locator("li").all_inner_texts()]
        assert shares == sorted(shares, reverse=True) and 50 < sum(shares) <= 100.3
        assert re.fullmatch(r"lenet, step 0 · [\d.]+ ms", card.locator(".time").inner_text())
        widths = [
            bar["width"] for bar in map(lambda b: b.bounding_box(), card.locator(".bar").all())
        ]
        whole = card.locator("li").first.bounding_box()["width"]
        assert widths == pytest.approx([share / 100 * whole for share in shares], abs=2)
        assert card.locator(".look").is_visible()
    assert _status(page, "says").startswith("chosen.png: one says ")
    page.get_by_label("Show where each network looked").uncheck()
    assert not page.locator(".look").first.is_visible()


def test_a_dropped_image_and_a_pasted_one(page):
    page.dispatch_event("h1", "drop", {"dataTransfer": _transfer(page, serve_helpers.image_file())})
    assert "dropped.png" in _results(page, 1).first.inner_text()
    pasted = _transfer(page, serve_helpers.image_file(kind="WEBP"), "image/webp", "pasted.webp")
    page.evaluate(
        """transfer => document.body.dispatchEvent(
          new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true }))""",
        pasted,
    )
    assert "pasted.webp" in _results(page, 2).first.inner_text()


def test_what_is_no_image_is_said_in_a_line_and_the_next_one_is_taken(page):
    _choose(page, b"no image", "letter.txt")
    said = _status(page, "letter")
    assert said.startswith("letter.txt: not an image in a format that is read here: choose")
    assert page.locator("#status.bad").count() == 1
    page.evaluate(
        """() => document.body.dispatchEvent(
          new ClipboardEvent("paste", { clipboardData: new DataTransfer(), bubbles: true }))"""
    )
    assert _status(page, "clipboard") == "the clipboard holds no image"
    _choose(page, serve_helpers.image_file())
    _results(page, 1)
    assert page.locator("#status.bad").count() == 0


def test_a_file_of_the_largest_size_is_taken_and_a_larger_one_is_not(page):
    content = serve_helpers.image_file()
    _choose(page, content + b"\0" * (LIMIT - len(content)))
    _results(page, 1)
    _choose(page, content + b"\0" * (LIMIT + 1 - len(content)), "large.png")
    assert _status(page, "large") == (
        "large.png: larger than 10 MiB, which is the most: make it smaller"
    )


def test_ten_images_at_once(page):
    page.set_input_files("#file", TEN)
    results = _results(page, 10)
    assert results.locator("figcaption").all_inner_texts() == [
        f"{i}.png" for i in reversed(range(10))
    ]


def test_forty_requests_at_once_are_all_answered_in_the_end(page):
    """More than there are places for: some are sent away, and come again."""
    counted = page.evaluate(
        """async base64 => {
          const bytes = Uint8Array.from(atob(base64), character => character.charCodeAt(0));
          const file = new File([bytes], "a.png");
          const answers = await Promise.all(Array.from({ length: 40 }, () => classify(file)));
          return answers.map(answer => answer.networks.length);
        }""",
        base64.b64encode(serve_helpers.image_file()).decode(),
    )
    assert counted == [2] * 40


def _gallery(page):
    page.get_by_role("tab", name="Mistakes").click()
    page.wait_for_selector("#found:visible")


def test_a_cell_shows_its_images_and_an_image_asks_all_networks(page):
    _gallery(page)
    assert "of 100 images of test[:100] are classified rightly" in page.inner_text(
        "#gallery-status"
    )
    counts = [int(text) for text in page.locator("#confusion td button").all_inner_texts()]
    assert sum(counts) == 100
    assert page.locator("#images li").count() > 0
    cell = page.locator("#confusion td:not(.right) button").first
    words, count = cell.get_attribute("aria-label").split(": ")
    cell.click()
    expect(page.locator("#back")).to_be_visible()
    assert page.inner_text("#images-title").startswith(f"{words}: {count} image")
    assert page.locator("#images li").count() == int(count)
    assert cell.get_attribute("aria-pressed") == "true"
    page.locator("#images button").first.click()
    label, predicted = re.fullmatch(r"(\S+) taken for (\S+)", words).groups()
    result = _results(page, 1).first
    assert result.locator("figcaption").inner_text().startswith(f"{label}, image ")
    assert result.locator(".card").first.locator("li").first.inner_text().startswith(predicted)
    _gallery(page)
    page.get_by_role("button", name="Back to the worst mistakes").click()
    assert page.inner_text("#images-title") == "Worst mistakes"
    page.select_option("#run", index=1)
    page.wait_for_selector("#found:visible")


def test_everything_is_reached_by_the_keyboard(page):
    reached = []
    for _ in range(2):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
    assert reached == ["tab-try", "file"]
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.id") == "tab-gallery"
    page.wait_for_selector("#found:visible")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "run"
    page.keyboard.press("Tab")
    first = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert "taken for" in first
    page.keyboard.press("ArrowDown")
    second = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert second != first and second.split(" for ")[1].split(":")[0] in first
    page.keyboard.press("Enter")
    expect(page.locator("#back")).to_be_visible()
    page.keyboard.press("Tab")  # past the whole matrix
    assert page.evaluate("document.activeElement.id") == "back"
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_narrow_and_wide_light_and_dark(page, width, scheme):
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    _choose(page, serve_helpers.image_file((400, 100)), "a name " * 12 + "x" * 80)
    _results(page, 1)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ink, paper = page.evaluate(
        "(s => [s.color, s.backgroundColor])(getComputedStyle(document.body))"
    )
    lightness = lambda rgb: sum(map(int, rgb[4:-1].split(",")))  # noqa: E731
    assert (lightness(ink) > lightness(paper)) == (scheme == "dark")
    assert (
        page.evaluate("getComputedStyle(document.querySelector('.bar')).transitionDuration") == "0s"
    )
    _gallery(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_server_that_has_ended_is_said(page):
    page.route("**/api/predict*", lambda route: route.abort())
    _choose(page, serve_helpers.image_file())
    assert "the server does not answer: it may have ended" in _status(page, "ended")
