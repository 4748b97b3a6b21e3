"""Hooks of mkdocs: adds the pages that are made, and has links between files lead to pages.

The README and the page of `jaxcnn.ops` stand where GitHub shows them, outside docs/, and their
links lead to files. In the site they are pages like the others.
"""

import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]  # mkdocs adds neither

import site_pages  # noqa: E402 (a script beside this one)
import tutorial  # noqa: E402 (likewise)

# Files that are made a page of -> that page.
MOVED = {
    "README.md": "index.md",
    "jaxcnn/ops/README.md": "ops.md",
    "docs/tutorial.ipynb": "tutorial.md",
}


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages that are not files of docs/."""
    made: dict[str, str | bytes] = dict(site_pages.pages())
    for source, page in MOVED.items():
        if source.endswith(".md"):
            made[page] = relinked((ROOT / source).read_text(encoding="utf-8"), source, page)
    made |= tutorial.pages()
    for path, content in made.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Has the links of a page in docs/ to files outside lead to their page."""
    source = page.file.src_uri
    if page.file.generated_by is not None:
        return markdown
    linked = relinked(markdown, f"docs/{source}", source)
    return with_references(linked) if source == "how-to.md" else linked


def relinked(markdown: str, source: str, page: str) -> str:
    """Returns `markdown` with links that lead from `page` to where they led from `source`.

    Args:
        markdown: A page.
        source: Path of its file in the repository.
        page: Path of the page in the site.
    """

    def link(match: re.Match[str]) -> str:
        target, hash_, anchor = match[1].partition("#")
        if not target or ":" in target:
            return match[0]
        wanted = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        place = MOVED.get(wanted, wanted.removeprefix("docs/"))
        relative = posixpath.relpath(place, posixpath.dirname(page) or ".")
        return f"]({relative}{hash_}{anchor})"

    return re.sub(r"\]\(([^)\s]+)\)", link, markdown)


def with_references(markdown: str) -> str:
    """Adds to each section of a verb where all of its arguments stand."""
    parts = re.split(r"^(?=## )", markdown, flags=re.MULTILINE)
    return "".join(part.rstrip("\n") + _reference(part) for part in parts)


def _reference(section: str) -> str:
    verbs = re.findall(r"`jaxcnn (\w+)`", section.partition("\n")[0])
    links = [f"[`jaxcnn {verb}`]({site_pages.COMMANDS}#jaxcnn-{verb})" for verb in verbs]
    return f"\n\nEvery argument: {', '.join(links)}.\n\n" if links else "\n\n"
