"""The settings that recipes are made of, each off by default; docs/recipes.md tells more.

They are part of the sections of `schema`; a first reading can pass them over.
"""

from dataclasses import dataclass

from jaxcnn.config import class_weights
from jaxcnn.config.declare import ANY, POSITIVE, Check, at_least, between, one_of, setting, within

SCHEDULES = ("cosine", "multistep", "constant", "linear", "triangular", "onecycle", "1-sqrt")
"""The schedules' names."""

_RANDAUGMENT = Check(
    lambda v: (
        len(v) in (0, 2)
        and all(isinstance(x, int) and not isinstance(x, bool) for x in v)
        and (not v or (1 <= v[0] <= 14 and 0 <= v[1] <= 10))
    ),
    "() or two whole numbers, 1 to 14 and 0 to 10, such as (2,9)",
)


@dataclass(frozen=True)
class FolderRecipe:
    """How a folder of one's own images is read: the fields of `data.folder.Options`."""

    image_size: int = setting(32, within(8, 1024), "folder: height and width of images, pixels")
    holdout: float = setting(
        0.1,
        within(0.001, 0.999),
        "folder: fraction of train that is held out where there is neither val nor test",
    )
    holdout_seed: int = setting(0, between(0, 2**32), "folder: which images are held out")
    unreadable: str = setting(
        "refuse", one_of("refuse", "skip"), "folder: what is done about files that cannot be read"
    )


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
    random_erasing: float = setting(
        0.0, within(0, 1), "probability of a rectangle of noise (arXiv:1708.04896)"
    )
    brightness: float = setting(
        0.0, within(0, 1), "images are multiplied by 1 - this to 1 + this; 0: none"
    )
    contrast: float = setting(
        0.0, within(0, 1), "the distance from mean grey is multiplied by 1 - this to 1 + this"
    )
    randaugment: tuple[int, ...] = setting(
        (), _RANDAUGMENT, "operations of an image, and their magnitude, 0 to 10 (arXiv:1909.13719)"
    )
    mixup: float = setting(
        0.0, at_least(0), "images and labels are mixed, alpha (arXiv:1710.09412); 0: none"
    )
    cutmix: float = setting(
        0.0, at_least(0), "parts of images are exchanged, alpha (arXiv:1905.04899); 0: none"
    )


@dataclass(frozen=True)
class ModelRecipe:
    """What else may be changed in a network."""

    bn_momentum: float = setting(
        0.9, between(0, 1), "kept fraction of batch norm's running statistics at each step"
    )


_AS_OTHERS = "as optim.weight_decay"
_AT_PEAK = "optim.peak_lr"


@dataclass(frozen=True)
class OptimRecipe:
    """Weight decay and rates by group of parameters, and the shapes of further schedules."""

    weight_decay_depthwise: float | None = setting(
        float, at_least(0), "of depthwise kernels (arXiv:1704.04861, sec. 3.2)", unset=_AS_OTHERS
    )
    weight_decay_head: float | None = setting(
        float, at_least(0), "of the classifier's kernel", unset=_AS_OTHERS
    )
    weight_decay_norm: float = setting(
        0.0, at_least(0), "of the norms' scales and of all biases (arXiv:1812.01187, sec. 3.1)"
    )
    head_lr: float | None = setting(
        float,
        POSITIVE,
        "peak rate of the classifier's kernel; with muon, of all kernels but of convolutions",
        unset=_AT_PEAK,
    )
    bias_lr: float | None = setting(
        float, POSITIVE, "peak rate of the norms' scales and of all biases", unset=_AT_PEAK
    )
    whiten_bias_epochs: float = setting(
        0.0,
        at_least(0),
        "epochs in which the rate of a whitening layer's bias falls to 0, for good; 0: as others",
    )
    sgd_momentum: float = setting(
        0.85, between(0, 1), "muon: momentum of SGD, for all but kernels of convolutions"
    )
    lookahead_steps: int = setting(
        0, at_least(0), "steps after which slow weights follow (arXiv:1907.08610); 0: none"
    )
    lookahead_alpha: float = setting(
        0.5, within(0.01, 1), "fraction of the way that the slow weights go then"
    )
    peak_at: float = setting(
        0.2,
        within(0.01, 0.99),
        "triangular, onecycle: fraction of the training at which the peak is reached, which is "
        "their warm-up",
    )
    cooldown: float = setting(
        0.2,
        within(0.01, 1),
        "1-sqrt: fraction of the training, at its end, in which the rate falls",
    )


@dataclass(frozen=True)
class TrainRecipe:
    """What else the training loop may do."""

    class_weights: str = setting(
        "none",
        class_weights.ALLOWED,
        "weights of the classes in the training loss; balanced: the "
        "rarer a class, the more, N / (K N_c)",
    )
    init_from: str = setting(
        "",
        ANY,
        "weights to begin with: a name of `jaxcnn predict --pretrained`, a .safetensors file or a "
        "run folder; the head is new where the number of classes is another; empty: random ones",
    )
    onednn: bool | None = setting(
        bool,
        ANY,
        "convolutions by oneDNN where this jaxlib has it (one CPU device, x86-64 Linux): faster "
        "steps, but the programs are compiled anew at every start; unset: with at least "
        "10,000 training images, if the network gains by it",
        unset="by network and images",
    )
    ema_warmup: bool = setting(
        False,
        ANY,
        "average over few weights at first: the decay is (1 + step) / (10 + step) until it reaches "
        "train.ema_decay",
    )
    keep_best: bool = setting(
        False,
        ANY,
        "keep the checkpoint of the best evaluation accuracy beside the newest ones; needs an "
        "evaluation split of the training data",
    )
    patience: int = setting(
        0,
        at_least(0),
        "epochs without a better evaluation accuracy after which the run ends; 0: it runs to its "
        "end; needs an evaluation split of the training data",
    )
