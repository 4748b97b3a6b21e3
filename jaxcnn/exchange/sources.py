"""Public PyTorch code whose weights fit: its names, its order of channels, its pixel statistics.

Weights of equal shapes can belong to another function. Where code is known to compute something
else than the network here, its names are known and refused.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from jaxcnn.data.augment import PixelStats
from jaxcnn.exchange import names, orders
from jaxcnn.exchange.network import Network

# As they stand in the sources. The std 0.2023 is that of single images, see `augment.pixel_stats`;
# a network that was trained with it needs it.
_KUANGLIU = PixelStats((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
_IMAGENET = PixelStats((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_GPLEISS = PixelStats((0.49139968, 0.48215841, 0.44653091), (0.24703223, 0.24348513, 0.26158784))
_ANDREASVEIT = PixelStats(
    (125.3 / 255, 123.0 / 255, 113.9 / 255), (63.0 / 255, 62.1 / 255, 66.7 / 255)
)
_WEIAICUNZAI = PixelStats(
    (0.5070751592371323, 0.48654887331495095, 0.4409178433670343),
    (0.2673342858792401, 0.2564384629170883, 0.27615047132568404),
)

_IMAGENET_RESNET = r"resnet(18|34|50|101|152)"
_IMAGENET_DENSENET = r"densenet(121|161|169|201)"


class Layout(NamedTuple):
    """One network family in the code of one source.

    Attributes:
        source: Short name of the source, such as "kuangliu".
        code: Where the code is.
        networks: Pattern of the names of our networks that it fits.
        rows: Names of layers.
        order: Its order of channels.
        pixels: Mean and std of the source by data set; none where it states none.
        refusal: Why its weights are refused; "" where they are taken.
        is_ambiguous: Whether networks with these names may differ: it must be asked for by name.
    """

    source: str
    code: str
    networks: str
    rows: tuple[names.Row, ...]
    order: Callable[[Network], dict[str, orders.Order]] = orders.none
    pixels: dict[str, PixelStats] = {}  # noqa: RUF012 (a NamedTuple's default, never written to)
    refusal: str = ""
    is_ambiguous: bool = False

    def fits(self, network: str) -> bool:
        """Whether the layout is one of the network called so."""
        return re.fullmatch(self.networks, network) is not None


_CIFAR10 = {"cifar10": _KUANGLIU}
_POOLED = (
    "its stem is followed by a max-pooling that the network here does not have: the same weights "
    "compute something else"
)
_KUANGLIU_CODE = "kuangliu/pytorch-cifar"

# In the order in which they are tried, and of which the first that fits is the one to export to.
LAYOUTS = (
    Layout(
        *("kuangliu", _KUANGLIU_CODE, "lenet", names.KUANGLIU_LENET),
        orders.flattened_channels_first,
        _CIFAR10,
    ),
    Layout(
        *("kuangliu", _KUANGLIU_CODE, _IMAGENET_RESNET, names.KUANGLIU_RESNET),
        pixels=_CIFAR10,
    ),
    Layout(
        *("kuangliu", _KUANGLIU_CODE, _IMAGENET_DENSENET, names.KUANGLIU_DENSENET),
        orders.newest_first,
        _CIFAR10,
    ),
    Layout(
        *("kuangliu", _KUANGLIU_CODE, "mobilenet(_v1)?", names.KUANGLIU_MOBILENET),
        pixels=_CIFAR10,
    ),
    Layout(
        *("weiaicunzai", "weiaicunzai/pytorch-cifar100", _IMAGENET_RESNET),
        names.WEIAICUNZAI_RESNET,
        pixels={"cifar100": _WEIAICUNZAI},
    ),
    Layout(
        *("weiaicunzai", "weiaicunzai/pytorch-cifar100", _IMAGENET_DENSENET),
        names.WEIAICUNZAI_DENSENET,
        refusal="its transitions have no ReLU between norm and convolution, as the network here "
        "and the paper's have: the same weights compute something else",
    ),
    Layout(
        *("akamaster", "akamaster/pytorch_resnet_cifar10", r"resnet(20|32|44|56|110)"),
        names.KUANGLIU_RESNET,
        orders.zeros_on_both_sides,
        {"cifar10": _IMAGENET},
    ),
    Layout(
        *("chenyaofo", "chenyaofo/pytorch-cifar-models", r"resnet\d+b"),
        names.TORCHVISION_RESNET,
        pixels={
            "cifar10": _KUANGLIU,
            "cifar100": PixelStats((0.5070, 0.4865, 0.4409), (0.2673, 0.2564, 0.2761)),
        },
    ),
    Layout(
        *("gpleiss", "gpleiss/efficient_densenet_pytorch", r"densenet(?!40).*"),
        names.GPLEISS_DENSENET,
        pixels={"cifar10": _GPLEISS},
    ),
    Layout(
        *("andreasveit", "andreasveit/densenet-pytorch", "densenet40_k12"),
        names.ANDREASVEIT_DENSENET,
        pixels={"cifar10": _ANDREASVEIT},
    ),
    Layout(
        *("andreasveit", "andreasveit/densenet-pytorch", "densenet_bc100_k12"),
        names.ANDREASVEIT_DENSENET_BC,
        pixels={"cifar10": _ANDREASVEIT},
    ),
    Layout(
        *("torchvision", "torchvision's names, a 3x3 stem without pooling", _IMAGENET_RESNET),
        names.TORCHVISION_RESNET,
        is_ambiguous=True,
    ),
    Layout(
        *("torchvision", "torchvision's names, a 3x3 stem without norm and pooling"),
        _IMAGENET_DENSENET,
        names.TORCHVISION_DENSENET,
        is_ambiguous=True,
    ),
    Layout(
        *("huyvnphan", "huyvnphan/PyTorch_CIFAR10", _IMAGENET_RESNET),
        names.TORCHVISION_RESNET,
        refusal=_POOLED,
    ),
    Layout(
        *("huyvnphan", "huyvnphan/PyTorch_CIFAR10", _IMAGENET_DENSENET),
        names.TORCHVISION_DENSENET,
        refusal="its stem is followed by a norm and a max-pooling that the network here does not "
        "have",
    ),
)

SOURCES = tuple(dict.fromkeys(layout.source for layout in LAYOUTS))


def in_words(pixels: PixelStats) -> str:
    """Returns by what images are normalized, in words."""
    mean, std = (", ".join(f"{value:g}" for value in row) for row in pixels)
    return f"mean {mean} and std {std}"


def layouts(network: str, source: str = "", is_plain: bool = False) -> list[Layout]:
    """Returns the layouts of a network, of all sources or of one.

    A residual network without its shortcuts, `is_plain`, has none: no source has it.
    """
    return [
        layout
        for layout in LAYOUTS
        if layout.fits(network) and source in ("", layout.source) and not is_plain
    ]
