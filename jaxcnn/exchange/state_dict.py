"""A network as PyTorch's state dict, with the names and the order of channels of public code."""

from pathlib import Path

import numpy as np

from jaxcnn.errors import UserError
from jaxcnn.exchange import match, names, network, orders, sources, torch_file
from jaxcnn.exchange.subject import Subject


def layout_for(name: str, source: str = "", is_plain: bool = False) -> sources.Layout:
    """Returns the layout to export the network called `name` in; `is_plain`: without shortcuts.

    Raises:
        UserError: If the source has no such network, or no source has.
    """
    usable = [one for one in sources.layouts(name, is_plain=is_plain) if not one.refusal]
    if not usable:
        what = f"{name} without shortcuts" if is_plain else name
        raise UserError(
            f"no known PyTorch code has {what}, so its layers have no names there: choose "
            "--format onnx, stablehlo or safetensors"
        )
    if not source:
        return usable[0]
    for layout in usable:
        if layout.source == source:
            return layout
    known = ", ".join(one.source for one in usable)
    raise UserError(f"--names={source} has no {name} that computes the same; choose {known}")


def write(subject: Subject, path: Path, source: str = "") -> None:
    """Writes a state dict that `load_state_dict` of the source's code takes with strict=True."""
    layout = layout_for(subject.network.name, source, subject.network.is_plain)
    torch_file.write(path, as_arrays(subject, layout))


def as_arrays(subject: Subject, layout: sources.Layout) -> dict[str, np.ndarray]:
    """Returns the arrays under the layout's names, as PyTorch has them."""
    layers = names.of_layers(subject.network, layout.rows)
    theirs = names.of_arrays(subject.network, layers)
    order = layout.order(subject.network)
    found: dict[str, np.ndarray] = {}
    for layer in subject.network.layers:
        chosen = order.get(layer.name, orders.Order())
        for path in layer.arrays:
            array = orders.permute(subject.arrays[path], chosen, inverse=True)
            found[theirs[path]] = network.to_torch(array)
        if layer.kind == "norm":
            # PyTorch's norms count their training steps; those of a run are its steps.
            found[f"{layers[layer.name]}.{match.COUNTER}"] = np.array(subject.step, np.int64)
    return found


def read(subject: Subject, path: Path, source: str = "") -> dict[str, np.ndarray]:
    """Returns the arrays of a file that `write` has written, by their paths here."""
    layout = layout_for(subject.network.name, source, subject.network.is_plain)
    matched = match.match(torch_file.read(path), subject.network, layout.source)
    assert not matched.faults, matched.faults
    return matched.arrays
