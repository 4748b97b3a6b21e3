"""The report as one HTML file: no request leaves it, scripts and styles are written by hand."""

import html
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from jaxcnn.report import facts
from jaxcnn.report.claims import Claim


def render(
    runs: Mapping[str, Mapping[str, Any]],
    counts: Mapping[str, Any],
    gradients: Sequence[Mapping[str, Any]],
    claims: Sequence[Claim],
    samples: Mapping[str, Any],
    earlier: str = "",
) -> str:
    """Returns report.html; arguments as the other modules of this package give them.

    `earlier` is a sentence on measurements that were not taken anew.
    """
    found = list(runs.values())
    trained = [run for run in found if run["records"]]  # imported weights have no curves
    curves = [
        {
            "name": run["name"],
            "records": [
                {key: record[key] for key in _KEYS if record.get(key) is not None}
                for record in run["records"]
            ],
            "costs": {key: run[key] for key in facts.COSTS},
            "eval_accuracy": run["eval_accuracy"],
        }
        for run in trained
    ]
    data = {
        "runs": curves,
        "costs": facts.COSTS,
        "gradients": [{key: line[key] for key in ("name", "when", "norms")} for line in gradients],
    }
    folder = resources.files("jaxcnn.report")
    style, script = (
        (folder / name).read_text(encoding="utf-8") for name in ("report.css", "report.js")
    )
    body = "\n".join(
        (
            _summary(found),
            _curves(trained),
            _TRADEOFF,
            _claims(claims),
            _GRADIENTS if gradients else "",
            _samples(samples),
            _method(found, counts, earlier),
            _warnings(found),
        )
    )
    names = ", ".join(html.escape(run["name"]) for run in found)
    # What JSON may hold and a script element may not: "</script>" in a run's name.
    # `allow_nan`: a browser's JSON.parse refuses NaN, so it must not get into the page.
    embedded = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; \
style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:">
<title>Networks compared: {names}</title>
<style>{style}</style>
</head>
<body>
<header><h1>Networks compared</h1><p>{names}</p></header>
<main>
{body}
</main>
<script type="application/json" id="data">{embedded}</script>
<script>{script}</script>
</body>
</html>
"""


_KEYS = (
    "epoch",
    "minutes",
    "images",
    "train_loss",
    "train_accuracy",
    "eval_loss",
    "eval_accuracy",
    "learning_rate",
)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> str:
    """Returns a table; the first column names the row, cells are plain text."""
    head = "".join(f"<th scope='col'>{html.escape(cell)}</th>" for cell in header)
    lines = []
    for first, *rest in rows:
        cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in rest)
        lines.append(f"<tr><th scope='row'>{html.escape(first)}</th>{cells}</tr>")
    title = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    return (
        f"<div class='wide' tabindex='0'><table>{title}<thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _summary(runs: Sequence[Mapping[str, Any]]) -> str:
    header = [
        "run", "network", "parameters", "MB", "multiply-adds", "images/s", "s per epoch",
        "epochs", "minutes", "accuracy", "loss", "training images",
    ]  # fmt: skip
    rows = [
        [
            run["name"],
            run["model"],
            f"{run['parameters']:,}",
            f"{run['bytes'] / 1e6:.2f}",
            f"{run['flops'] / 1e6:,.1f} M",
            "" if run["images_per_second"] is None else f"{run['images_per_second']:,.0f}",
            _one_decimal(run["seconds_per_epoch"]),
            _progress(run),
            _one_decimal(run["total_minutes"]),
            f"{100 * run['eval_accuracy']:.2f} %",
            f"{run['eval_loss']:.3f}" if run["eval_loss"] < 1000 else f"{run['eval_loss']:.1e}",
            f"{run['train_examples']:,}",
        ]
        for run in runs
    ]
    notes = "".join(
        f"<p>{html.escape(run['name'])}: {html.escape(run['losses_differ'])}.</p>"
        for run in runs
        if run["losses_differ"]
    )
    return f"<section id='summary'><h2>The networks</h2>{_table(header, rows)}{notes}</section>"


def _one_decimal(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f}"


def _progress(run: Mapping[str, Any]) -> str:
    if not run["records"]:
        return "imported"
    done, planned = run["epochs"], run["planned_epochs"]
    return str(done) if done >= planned else f"{done} of {planned}"


def _curves(runs: Sequence[Mapping[str, Any]]) -> str:
    switches = "".join(
        f"<label class='switch'><input type='checkbox' checked data-run='{index}'>"
        f"<svg class='swatch' data-swatch='{index}' aria-hidden='true'></svg>"
        f"{html.escape(run['name'])}</label>"
        for index, run in enumerate(runs)
    )
    charts = "".join(
        _chart(f"{part}_{what}", f"{words} {what}")
        for part, words in (("train", "Training"), ("eval", "Validation"))
        for what in ("loss", "accuracy")
    )
    own = "".join(
        f"<div class='own' data-own='{index}'><h3>{html.escape(run['name'])}</h3>"
        f"<div class='charts'>{_chart(f'own_{index}_loss', 'Loss')}"
        f"{_chart(f'own_{index}_accuracy', 'Accuracy')}</div></div>"
        for index, run in enumerate(runs)
    )
    return f"""<section id="curves"><h2>Curves</h2>
