"""Writes the tables of docs/trust.md from what `jaxcnn evaluate` has left in docs/results.

jaxcnn evaluate RUN --corruptions     # RUN/trust/corruptions.json is trust-corruptions.json there
jaxcnn evaluate RUN --calibrate       # likewise
python scripts/dev/trust.py           # writes the tables into the page
"""

from pathlib import Path
from typing import Any

from jaxcnn import cli
from jaxcnn.commands import outfiles
from jaxcnn.commands.parser import script_parser

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "trust.md"
RESULTS = ROOT / "docs" / "results"
BEGIN, END = "<!-- {} -->", "<!-- end of {} -->"


def corruptions(content: dict[str, Any]) -> str:
    """Returns the content of a corruptions.json as a Markdown table of errors in percent."""
    lines = [
        "| corruption | " + " | ".join(map(str, content["severities"])) + " | mean |",
        "|---|" + "--:|" * (len(content["severities"]) + 1),
    ]
    for name, row in content["errors"].items():
        cells = [f"{100 * value:.1f}" for value in (*row, sum(row) / len(row))]
        lines.append(f"| {name.replace('_', ' ')} | {' | '.join(cells)} |")
    clean, mean = content["clean_error"], content["mean_corruption_error"]
    return "\n".join(lines) + (
        f"\n\nErrors in % of {content['model']} at step {content['step']:,} on "
        f"{content['examples']:,} images, `{content['split']}`. Clean error {100 * clean:.1f} %, "
        f"mean corruption error {100 * mean:.1f} %: {100 * (mean - clean):.1f} points more."
    )


def calibration(content: dict[str, Any]) -> str:
    """Returns the content of a calibration.json as a Markdown table."""
    lines = ["| probabilities | loss | calibration error |", "|---|--:|--:|"]
    for name, words in (("before", "as trained"), ("after", "with the temperature")):
        part = content[name]
        error = f"{100 * part['calibration_error']:.2f} %"
        lines.append(f"| {words} | {part['loss']:.4f} | {error} |")
    fitted = content["fitted_on"]
    return "\n".join(lines) + (
        f"\n\n{content['model']} at step {content['step']:,} on {content['examples']:,} images, "
        f"`{content['split']}`; temperature {content['temperature']:.3f}, fitted to "
        f"{fitted['examples']:,} images, `{fitted['split']}`."
    )


TABLES = {"corruptions": corruptions, "calibration": calibration}


def page() -> str:
    """Returns the page with the tables of today's files between its marks."""
    text = PAGE.read_text(encoding="utf-8")
    for name, table in TABLES.items():
        before, _, tail = text.partition(BEGIN.format(name))
        _, _, after = tail.partition(END.format(name))
        made = outfiles.read(RESULTS / f"trust-{name}.json", table)
        text = f"{before}{BEGIN.format(name)}\n{made}\n{END.format(name)}{after}"
    return text


def main() -> None:
    """Runs the program."""
    script_parser(__doc__).parse_args()
    outfiles.write("page", PAGE, page())


if __name__ == "__main__":
    cli.script(main)
