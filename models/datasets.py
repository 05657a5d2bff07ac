"""The data sets by name, as facts that need no file: shape, classes, counts and normalisation."""

from dataclasses import dataclass
from typing import Literal

DatasetName = Literal["digits", "cifar10", "mnist", "fashion_mnist"]


@dataclass(frozen=True)
class DatasetFacts:
    """What is known of a data set before any of its files is read.

    `shape` is (channels, height, width); `mean` and `std` are per channel, of pixels scaled to 0..1.
    """

    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    train_samples: int
    test_samples: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def input_shape(self, resize: int | None) -> tuple[int, int, int]:
        """Return the shape a network sees, (channels, height, width), after an optional resize to a square."""
        channels, height, width = self.shape
        return (channels, resize or height, resize or width)


_TEN_DIGITS = tuple(str(digit) for digit in range(10))

DATASETS: dict[DatasetName, DatasetFacts] = {
    # 1,797 images of 8x8 pixels, bundled with scikit-learn; mean and std measured over all of them.
    "digits": DatasetFacts((1, 8, 8), _TEN_DIGITS, 1_437, 360, (0.3053,), (0.3759,)),
    # Normalisation as published with the reference runs.
    "cifar10": DatasetFacts(
        (3, 32, 32),
        ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        50_000,
        10_000,
        (0.4914, 0.4822, 0.4465),
        (0.2470, 0.2435, 0.2616),
    ),
    "mnist": DatasetFacts((1, 28, 28), _TEN_DIGITS, 60_000, 10_000, (0.1307,), (0.3081,)),
    "fashion_mnist": DatasetFacts(
        (1, 28, 28),
        (
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
        60_000,
        10_000,
        (0.2860,),
        (0.3530,),
    ),
}