<noscript><p>The curves are drawn by a script of this page; the tables need none.</p></noscript>
<fieldset class="controls"><legend>Networks</legend>{switches}</fieldset>
<p class="controls"><label>Horizontal axis: <select id="axis"><option value="epoch">epochs</option>
<option value="minutes">minutes of training</option>
<option value="images">training images seen</option></select></label>
<span class="hint">Point at a chart, or focus it and use the arrow keys, to read values.</span></p>
<div class="charts">{charts}</div>
<h2>Each network by itself</h2>
{own}
</section>"""


def _chart(key: str, title: str) -> str:
    return (
        f"<figure class='chart' data-chart='{html.escape(key)}'><figcaption>{html.escape(title)}"
        "</figcaption><svg role='img' tabindex='0'></svg>"
        "<div class='readout' aria-live='polite'></div></figure>"
    )


_TRADEOFF = (
    "<section id='tradeoff'><h2>Accuracy against cost</h2><div class='charts three'>"
    + "".join(_chart(f"cost_{key}", f"Against {words}") for key, words in facts.COSTS.items())
    + "</div></section>"
)

_GRADIENTS = (
    "<section id='gradients'><h2>Gradient norm of each convolution</h2><div class='charts'>"
    + _chart("gradients_init", "At initialisation")
    + _chart("gradients_trained", "After training")
    + "</div></section>"
)


def _claims(claims: Sequence[Claim]) -> str:
    items = []
    for claim in claims:
        kind = claim.verdict.replace(" ", "-")
        reasons = "".join(f"<p>{html.escape(reason)}</p>" for reason in claim.reasons)
        table = ""
        if claim.rows:
            table = (
                f"<details><summary>The measurement</summary>{_table(claim.header, claim.rows)}"
                "</details>"
            )
        items.append(
            f"<article class='claim'><h3>{html.escape(claim.claim)}</h3>"
            f"<p class='verdict {kind}'>{html.escape(claim.verdict)}</p>{reasons}{table}</article>"
        )
    return f"<section id='claims'><h2>The claims</h2>{''.join(items)}</section>"


def _samples(samples: Mapping[str, Any]) -> str:
    names = list(samples["answers"])
    head = "".join(f"<th scope='col'>{html.escape(name)}</th>" for name in names)
    lines = []
    for index, (image, label) in enumerate(zip(samples["images"], samples["labels"], strict=True)):
        cells = []
        for name in names:
            answer = samples["answers"][name][index]
            right = answer["class"] == label
            sign = "✓" if right else "✗"
            cells.append(
                f"<td class='{'right' if right else 'wrong'}'>{sign} "
                f"{html.escape(answer['class'])} {100 * answer['probability']:.0f} %<br>"
                f"<img alt='where it looks' width='64' height='64' src='{answer['map']}'></td>"
            )
        picture = f"<img alt='{html.escape(label)}' width='64' height='64' src='{image}'>"
        lines.append(
            f"<tr><th scope='row'>{picture}<br>{html.escape(label)}</th>{''.join(cells)}</tr>"
        )
    left = ""
    if samples["left_out"]:
        out = ", ".join(html.escape(name) for name in samples["left_out"])
        left = f"<p>Left out, having other classes or images: {out}.</p>"
    return (
        "<section id='predictions'><h2>The same images, by every network</h2>"
        "<p>Below each answer, where the network looks: bright is what speaks for the class that "
        "it gives (Grad-CAM, Selvaraju et al. 2017, arXiv:1610.02391).</p>"
        f"<div class='wide' tabindex='0'><table class='grid'><thead><tr><th scope='col'>image</th>"
        f"{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>{left}</section>"
    )


def _method(runs: Sequence[Mapping[str, Any]], counts: Mapping[str, Any], earlier: str) -> str:
    rows = [
        [
            name,
            f"{row['flops']:,}",
            f"{row['inside']:,}",
            f"{row['xla']:,.0f}",
            f"{row['xla'] / row['inside']:.3f}",
        ]
        for name, row in counts["xla"].items()
    ]
    table = _table(
        ["network", "multiply-adds", "without padding", "XLA's count / 2", "XLA / ours"], rows
    )
    how = [
        [
            run["name"],
            run["data"],
            run["train_split"],
            run["eval_split"],
            run["dtype"],
            run["device"],
        ]
        for run in runs
    ]
    where = _table(["run", "data", "trained on", "evaluated on", "dtype", "machine"], how)
    return f"""<section id="method"><h2>How it was measured</h2>
<p>Accuracy and loss are those after the last epoch, on the evaluation split; no epoch was chosen
by it. Images per second and seconds per epoch are those of the fastest epoch, and minutes count
every epoch as long, with evaluation and saving: other programs on the machine can only slow an
epoch down. One run each: differences of a point may be chance.</p>{where}
<p>Multiply-adds are counted layer by layer as the papers do, products with padding included. XLA
leaves those out and adds norms and activations, so its count is compared with ours without
padding.</p>{table}{f"<p>{html.escape(earlier)}</p>" if earlier else ""}</section>"""


def _warnings(runs: Sequence[Mapping[str, Any]]) -> str:
    """Returns what the program warned of while it trained; "" if there was nothing."""
    items = "".join(
        f"<li>{html.escape(run['name'])}: {html.escape(text)}</li>"
        for run in runs
        for text in run["warnings"]
    )
    if not items:
        return ""
    return f"<section id='warnings'><h2>Warnings</h2><ul>{items}</ul></section>"
