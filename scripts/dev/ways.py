"""Draws the three ways of docs/how-it-works.md, each a picture of rooms, functions and arrows.

python scripts/dev/ways.py            # writes docs/pictures/way-*.svg

Every box names a file and something that it defines; a test checks that both exist and that the
pictures are those that this script draws.
"""

from pathlib import Path

from drawing import Arrow, Step, Way, draw

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "docs" / "pictures"

BATCH = Way(
    "way-batch",
    "One batch, from the data to the update",
    (
        (
            "data",
            (
                Step(0, "data/load.py", "load", "Images uint8 [N, H, W, C] and labels in memory."),
                Step(
                    1,
                    "data/batches.py",
                    "shuffled_batches",
                    "Rows int32 [steps, B] of an epoch: a function of (seed, epoch).",
                ),
                Step(
                    3,
                    "data/augment.py",
                    "create_augment",
                    "Crop and mirror, as a pure function that the step is given.",
                ),
            ),
        ),
        (
            "train",
            (
                Step(
                    1,
                    "train/feed.py",
                    "DeviceDataset",
                    "Gathers the rows on the devices: uint8 [B, H, W, C], split over them.",
                ),
                Step(
                    2,
                    "train/programs.py",
                    "Programs.train",
                    "Calls the compiled program; the state's buffers are used again.",
                ),
                Step(
                    3,
                    "train/step.py",
                    "train_step",
                    "Augments, with a key folded from state.step; normalizes.",
                ),
                Step(
                    4,
                    "train/gradients.py",
                    "loss_and_grads",
                    "Mean loss, its gradient, new running statistics.",
                ),
                Step(
                    5,
                    "train/optim.py",
                    "create_optimizer",
                    "Params minus rate times direction, unless something is not finite.",
                ),
            ),
        ),
        (
            "models",
            (
                Step(
                    4,
                    "models/mobilenet.py",
                    "MobileNet",
                    "float32 [B, H, W, C] to logits [B, classes].",
                ),
                Step(
                    5,
                    "models/layers.py",
                    "norm_relu_conv",
                    "Batch norm, ReLU, convolution: what every block is made of.",
                ),
            ),
        ),
        (
            "ops",
            (
                Step(
                    5,
                    "ops/norm_conv.py",
                    "norm_relu_conv",
                    "The value and both gradients, by the algorithm for shape and platform.",
                ),
            ),
        ),
    ),
    (
        Arrow((0, 1), (1, 1)),
        Arrow((0, 3), (1, 3)),
        Arrow((1, 4), (2, 4), both=True),
        Arrow((2, 5), (3, 5), both=True),
    ),
    frozenset({(0, 3)}),
)

SETTING = Way(
    "way-setting",
    "One setting, from the command line to the step",
    (
        (
            "commands",
            (
                Step(
                    0,
                    "commands/train.py",
                    "run",
                    "jaxcnn train --config mobilenet --optim.peak_lr=0.05",
                ),
                Step(
                    1,
                    "commands/config_flag.py",
                    "parse",
                    "Executes the file of --config, then sets what the command line says.",
                ),
            ),
        ),
        (
            "config",
            (
                Step(
                    1,
                    "config/schema.py",
                    "default_config",
                    "Declares each value once: default, limits, help.",
                ),
                Step(
                    2,
                    "config/schema.py",
                    "validate",
                    "Refuses what is not allowed, naming key, value and limits.",
                ),
                Step(
                    3,
                    "config/settings.py",
                    "Settings.resolve",
                    "Decides what was open, adds the facts of the data; frozen from here on.",
                ),
            ),
        ),
        (
            "run",
            (
                Step(
                    3,
                    "run/folder.py",
                    "RunDir.locked",
                    "Writes config.json; refuses a folder of other settings.",
                ),
            ),
        ),
        (
            "train",
            (
                Step(
                    4, "train/fit.py", "fit", "Passes the settings on, whole; opens the run folder."
                ),
                Step(
                    5,
                    "train/programs.py",
                    "Programs",
                    "The last to see the settings: binds plain arguments, applies jit.",
                ),
                Step(
                    6,
                    "train/optim.py",
                    "create_optimizer",
                    "peak_lr becomes the schedule: learning_rate(step).",
                ),
                Step(
                    7,
                    "train/step.py",
                    "train_step",
                    "Takes the rate of state.step and multiplies the direction with it.",
                ),
            ),
        ),
    ),
    (Arrow((0, 1), (1, 1), both=True), Arrow((1, 3), (2, 3)), Arrow((1, 3), (3, 4))),
)

CHECKPOINT = Way(
    "way-checkpoint",
    "One checkpoint, from the disk to the state",
    (
        (
            "run",
            (
                Step(
                    0,
                    "run/folder.py",
                    "RunDir.check",
                    "Is it a folder of these settings? Locked while one process trains.",
                ),
                Step(
                    1,
                    "run/checkpoint.py",
                    "Checkpoints.latest_valid_step",
                    "The newest whole one; a damaged one is set aside.",
                ),
                Step(
                    2,
                    "run/manifest.py",
                    "verify",
                    "All files there, with their checksums, of these settings?",
                ),
                Step(
                    3,
                    "run/checkpoint.py",
                    "Checkpoints.restore_verified",
                    "Orbax reads arrays by name onto the devices of the template.",
                ),
                Step(
                    4,
                    "run/folder.py",
                    "RunDir.truncate_metrics",
                    "Drops lines of epochs that the state has not finished.",
                ),
            ),
        ),
        (
            "train",
            (
                Step(
                    2,
                    "train/programs.py",
                    "Programs",
                    "The template: shapes, dtypes and places of the state.",
                ),
                Step(
                    3,
                    "train/loop.py",
                    "Training.restore",
                    "The TrainState: step, params, batch_stats, opt_state, ema, sums, nonfinite.",
                ),
                Step(
                    4,
                    "train/loop.py",
                    "Training.run_to_end",
                    "Trains the epochs that are missing.",
                ),
                Step(
                    5,
                    "train/loop.py",
                    "Training.epoch",
                    "Goes on in the middle of an epoch: state.step says where.",
                ),
            ),
        ),
        (
            "data",
            (
                Step(
                    5,
                    "data/batches.py",
                    "shuffled_batches",
                    "The epoch's rows again, less those that were trained on.",
                ),
            ),
        ),
    ),
    (
        Arrow((0, 3), (1, 3), both=True),
        Arrow((0, 4), (1, 4), both=True),
        Arrow((2, 5), (1, 5)),
    ),
)

WAYS = (BATCH, SETTING, CHECKPOINT)


def main() -> None:
    """Writes the pictures."""
    for way in WAYS:
        path = PICTURES / f"{way.name}.svg"
        path.write_text(draw(way), encoding="utf-8")
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
