"""Takes pictures of the page of `jaxcnn serve`: wide and narrow, light and dark, both tabs.

python scripts/dev/page_pictures.py runs/lenet runs/mobilenet --images car.jpg --out pictures
python scripts/dev/page_pictures.py runs/lenet runs/mobilenet --images car.jpg \
    --docs docs/pictures/serve.png    # the one picture of docs/serve.md

Needs the extra `browser` and a Chromium, named by CHROMIUM or found as chromium.
"""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "checks"))

from serve_load import serving  # noqa: E402 (a script, not a module of the package)

from jaxcnn import cli  # noqa: E402
from jaxcnn.commands import outfiles  # noqa: E402
from jaxcnn.commands.parser import script_parser  # noqa: E402
from jaxcnn.errors import UserError  # noqa: E402

_SIZES = {"wide": (1200, 900), "narrow": (360, 740)}
_MAX_BYTES = 200_000  # of the picture in the documentation


def _open(browser: Any, address: str, size: str, scheme: str, images: list[Path]) -> Any:
    """Returns the page with the answers to the images."""
    width, height = _SIZES[size]
    page = browser.new_page(
        viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce"
    )
    page.goto(address)
    page.locator("#run option").first.wait_for(state="attached")
    page.set_input_files("#file", [str(path) for path in images])
    page.locator(".result").nth(len(images) - 1).wait_for()
    return page


def _take_all(browser: Any, address: str, images: list[Path], out: Path) -> None:
    for size in _SIZES:
        for scheme in ("light", "dark"):
            page = _open(browser, address, size, scheme, images)
            page.screenshot(path=out / f"try-{size}-{scheme}.png", full_page=True)
            page.get_by_role("tab", name="Mistakes").click()
            page.wait_for_selector("#found:visible", timeout=120_000)
            page.locator("#confusion td:not(.right) button").first.click()
            page.locator("#back").wait_for()
            page.screenshot(path=out / f"mistakes-{size}-{scheme}.png", full_page=True)
            page.close()


def main() -> None:
    """Runs the program."""
    parser = script_parser(__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders")
    parser.add_argument("--images", nargs="+", type=Path, required=True, help="image files")
    parser.add_argument("--out", type=Path, help="folder for all pictures")
    parser.add_argument("--docs", type=Path, help="PNG file for the documentation")
    args = parser.parse_args()
    if (args.out is None) == (args.docs is None):
        raise UserError("give either --out FOLDER or --docs FILE")
    if args.docs:
        outfiles.check_file("--docs", args.docs, (".png",))
    else:
        args.out.mkdir(parents=True, exist_ok=True)
    try:
        from playwright import sync_api
    except ImportError as error:
        raise UserError("needs playwright: pip install 'jaxcnn[browser]'") from error
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if chromium is None:
        raise UserError("there is no Chromium: install it, or name it by CHROMIUM")
    with serving(args.runs) as server, sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        address = f"http://{server.host}/"
        if args.out:
            _take_all(browser, address, args.images, args.out)
        else:
            page = _open(browser, address, "wide", "light", args.images)
            content = page.screenshot(full_page=True)
            if len(content) > _MAX_BYTES:
                raise UserError(f"the picture has {len(content):,} bytes: choose fewer images")
            args.docs.write_bytes(content)
        browser.close()


if __name__ == "__main__":
    cli.script(main)
