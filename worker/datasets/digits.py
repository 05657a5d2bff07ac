"""The handwritten digits that scikit-learn ships: 1,797 images of 8x8 pixels."""

import numpy as np

from models.datasets import DATASETS
from worker.datasets.source import RawSplit
from worker.datasets.splits import stratified_holdout

# Part of the data set: another seed would be another test split, and its accuracies could not be compared.
_TEST_SPLIT_SEED = 1797


class Digits:
    """The bundled digits; the test split is a seeded, stratified fifth, the same for everybody."""

    # The bundled file never changes, and looking at it would mean importing scikit-learn at each start.
    fingerprint = f"bundled with scikit-learn, test split seed {_TEST_SPLIT_SEED}"

    def read(self) -> tuple[RawSplit, RawSplit]:
        """Return 1,437 training and 360 test images, values 0..16 scaled to 0..255."""
        from sklearn.datasets import load_digits

        bundle = load_digits()
        images = np.rint(bundle.images * 255 / 16).astype(np.uint8)
        labels = bundle.target.astype(np.int64)
        train, test = stratified_holdout(labels, DATASETS["digits"].test_samples / len(labels), _TEST_SPLIT_SEED)
        return RawSplit(images[train], labels[train]), RawSplit(images[test], labels[test])
