"""Every recipe trains: two epochs on a small stand-in of its own input shape."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from models.recipes import Recipe, all_recipes, expand
from models.spec import JobSpec
from worker.training.data import DeviceSplit
from worker.training.loop import fit
from worker.training.state import TrainState

TRAIN_SAMPLES, VALIDATION_SAMPLES = 128, 64
RECIPES = [pytest.param(recipe, id=name) for name, recipe in all_recipes().items()]


def stand_in(spec: JobSpec, samples: int, seed: int) -> DeviceSplit:
    """Make a split of the shape and kind of the recipe's data, with random content."""
    noise = np.random.default_rng(seed)
    shape = (samples, *spec.dataset.input_shape)
    if spec.dataset.task == "regression":
        rows = noise.normal(size=shape).astype(np.float32)
        return DeviceSplit(rows, rows.mean(axis=1), device=torch.device("cpu"))
    images = noise.integers(0, 256, shape).astype(np.uint8)
    labels = noise.integers(0, spec.dataset.outputs, samples)
    return DeviceSplit(images, labels, mean=(0.5,) * 3, std=(0.25,) * 3, device=torch.device("cpu"))


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_trains_all_of_its_parameters(recipe: Recipe, fresh: Callable[[JobSpec], TrainState]) -> None:
    changes = {"epochs": 2, "batch_size": 64, "seed": 7}
    spec = JobSpec.model_validate(expand({"recipe": recipe.name, "training": changes})).resolved()
    state = fresh(spec)
    parameters = dict(state.network.named_parameters())
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    train, validation = stand_in(spec, TRAIN_SAMPLES, 1), stand_in(spec, VALIDATION_SAMPLES, 2)
    epochs = list(fit(state, spec.training, train, validation))
    assert [metrics.epoch for metrics in epochs] == [1, 2]
    for metrics in epochs:
        assert metrics.validation_loss is not None
        assert math.isfinite(metrics.train_loss + metrics.validation_loss)
        assert (metrics.train_accuracy is None) == (spec.dataset.task == "regression")
        assert (metrics.penalty > 0) == (spec.training.l2_penalty > 0)
    assert [name for name, start in before.items() if torch.equal(start, parameters[name])] == []
    assert recipe.reference.parameters in {None, sum(parameter.numel() for parameter in parameters.values())}
