"""The study's claims, each with the numbers that support or refute it.

Every verdict is a comparison of numbers that this module is given; where they are missing, the
claim says which run would give them.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

SUPPORTED, REFUTED, MIXED = "supported", "refuted", "supported in part"
UNDECIDED, MISSING, ANSWERED = "undecided", "not measured", "answered"

# Accuracies within so much are "alike"; times within so much of a prediction agree with it.
_ALIKE = 0.02
_TIME_FACTOR = 1.5
# Gradients "vanish" where the first third of the layers gets a tenth of the last third's norm.
_VANISHED = 0.1

Facts = Mapping[str, Any]


class Claim(NamedTuple):
    """A claim with its verdict.

    Attributes:
        claim: The claim, in a sentence.
        verdict: One of the words above.
        reasons: Sentences with the numbers.
        header: Of the table of the measurement; empty without one.
        rows: Of the table.
    """

    claim: str
    verdict: str
    reasons: list[str]
    header: list[str] = []
    rows: list[list[str]] = []


def all_claims(
    runs: Mapping[str, Facts],
    counts: Facts,
    times: Sequence[Facts],
    gradients: Sequence[Facts],
) -> list[Claim]:
    """Returns every claim.

    Args:
        runs: What `facts.of_run` gives, by the runs' names.
        counts: What `counts.of_runs` gives.
        times: What `times.of_blocks` gives.
        gradients: What `gradients.of_networks` gives.
    """
    found = list(runs.values())
    return [
        separable_operations(counts["separable"]),
        separable_time(times),
        dense_connections(counts["dense"]),
        dense_needs_less(found, "parameters", "parameters"),
        dense_needs_less(found, "flops", "multiply-adds"),
        vanishing(gradients, ("plain",), "init", expected=True),
        vanishing(gradients, ("resnet", "dense"), "init", expected=False),
        vanishing(gradients, ("plain",), "trained", expected=True),
        vanishing(gradients, ("resnet", "dense"), "trained", expected=False),
        degradation(found),
        least(found, "parameters", "parameters"),
        least(found, "flops", "multiply-adds of one image"),
        fastest(found),
        soonest(found),
    ]


def combine(agree: Iterable[bool]) -> str:
    """Returns the verdict of several comparisons."""
    given = list(agree)
    if not given:
        return MISSING
    return SUPPORTED if all(given) else MIXED if any(given) else REFUTED


def separable_operations(blocks: Sequence[Facts]) -> Claim:
    """The cost of a separable convolution in operations."""
    return Claim(
        "Depthwise and pointwise convolution cost 1/N + 1/9 of the operations of a standard 3x3 "
        "convolution with N output channels.",
        combine(abs(block["ratio"] - block["formula"]) < 1e-9 for block in blocks),
        [
            f"Counted in {len(blocks)} blocks of MobileNet: the largest difference from the "
            f"formula is {max(abs(b['ratio'] - b['formula']) for b in blocks):.1g}."
        ],
        ["block", "separable", "standard", "ratio", "1/N + 1/9"],
        [
            [
                block["block"],
                f"{block['separable']:,}",
                f"{block['standard']:,}",
                f"{block['ratio']:.4f}",
                f"{block['formula']:.4f}",
            ]
            for block in blocks
        ],
    )


def separable_time(blocks: Sequence[Facts]) -> Claim:
    """The cost of a separable convolution in time."""
    near = [block["ratio"] <= _TIME_FACTOR * block["formula"] for block in blocks]
    median = statistics.median(block["ratio"] for block in blocks)
    return Claim(
        "That saving is one of time as well.",
        combine(near),
        [
            f"In {sum(near)} of {len(blocks)} blocks the time's ratio is at most {_TIME_FACTOR} "
            f"times the formula's; the median block takes {median:.3f} of the standard "
            "convolution's time (forward, batch of 128, this machine, medians of 7).",
        ],
        ["block", "separable, ms", "standard, ms", "ratio", "1/N + 1/9"],
        [
            [
                block["block"],
                f"{1e3 * block['separable']:.2f}",
                f"{1e3 * block['standard']:.2f}",
                f"{block['ratio']:.3f}",
                f"{block['formula']:.3f}",
            ]
            for block in blocks
        ],
    )


def dense_connections(networks: Mapping[str, Sequence[Mapping[str, int]]]) -> Claim:
    """The number of connections in a dense block."""
    rows, agree = [], []
    for name, blocks in networks.items():
        for index, block in enumerate(blocks, start=1):
            formula = block["layers"] * (block["layers"] + 1) // 2
            agree.append(block["connections"] == formula)
            rows.append(
                [name, str(index), str(block["layers"]), str(block["connections"]), str(formula)]
            )
    return Claim(
        "A dense block of L layers has L(L+1)/2 direct connections.",
        combine(agree),
        [f"Counted from the shapes of the kernels; {sum(agree)} of {len(agree)} blocks agree."],
        ["network", "block", "layers", "connections", "L(L+1)/2"],
        rows,
    )


def dense_needs_less(runs: Sequence[Facts], key: str, words: str) -> Claim:
    """Whether DenseNet needs fewer parameters, or operations, than ResNet for an accuracy."""
    claim = f"DenseNet needs fewer {words} than ResNet at like accuracy."
    residual = [run for run in runs if run["family"] == "resnet" and not run["plain"]]
    dense = [run for run in runs if run["family"] == "densenet"]
    if not residual or not dense:
        return Claim(claim, MISSING, ["Give a run of a DenseNet and one of a ResNet."])
    verdicts, rows, uneven = [], [], False
    for one in dense:
        for other in residual:
            gap = one["eval_accuracy"] - other["eval_accuracy"]
            fewer = one[key] < other[key]
            # An advantage in accuracy only strengthens the side that needs less.
            if fewer and gap >= -_ALIKE:
                verdicts.append(True)
            elif not fewer and gap <= _ALIKE:
                verdicts.append(False)
            uneven |= _training(one) != _training(other)
            rows.append(
                [one["name"], other["name"], f"{one[key]:,}", f"{other[key]:,}",
                 f"{100 * gap:+.2f} points"]
            )  # fmt: skip
    verdict = combine(verdicts) if verdicts else UNDECIDED
    reasons = [
        f"{sum(verdicts)} of {len(rows)} pairs support it, "
        f"{len(verdicts) - sum(verdicts)} refute it."
    ]
    if others := len(rows) - len(verdicts):
        reasons.append(
            f"In {others} the one that needs less is also less accurate, by more than "
            f"{100 * _ALIKE:.0f} points: they say nothing."
        )
    if uneven:
        reasons.append("Some pairs were trained for different times or on different images.")
    header = ["DenseNet", "ResNet", f"{words}, DenseNet", f"{words}, ResNet", "accuracy, DenseNet"]
    return Claim(claim, verdict, reasons, header, rows)


def vanishing(
    gradients: Sequence[Facts], families: Sequence[str], when: str, *, expected: bool
) -> Claim:
    """Whether gradients get small towards the image as depth grows."""
    moment = {"init": "at initialisation", "trained": "after training"}[when]
    kinds = {"plain": "plain networks", "resnet": "residual networks", "dense": "dense networks"}
    who = " and ".join(kinds[family] for family in families)
    doing = "vanish with depth" if expected else "do not vanish with depth"
    claim = f"Gradients {doing} in {who}, {moment}."
    lines = [g for g in gradients if g["family"] in families and g["when"] == when]
    rows = [
        [line["name"], str(line["depth"]), f"{line['ratio']:.3g}", f"{min(line['norms']):.2e}",
         f"{max(line['norms']):.2e}"]
        for line in lines
    ]  # fmt: skip
    agree, reasons = [], []
    for family in families:
        # Only the deepest: shallow networks of every kind pass gradients on.
        deepest = max(
            (line for line in lines if line["family"] == family),
            key=lambda line: line["depth"],
            default=None,
        )
        if deepest is None:
            reasons.append(
                f"Give a run of one of the {kinds[family]}, such as {_EXAMPLES[family]}."
            )
            continue
        agree.append((deepest["ratio"] < _VANISHED) == expected)
        reasons.append(
            f"{deepest['name']}: the first third of its {len(deepest['norms'])} convolutions gets "
            f"{deepest['ratio']:.3g} times the gradient norm of the last third "
            f"(geometric means; below {_VANISHED} counts as vanishing)."
        )
        if deepest["ratio"] > 1 / _VANISHED:
            reasons.append(f"In {deepest['name']} they grow towards the image: they explode.")
    header = ["network", "layers", "first third / last third", "least norm", "largest norm"]
    return Claim(claim, combine(agree), reasons, header if rows else [], rows)


_EXAMPLES = {"plain": "plain56", "resnet": "resnet56", "dense": "densenet40_k12"}


def degradation(runs: Sequence[Facts]) -> Claim:
    """Whether depth makes plain networks train worse, and residual ones not."""
    claim = (
        "A deeper plain network trains worse than a shallower one; with shortcuts the deeper one "
        "trains no worse than without."
    )
    wanted = {"plain20", "plain56", "resnet20", "resnet56"}
    found = {run["model"]: run for run in runs if run["model"] in wanted}
    if missing := sorted(wanted - set(found)):
        return Claim(claim, MISSING, [f"Give a run of each of: {', '.join(missing)}."])
    if len({_training(run)[1:] for run in found.values()}) > 1:
        return Claim(claim, MISSING, ["Give runs of the four networks on the same images."])
    # The same number of epochs for all: a longer training would win by its length.
    epoch = min(run["epochs"] for run in found.values())
    loss = {name: run["records"][epoch - 1]["train_loss"] for name, run in found.items()}
    worse = loss["plain56"] > loss["plain20"]
    helped = loss["resnet56"] < loss["plain56"]
    reasons = [
        f"Training loss after epoch {epoch}: plain56 {loss['plain56']:.3f} against plain20 "
        f"{loss['plain20']:.3f}; resnet56 {loss['resnet56']:.3f} against resnet20 "
        f"{loss['resnet20']:.3f}.",
        f"The deeper plain network is {'worse' if worse else 'not worse'}; with shortcuts the "
        f"56-layer network is {'better' if helped else 'not better'} than without.",
    ]
    accuracy = {name: run["records"][epoch - 1]["eval_accuracy"] for name, run in found.items()}
    rows = [[name, f"{loss[name]:.4f}", f"{100 * accuracy[name]:.2f} %"] for name in sorted(wanted)]
    header = ["network", f"training loss, epoch {epoch}", "validation accuracy"]
    return Claim(claim, combine([worse, helped]), reasons, header, rows)


def least(runs: Sequence[Facts], key: str, words: str) -> Claim:
    """Whether MobileNet has the least of something."""
    claim = f"Of the networks compared, MobileNet has the fewest {words}."
    if not any(run["family"] == "mobilenet" for run in runs) or len(runs) < 2:
        return Claim(claim, MISSING, ["Give a run of a MobileNet and one of another network."])
    order = sorted(runs, key=lambda run: run[key])
    mobile = next(run for run in order if run["family"] == "mobilenet")
    reasons = [f"The fewest has {order[0]['name']}: {order[0][key]:,}."]
    if order[0]["family"] != "mobilenet":
        reasons.append(f"{mobile['name']} has {mobile[key]:,}.")
    if order[0]["family"] == "lenet":  # far less accurate, if it is
        rest = [run for run in order if run["family"] != "lenet"]
        reasons.append(f"Without LeNet, the fewest has {rest[0]['name']}: {rest[0][key]:,}.")
    rows = [[run["name"], f"{run[key]:,}", f"{100 * run['eval_accuracy']:.2f} %"] for run in order]
    verdict = combine([order[0]["family"] == "mobilenet"])
    return Claim(claim, verdict, reasons, ["network", words, "validation accuracy"], rows)


def fastest(runs: Sequence[Facts]) -> Claim:
    """Which network trains fastest per epoch."""
    claim = "Which network trains fastest per epoch?"
    timed = [run for run in runs if run["images_per_second"]]
    if len(timed) < 2:
        return Claim(claim, MISSING, ["Give two runs or more."])
    order = sorted(timed, key=lambda run: -run["images_per_second"])
    reasons = [
        f"{order[0]['name']}, with {order[0]['images_per_second']:,.0f} training images a second, "
        f"{order[0]['images_per_second'] / order[-1]['images_per_second']:.0f} times as many as "
        f"{order[-1]['name']}."
    ]
    if len({run["device"] for run in timed}) > 1:
        reasons.append("The runs were made on different machines.")
    rows = [[run["name"], f"{run['images_per_second']:,.0f}", run["device"]] for run in order]
    return Claim(claim, ANSWERED, reasons, ["network", "images/s", "machine"], rows)


def soonest(runs: Sequence[Facts]) -> Claim:
    """Which network first reaches an accuracy that all reach."""
    claim = "Which network is the first to reach a given accuracy?"
    groups: dict[tuple[str, str], list[Facts]] = {}
    for run in runs:
        groups.setdefault((run["data"], run["eval_split"]), []).append(run)
    group = max(groups.values(), key=len, default=[])
    if len(group) < 2:
        return Claim(claim, MISSING, ["Give two runs that are evaluated on the same images."])
    rows, reasons = [], []
    best = {run["name"]: max(r["eval_accuracy"] for r in run["records"]) for run in group}
    # What all reach, then what half of them reach, in whole per cents.
    levels = sorted({int(100 * value) for value in best.values()})
    for level in dict.fromkeys((levels[0], levels[len(levels) // 2])):
        reached = []
        for run in group:
            record = next((r for r in run["records"] if 100 * r["eval_accuracy"] >= level), None)
            if record:
                reached.append((record["minutes"], record["epoch"], run["name"]))
        reached.sort()
        minutes, epoch, name = reached[0]
        reasons.append(
            f"{level} % is first reached by {name}, after {minutes:.1f} minutes (epoch {epoch}); "
            f"{len(reached)} of {len(group)} reach it."
        )
        rows += [[f"{level} %", n, f"{m:.1f}", str(e)] for m, e, n in reached]
    return Claim(claim, ANSWERED, reasons, ["accuracy", "network", "minutes", "epoch"], rows)


def _training(run: Facts) -> tuple[int, str, str]:
    """Returns what makes the training of two runs alike."""
    return run["epochs"], run["train_split"], run["data"]
