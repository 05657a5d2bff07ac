"""The rows of the table: reference runs with their batch sizes, and how much of each loop is timed."""

from dataclasses import dataclass, replace

from models.recipes import get
from models.spec import JobSpec

SEED = 20_261_121


@dataclass(frozen=True)
class Row:
    """One reference run in the table; a step is a batch of its recipe's size, a last smaller one included.

    Ours goes over `images` training images for `epochs` whole epochs. Loops that are slow are timed over `slow_steps`
    of them, the floor over `floor_steps`. Before any clock starts, `warm_up_steps` are made. The first two goals are
    ratios of ours to the floor and to the textbook loop, the third is of the whole reference run.
    """

    recipe: str
    images: int
    epochs: int
    slow_steps: int
    floor_steps: int
    warm_up_steps: int
    floor_goal: float
    textbook_goal: float | None = None
    reference_seconds_goal: float | None = None
    precision: str = "float32"

    @property
    def batch_size(self) -> int:
        """Images per step."""
        return get(self.recipe).spec.training.batch_size

    @property
    def name(self) -> str:
        """The network and the batch size, as the issue names a row."""
        return f"{self.recipe}/{self.batch_size}"

    def spec(self, epochs: int, replicas: int = 1) -> JobSpec:
        """Return the recipe's spec for so many epochs, with a seed and the row's precision."""
        spec = get(self.recipe).spec
        changes = {"epochs": epochs, "replicas": replicas, "seed": SEED, "precision": self.precision}
        return spec.model_copy(update={"training": spec.training.model_copy(update=changes)}).resolved()

    def shortened(self, steps: int) -> "Row":
        """Return the row with a few steps of each loop: what it then measures says nothing, but that all runs."""
        images = min(self.images, steps * self.batch_size)
        return replace(self, images=images, epochs=1, slow_steps=steps, floor_steps=steps, warm_up_steps=1)


CPU_ROWS = (
    Row("lenet", 25_600, 1, 60, 120, 20, floor_goal=0.95, textbook_goal=2.3),
    Row("cnn2-relu", 16_384, 1, 3, 8, 2, floor_goal=0.95, textbook_goal=4.0),
    Row("resnet10", 3_072, 1, 2, 2, 1, floor_goal=0.95, textbook_goal=1.25),
    Row("mlp-512", 25_600, 1, 120, 240, 20, floor_goal=0.9, textbook_goal=2.3),
)
GPU_ROWS = (
    Row("lenet", 50_000, 10, 160, 4_000, 20, floor_goal=0.9, reference_seconds_goal=8),
    Row("cnn2-relu", 50_000, 40, 20, 2_000, 5, floor_goal=0.9, reference_seconds_goal=20),
    Row("resnet10", 50_000, 10, 20, 500, 5, floor_goal=0.9, reference_seconds_goal=60, precision="tf32"),
    Row("mlp-512", 50_000, 10, 160, 8_000, 20, floor_goal=0.9),
)
