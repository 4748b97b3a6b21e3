"""What do the published CIFAR files contain, and which checksums do they have?

A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009, and
https://www.cs.toronto.edu/~kriz/cifar.html, which describes both layouts.
"""

from typing import NamedTuple

IMAGE_SHAPE = (32, 32, 3)
PIXEL_BYTES = 32 * 32 * 3


class Layout(NamedTuple):
    """One of the two forms in which a CIFAR data set is published.

    Attributes:
        folder: The folder inside the archive.
        url: Where it is published.
        archive_bytes: Its size.
        archive_sha256: Its checksum.
        train: Files with training examples, in order, each with its checksum.
        test: Likewise for test examples.
        checksum: The kind of those checksums.
        largest_file: Bytes that no file of the archive exceeds; a larger one is not read.
        pickled: Whether the files are Python pickles rather than plain records.
    """

    folder: str
    url: str
    archive_bytes: int
    archive_sha256: str
    train: dict[str, str]
    test: dict[str, str]
    checksum: str
    largest_file: int
    pickled: bool

    @property
    def archive_name(self) -> str:
        """The name of the published file."""
        return self.url.rsplit("/", 1)[1]


class Cifar(NamedTuple):
    """One of the two CIFAR data sets.

    Attributes:
        name: Its TFDS name.
        label_keys: The label features, in the order of the label bytes of a record.
        class_names: For each label feature, a name per label.
        python_labels: The keys of the same labels in the python version.
        binary: The layout that TFDS downloads.
        python: The layout that most other libraries download.
        hub: The URL of each split's parquet file at Hugging Face.
        hub_labels: The columns there of the same labels.
    """

    name: str
    label_keys: tuple[str, ...]
    class_names: tuple[tuple[str, ...], ...]
    python_labels: tuple[str, ...]
    binary: Layout
    python: Layout
    hub: dict[str, str]
    hub_labels: tuple[str, ...]


# Checksums of the archives: TFDS (binary) and Keras (python). Checksums of the single files, by
# which an unpacked folder is recognised: MXNet Gluon's SHA-1 (binary), torchvision's MD5 (python).
# Nobody can make another file with the checksum of a given one, not even in MD5 (RFC 6151).
_CIFAR10_BINARY = Layout(
    folder="cifar-10-batches-bin",
    url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    archive_bytes=170_052_171,
    archive_sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    train={
        "data_batch_1.bin": "aadd24acce27caa71bf4b10992e9e7b2d74c2540",
        "data_batch_2.bin": "c0ba65cce70568cd57b4e03e9ac8d2a5367c1795",
        "data_batch_3.bin": "1dd00a74ab1d17a6e7d73e185b69dbf31242f295",
        "data_batch_4.bin": "aab85764eb3584312d3c7f65fd2fd016e36a258e",
        "data_batch_5.bin": "26e2849e66a845b7f1e4614ae70f4889ae604628",
    },
    test={"test_batch.bin": "67eb016db431130d61cd03c7ad570b013799c88c"},
    checksum="sha1",
    largest_file=32 << 20,
    pickled=False,
)
_CIFAR10_PYTHON = Layout(
    folder="cifar-10-batches-py",
    url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    archive_bytes=170_498_071,
    archive_sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    train={
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    },
    test={"test_batch": "40351d587109b95175f43aff81a1287e"},
    checksum="md5",
    largest_file=32 << 20,
    pickled=True,
)
_CIFAR100_BINARY = Layout(
    folder="cifar-100-binary",
    url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
    archive_bytes=168_513_733,
    archive_sha256="58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
    train={"train.bin": "e207cd2e05b73b1393c74c7f5e7bea451d63e08e"},
    test={"test.bin": "8fb6623e830365ff53cf14adec797474f5478006"},
    checksum="sha1",
    largest_file=160 << 20,
    pickled=False,
)
_CIFAR100_PYTHON = Layout(
    folder="cifar-100-python",
    url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    archive_bytes=169_001_437,
    archive_sha256="85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
    train={"train": "16019d7e3df5f24257cddd939b257f8d"},
    test={"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
    checksum="md5",
    largest_file=160 << 20,
    pickled=True,
)
# The archives carry the names too, but then a folder's would be unchecked and a pickle's unsafe.
_CIFAR10_NAMES = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())
_CIFAR100_NAMES = tuple(
    """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
    camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile
    cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp
    lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom
    oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
    possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake
    spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor
    train trout tulip turtle wardrobe whale willow_tree wolf woman worm
    """.split()
)
_CIFAR100_COARSE_NAMES = tuple(
    """
    aquatic_mammals fish flowers food_containers fruit_and_vegetables household_electrical_devices
    household_furniture insects large_carnivores large_man-made_outdoor_things
    large_natural_outdoor_scenes large_omnivores_and_herbivores medium_mammals
    non-insect_invertebrates people reptiles small_mammals trees vehicles_1 vehicles_2
    """.split()
)


def _hub(place: str) -> dict[str, str]:
    """Returns the URLs of the parquet files at Hugging Face, in a folder of the authors'."""
    return {
        split: f"https://huggingface.co/datasets/uoft-cs/{place}/{split}-00000-of-00001.parquet"
        for split in ("train", "test")
    }


SETS = {
    "cifar10": Cifar(
        name="cifar10",
        label_keys=("label",),
        class_names=(_CIFAR10_NAMES,),
        python_labels=("labels",),
        binary=_CIFAR10_BINARY,
        python=_CIFAR10_PYTHON,
        hub=_hub("cifar10/resolve/main/plain_text"),
        hub_labels=("label",),
    ),
    "cifar100": Cifar(
        name="cifar100",
        label_keys=("coarse_label", "label"),
        class_names=(_CIFAR100_COARSE_NAMES, _CIFAR100_NAMES),
        python_labels=("coarse_labels", "fine_labels"),
        binary=_CIFAR100_BINARY,
        python=_CIFAR100_PYTHON,
        hub=_hub("cifar100/resolve/main/cifar100"),
        hub_labels=("coarse_label", "fine_label"),
    ),
}
