"""The settings that recipes are made of, each off by default; docs/recipes.md tells more.

They are part of the sections of `schema`; a first reading can pass them over.
"""

from dataclasses import dataclass

from jaxcnn.config.declare import at_least, one_of, setting


@dataclass(frozen=True)
class AugmentRecipe:
    """What else is done to training images: keyword arguments of `create_augmentation`."""

    crop_mode: str = setting(
        "zeros", one_of("zeros", "reflect"), "what the crop's padding holds: black, or the mirror"
    )
    flip_mode: str = setting(
        "random",
        one_of("random", "alternating"),
        "random: drawn anew each time; alternating: drawn once for an image, which then turns "
        "round every epoch (Jordan 2024, arXiv:2404.00498, sec. 3.6)",
    )
    cutout: int = setting(
        0, at_least(0), "side of a square of mean pixels, in pixels (arXiv:1708.04552); 0: none"
    )
