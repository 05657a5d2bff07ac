"""Augmentation of a whole batch against torchvision, image by image, with the same draws."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Generator, Tensor
from torchvision.transforms.v2 import functional as reference

from models.errors import InvalidSpec
from models.spec import JobSpec
from models.training_spec import Augmentation, ColorJitter, Cutout, RandomCrop
from worker.training.augmentation import (
    adjust_brightness,
    adjust_contrast,
    adjust_saturation,
    augment,
    crop,
    cut_out,
    flip,
)
from worker.training.data import DeviceSplit
from worker.training.loop import fit
from worker.training.state import TrainState

SAMPLES = 200
SHAPES = [(3, 12, 9), (1, 8, 8)]
EVERYTHING = Augmentation(
    random_crop=RandomCrop(padding=2),
    horizontal_flip=0.5,
    color_jitter=ColorJitter(brightness=0.4, contrast=0.3, saturation=0.9),
    cutout=Cutout(size=4),
)


def images_of(shape: tuple[int, int, int], samples: int = SAMPLES) -> Tensor:
    generator = Generator().manual_seed(5)
    return torch.randint(0, 256, (samples, *shape), generator=generator, dtype=torch.uint8)


def draws(low: int, high: int) -> Tensor:
    return torch.randint(low, high, (SAMPLES,), generator=Generator().manual_seed(high))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("padding", [1, 4])
def test_a_crop_is_the_one_of_torchvision(shape: tuple[int, int, int], padding: int) -> None:
    images, (_, height, width) = images_of(shape), shape
    top, left = draws(0, 2 * padding + 1), draws(0, 2 * padding + 1).flip(0)
    assert {0, 2 * padding} <= set(top.tolist())
    cropped = crop(images, padding, top, left)
    for image, found, i, j in zip(images, cropped, top.tolist(), left.tolist(), strict=True):
        padded = reference.pad(image, [padding])
        assert torch.equal(found, reference.crop(padded, i, j, height, width))


def test_a_flip_is_the_one_of_torchvision_and_of_the_chosen_alone() -> None:
    images = images_of((3, 12, 9))
    chosen = draws(0, 2).bool()
    for image, found, mirrored in zip(images, flip(images, chosen), chosen.tolist(), strict=True):
        assert torch.equal(found, reference.horizontal_flip(image) if mirrored else image)


@pytest.mark.parametrize("size", [1, 4, 5])
def test_a_cutout_is_an_erased_square_and_may_stand_out_of_the_image(size: int) -> None:
    images, (height, width) = images_of((3, 12, 9)), (12, 9)
    row, column = draws(0, height), draws(0, width)
    assert {0, height - 1} <= set(row.tolist())
    kept = set()
    for image, found, y, x in zip(
        images, cut_out(images, size, row, column), row.tolist(), column.tolist(), strict=True
    ):
        top, left = max(0, y - size // 2), max(0, x - size // 2)
        bottom, right = min(height, y - size // 2 + size), min(width, x - size // 2 + size)
        erased = reference.erase(image, top, left, bottom - top, right - left, torch.tensor(0, dtype=torch.uint8))
        assert torch.equal(found, erased)
        kept.add((bottom - top) * (right - left))
    assert max(kept) == size**2
    assert size == 1 or min(kept) < size**2


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("adjust", "expected"),
    [
        (adjust_brightness, reference.adjust_brightness),
        (adjust_contrast, reference.adjust_contrast),
        (adjust_saturation, reference.adjust_saturation),
    ],
)
def test_a_jitter_of_colours_is_the_one_of_torchvision(
    shape: tuple[int, int, int],
    adjust: Callable[[Tensor, Tensor], Tensor],
    expected: Callable[[Tensor, float], Tensor],
) -> None:
    images = images_of(shape).float()
    factors = torch.linspace(0, 2, SAMPLES)
    adjusted = adjust(images, factors)
    assert adjusted.min() >= 0
    assert adjusted.max() <= 255
    for image, found, factor in zip(images, adjusted, factors.tolist(), strict=True):
        torch.testing.assert_close(found / 255, expected(image / 255, factor), atol=2e-6, rtol=0)


def test_a_batch_is_changed_in_order_with_draws_of_the_generator_alone() -> None:
    images = images_of((3, 12, 9))
    untouched, global_state = images.clone(), torch.get_rng_state()
    found = augment(images, EVERYTHING, Generator().manual_seed(3))
    assert torch.equal(images, untouched)
    assert torch.equal(torch.get_rng_state(), global_state)
    assert (found.shape, found.dtype) == (images.shape, torch.float32)

    own = Generator().manual_seed(3)

    def uniform(strength: float) -> Tensor:
        return torch.empty(SAMPLES).uniform_(1 - strength, 1 + strength, generator=own)

    def integers(high: int) -> Tensor:
        return torch.randint(0, high, (SAMPLES,), generator=own)

    expected = crop(images, 2, integers(5), integers(5))
    expected = flip(expected, torch.rand(SAMPLES, generator=own) < 0.5).float()
    expected = adjust_brightness(expected, uniform(0.4))
    expected = adjust_saturation(adjust_contrast(expected, uniform(0.3)), uniform(0.9))
    expected = cut_out(expected, 4, integers(12), integers(9))
    assert torch.equal(found, expected)


def test_each_sample_has_its_own_draw_and_each_place_is_as_likely() -> None:
    samples = 5_000
    same = images_of((1, 8, 8), 1).expand(samples, 1, 8, 8)
    generator = Generator().manual_seed(1)
    places = augment(same, Augmentation(random_crop=RandomCrop(padding=2)), generator).flatten(1).unique(dim=0)
    assert len(places) == 5 * 5
    flipped = augment(same, Augmentation(horizontal_flip=0.3), generator)
    share = (flipped != same).flatten(1).any(1).double().mean().item()
    assert share == pytest.approx(0.3, abs=4 * (0.3 * 0.7 / samples) ** 0.5)
    holes = augment(same.clamp(min=1), Augmentation(cutout=Cutout(size=1)), generator) == 0
    assert torch.all(holes.sum(dim=(1, 2, 3)) == 1)
    assert holes.any(dim=0).all(), "corners and borders too"


def test_what_is_not_asked_for_changes_nothing_and_draws_nothing() -> None:
    images, generator = images_of((3, 12, 9)), Generator().manual_seed(1)
    before = generator.get_state()
    nothing = Augmentation(color_jitter=ColorJitter())
    assert torch.equal(augment(images, nothing, generator), images.float())
    assert torch.equal(augment(images, Augmentation(), generator), images)
    assert torch.equal(generator.get_state(), before)


class Seen:
    """Notes the inputs of each forward pass, by mode."""

    def __init__(self, state: TrainState) -> None:
        self.train: list[Tensor] = []
        self.eval: list[Tensor] = []
        state.network.register_forward_pre_hook(
            lambda network, args: (self.train if network.training else self.eval).append(args[0].clone())
        )


def test_training_images_alone_are_changed_anew_in_each_epoch(
    pictures: Callable[..., DeviceSplit], job: Callable[..., JobSpec], fresh: Callable[[JobSpec], TrainState]
) -> None:
    train, validation = pictures(50), pictures(20, seed=1)

    def seen(**training: Any) -> Seen:
        spec = job({"name": "mlp"}, epochs=2, batch_size=50, evaluate_before_training=True, **training)
        state = fresh(spec)
        found = Seen(state)
        list(fit(state, spec.training, train, validation))
        return found

    plain = seen()
    augmented = seen(augmentation={"random_crop": {"padding": 2}, "horizontal_flip": 0.5, "cutout": {"size": 3}})
    assert all(torch.equal(a, b) for a, b in zip(plain.eval, augmented.eval, strict=True))
    assert len(augmented.eval) == 4, "epoch 0 on both splits, then two validations"
    (first, second), (plain_first, plain_second) = augmented.train, plain.train
    black = train.batch(slice(0, 1), torch.zeros_like)[0].min()
    assert (first == black).sum() > (plain_first == black).sum() + 50 * 9 / 2

    # With the order of samples undone, as the sampler drew it, each sample was changed in another way.
    sampler = torch.Generator().manual_seed(7)
    orders = [torch.randperm(50, generator=sampler).argsort() for _ in range(2)]
    assert torch.equal(plain_first[orders[0]], plain_second[orders[1]])
    different = (first[orders[0]] != second[orders[1]]).flatten(1).any(1)
    assert different.sum() > 45


def test_the_draws_are_not_those_of_the_order_of_samples(
    job: Callable[..., JobSpec], fresh: Callable[[JobSpec], TrainState]
) -> None:
    spec = job({"name": "mlp"})
    state, again = fresh(spec), fresh(spec)
    drawn = torch.randint(0, 9, (100,), generator=state.augmenter)
    assert not torch.equal(drawn, torch.randint(0, 9, (100,), generator=state.sampler))
    assert torch.equal(drawn, torch.randint(0, 9, (100,), generator=again.augmenter))


def test_a_padding_that_could_leave_nothing_of_an_image_is_refused(job: Callable[..., JobSpec]) -> None:
    job({"name": "mlp"}, augmentation={"random_crop": {"padding": 7}})
    with pytest.raises(InvalidSpec, match=r"training\.augmentation\.random_crop\.padding: .*8 pixels"):
        job({"name": "mlp"}, augmentation={"random_crop": {"padding": 8}})
