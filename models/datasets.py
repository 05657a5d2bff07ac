"""The data sets by name, as facts that need no file: shape, classes, counts, normalisation, origin and licence."""

from dataclasses import dataclass
from typing import Literal

Task = Literal["classification", "regression"]
DatasetName = Literal["digits", "cifar10", "cifar100", "mnist", "fashion_mnist", "svhn"]


@dataclass(frozen=True)
class PublishedFile:
    """A file as its publishers offer it; the MD5 is the one that they, or torchvision for them, list."""

    name: str
    md5: str


@dataclass(frozen=True)
class DatasetFacts:
    """What is known of a data set before any of its files is read.

    `shape` is (channels, height, width); `mean` and `std` are per channel, of pixels scaled to 0..1.
    """

    title: str
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    train_samples: int
    test_samples: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str
    licence: str
    files: tuple[PublishedFile, ...]

    def input_shape(self, resize: int | None) -> tuple[int, int, int]:
        """Return the shape a network sees, (channels, height, width), after an optional resize to a square."""
        channels, height, width = self.shape
        return (channels, resize or height, resize or width)


_TEN_DIGITS = tuple(str(digit) for digit in range(10))
_CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"
_CIFAR100 = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
    caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
    flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
    motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
    poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
    squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
    wardrobe whale willow_tree wolf woman worm
"""
_FASHION = "T-shirt/top, Trouser, Pullover, Dress, Coat, Sandal, Shirt, Sneaker, Bag, Ankle boot"

DATASETS: dict[DatasetName, DatasetFacts] = {
    "digits": DatasetFacts(
        title="Handwritten digits of 8x8 pixels, bundled with scikit-learn",
        shape=(1, 8, 8),
        classes=_TEN_DIGITS,
        train_samples=1_437,
        test_samples=360,
        mean=(0.3053,),  # measured over all images
        std=(0.3759,),
        source="https://archive.ics.uci.edu/dataset/80 (its test part; E. Alpaydin and C. Kaynak, 1998)",
        licence="CC BY 4.0",
        files=(PublishedFile("digits.csv.gz", "9b335364a7bfd63947c7480a5bd51f2d"),),
    ),
    "cifar10": DatasetFacts(
        title="Colour photographs of 32x32 pixels in ten classes",
        shape=(3, 32, 32),
        classes=tuple(_CIFAR10.split()),
        train_samples=50_000,
        test_samples=10_000,
        mean=(0.4914, 0.4822, 0.4465),  # as published with the reference runs
        std=(0.2470, 0.2435, 0.2616),
        source="https://www.cs.toronto.edu/~kriz/cifar.html (A. Krizhevsky, 2009)",
        licence="None stated; its page asks to cite the technical report",
        files=(PublishedFile("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"),),
    ),
    "cifar100": DatasetFacts(
        title="Colour photographs of 32x32 pixels in a hundred classes",
        shape=(3, 32, 32),
        classes=tuple(_CIFAR100.split()),
        train_samples=50_000,
        test_samples=10_000,
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        source="https://www.cs.toronto.edu/~kriz/cifar.html (A. Krizhevsky, 2009)",
        licence="None stated; its page asks to cite the technical report",
        files=(PublishedFile("cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85"),),
    ),
    "mnist": DatasetFacts(
        title="Handwritten digits of 28x28 pixels",
        shape=(1, 28, 28),
        classes=_TEN_DIGITS,
        train_samples=60_000,
        test_samples=10_000,
        mean=(0.1307,),
        std=(0.3081,),
        source="https://yann.lecun.com/exdb/mnist/ (Y. LeCun, C. Cortes and C. J. C. Burges, 1998)",
        licence="CC BY-SA 3.0",
        files=(
            PublishedFile("train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
            PublishedFile("train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432"),
            PublishedFile("t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3"),
            PublishedFile("t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c"),
        ),
    ),
    "fashion_mnist": DatasetFacts(
        title="Articles of clothing in grey, 28x28 pixels",
        shape=(1, 28, 28),
        classes=tuple(_FASHION.split(", ")),
        train_samples=60_000,
        test_samples=10_000,
        mean=(0.2860,),
        std=(0.3530,),
        source="https://github.com/zalandoresearch/fashion-mnist (H. Xiao, K. Rasul and R. Vollgraf, 2017)",
        licence="MIT",
        files=(
            PublishedFile("train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
            PublishedFile("train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe"),
            PublishedFile("t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79"),
            PublishedFile("t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310"),
        ),
    ),
    "svhn": DatasetFacts(
        title="House numbers photographed from the street, cropped to single digits of 32x32 pixels",
        shape=(3, 32, 32),
        classes=_TEN_DIGITS,
        train_samples=73_257,
        test_samples=26_032,
        mean=(0.4377, 0.4438, 0.4728),
        std=(0.1980, 0.2010, 0.1970),
        source="http://ufldl.stanford.edu/housenumbers/ (Y. Netzer et al., 2011)",
        licence="For non-commercial use only, as its page says",
        files=(
            PublishedFile("train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373"),
            PublishedFile("test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3"),
        ),
    ),
}
