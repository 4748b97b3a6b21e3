"""Which array of a file is which of a network: by the names of known code, else by their order."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from jaxcnn.exchange import names, network, orders, sources
from jaxcnn.exchange.network import Layer, Network

COUNTER = "num_batches_tracked"
"""Last name of what PyTorch's norms count; nothing here needs it."""

_OWN = "the names of this program"
# Fewer of a file's arrays with a layout's names are no sign of it.
_RECOGNIZED = 0.5


class Row(NamedTuple):
    """A layer, or what is left over, and what became of it.

    Attributes:
        layer: Its path here; "" for what is left over.
        shape: Of its kernel, or the number of a norm's channels; here.
        other: Its name in the file.
        other_shape: Of the same in the file.
        what: What was done, or why it does not fit.
    """

    layer: str
    shape: str
    other: str
    other_shape: str
    what: str


@dataclasses.dataclass
class Match:
    """What a file has for a network.

    Attributes:
        how: By what the arrays were matched, in words.
        layout: Whose names they have; None for this program's own, and for order alone.
        arrays: float32, by path here.
        rows: The table.
        faults: Why the file does not fit, in words; empty if it does.
    """

    how: str
    layout: sources.Layout | None = None
    arrays: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    rows: list[Row] = dataclasses.field(default_factory=list)
    faults: list[str] = dataclasses.field(default_factory=list)

    @property
    def is_by_order(self) -> bool:
        """Whether nothing but order and shapes says which array is which."""
        return self.layout is None and self.how != _OWN


def match(
    found: Mapping[str, np.ndarray], into: Network, source: str = "", is_ordered: bool = True
) -> Match:
    """Matches the arrays of a file with those of a network.

    Args:
        found: By name, in the file's order.
        into: The network.
        source: One of `sources.SOURCES`, whose names the file must have; "" for any.
        is_ordered: Whether the file keeps the order of the layers.
    """
    if not source and set(into.shapes) <= set(found):
        return _filled(Match(_OWN), found, into, {p: p for p in into.shapes})
    kept = {name: array for name, array in found.items() if name.rpartition(".")[2] != COUNTER}
    candidates = []
    for layout in sources.layouts(into.name, source, into.is_plain):
        theirs = names.of_arrays(into, names.of_layers(into, layout.rows))
        candidates.append((len(set(theirs.values()) & set(kept)), layout, theirs))
    # Of several with equally many names the first.
    count = max((number for number, _, _ in candidates), default=0)
    if candidates and count >= _RECOGNIZED * len(kept):
        layout, theirs = next((one, named) for number, one, named in candidates if number == count)
        result = Match(f"the names of {layout.code}", layout)
        if layout.refusal:
            result.faults.append(f"these weights are from {layout.code}: {layout.refusal}")
        if layout.is_ambiguous and not source:
            others = [one.code for number, one, _ in candidates if number == count and one.refusal]
            result.faults.append(
                f"these names are used for networks with a pooled stem, too ({', '.join(others)}): "
                f"if the file's has {layout.code.partition(', ')[2]}, say --source "
                f"{layout.source}"
            )
        return _filled(result, found, into, theirs)
    if source:
        result = Match(f"the names of {source}", rows=[_left(n, a) for n, a in kept.items()])
        known = (
            ", ".join(
                dict.fromkeys(
                    one.source for one in sources.layouts(into.name, is_plain=into.is_plain)
                )
            )
            or "none"
        )
        result.faults.append(
            f"its names are not those of {source}; sources that have {into.name}: {known}"
        )
        return result
    return _by_order(found, kept, into, is_ordered)


def _by_order(
    found: Mapping[str, np.ndarray], kept: Mapping[str, np.ndarray], into: Network, is_ordered: bool
) -> Match:
    """Matches layers of the same kind in the same order; shapes have to fit."""
    result = Match("the order and shapes of its layers, as its names are not known")
    groups: dict[str, dict[str, np.ndarray]] = {}
    for name, array in kept.items():
        prefix, _, last = name.rpartition(".")
        groups.setdefault(prefix, {})[last] = array
    if not is_ordered:
        result.faults.append(
            "its names are not known, and a safetensors file does not keep the order of layers: "
            "import a file of torch.save"
        )
    if len(groups) != len(into.layers):
        result.faults.append(
            f"its names are not known, and it has {len(groups)} layers, {into.name} has "
            f"{len(into.layers)}"
        )
    theirs: dict[str, str] = {}
    for layer, (other, arrays) in zip(into.layers, groups.items(), strict=False):
        if (kind := _kind(arrays)) != layer.kind:
            result.faults.append(f"{other} is a {kind}, {layer.name} a {layer.kind}")
            break
        theirs |= {path: f"{other}.{last}" for path, last in layer.arrays.items()}
    return _filled(result, found, into, theirs)


def _kind(arrays: Mapping[str, np.ndarray]) -> str:
    if "running_mean" in arrays:
        return "norm"
    axes = arrays["weight"].ndim if "weight" in arrays else 0
    return {4: "conv", 2: "dense"}.get(axes, "layer of another kind")


def _filled(
    result: Match, found: Mapping[str, np.ndarray], into: Network, theirs: Mapping[str, str]
) -> Match:
    """Adds the arrays, the table and what does not fit."""
    order = result.layout.order(into) if result.layout else {}
    missing, misshapen, wrong = [], [], []
    for layer in into.layers:
        problems = []
        for path in layer.arrays:
            name = theirs.get(path, "")
            if name not in found:
                problems.append(f"{layer.arrays[path]} is missing")
                missing.append(name or path)
                continue
            array = found[name]
            if array.dtype.kind == "f":
                array = array.astype(np.float32)
            if result.how != _OWN:
                array = network.from_torch(array)
            if array.shape != into.shapes[path]:
                problems.append("its shape does not fit")
                misshapen.append(f"{name} {_shape(found[name])}")
            elif fault := _fault(array, path):
                problems.append(fault)
                wrong.append(f"{name}: {fault}")
            else:
                result.arrays[path] = orders.permute(array, order.get(layer.name, orders.Order()))
        result.rows.append(_row(layer, into, found, theirs, problems, layer.name in order))
    left = [name for name in found if name not in theirs.values()]
    counters = [name for name in left if name.rpartition(".")[2] == COUNTER]
    if counters:
        what = "PyTorch's counts of batches: not needed"
        result.rows.append(Row("", "", f"{len(counters)} x {COUNTER}", "", what))
    left = [name for name in left if name not in counters]
    result.rows += [_left(name, found[name]) for name in left]
    for words, which in (
        ("missing", missing),
        ("of another shape", misshapen),
        ("left over", left),
        ("no weights", wrong),
    ):
        if which:
            more = ", ..." if len(which) > 3 else ""
            result.faults.append(f"{len(which)} {words} ({', '.join(which[:3])}{more})")
    return result


def _fault(array: np.ndarray, path: str) -> str:
    """Returns what is wrong with the numbers of an array."""
    if array.dtype.kind != "f":
        return f"its numbers are {array.dtype}, not floats"
    if not np.isfinite(array).all():
        return "not all of its numbers are finite"
    return "a variance is negative" if path.endswith("/var") and (array < 0).any() else ""


def _row(
    layer: Layer,
    into: Network,
    found: Mapping[str, np.ndarray],
    theirs: Mapping[str, str],
    problems: list[str],
    is_permuted: bool,
) -> Row:
    first = next(iter(layer.arrays))
    name = theirs.get(first, "")
    other = found.get(name)
    done = {"conv": "OIHW to HWIO", "dense": "transposed", "norm": "as it is"}[layer.kind]
    if first == name:  # the names of this program
        done = "as it is"
    if is_permuted:
        done += ", channels in another order"
    if other is not None and other.dtype == np.float64:
        done += ", rounded to float32"
    return Row(
        layer.name,
        _shape(into.shapes[first]),
        name if first == name else name.rpartition(".")[0],
        "" if other is None else _shape(other),
        "; ".join(dict.fromkeys(problems)) or done,
    )


def _left(name: str, array: np.ndarray) -> Row:
    return Row("", "", name, _shape(array), "left over: no layer here takes it")


def _shape(of: np.ndarray | tuple[int, ...]) -> str:
    shape = of.shape if isinstance(of, np.ndarray) else of
    return "x".join(map(str, shape)) or "one number"


def as_text(rows: list[Row]) -> Iterator[str]:
    """Yields the lines of the table."""
    table = [Row("layer", "shape", "from", "shape", "what"), *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        yield "  ".join(cells).rstrip()
