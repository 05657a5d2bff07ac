"""Random changes of training images, for a whole batch at once on its device; each sample has a draw of its own.

Images are uint8 or float32 (N, C, H, W) with pixels from 0 to 255, before normalisation: black is 0.
"""

import torch
from torch import Generator, Tensor
from torch.nn import functional

from models.training_spec import Augmentation, ColorJitter

_WHITE = 255.0
_LUMA = (0.2989, 0.587, 0.114)  # of red, green and blue, as torchvision has them (ITU-R BT.601)


def augment(images: Tensor, wanted: Augmentation, generator: Generator) -> Tensor:
    """Crop, flip, jitter and cut out, in this order, with draws from `generator`, which is on the images' device."""
    samples, _, height, width = images.shape

    def draw(low: int, high: int) -> Tensor:
        return torch.randint(low, high, (samples,), generator=generator, device=images.device)

    if wanted.random_crop is not None:
        padding = wanted.random_crop.padding
        images = crop(images, padding, top=draw(0, 2 * padding + 1), left=draw(0, 2 * padding + 1))
    if wanted.horizontal_flip:
        chances = torch.rand(samples, generator=generator, device=images.device)
        images = flip(images, chances < wanted.horizontal_flip)
    if wanted.color_jitter is not None:
        images = _jitter(images.float(), wanted.color_jitter, generator)
    if wanted.cutout is not None:
        images = cut_out(images, wanted.cutout.size, row=draw(0, height), column=draw(0, width))
    return images


def crop(images: Tensor, padding: int, top: Tensor, left: Tensor) -> Tensor:
    """Cut images of the same size out of the zero-padded ones; `top` and `left` (N,) are from 0 to 2 * padding."""
    samples, channels, height, width = images.shape
    device = images.device
    padded = functional.pad(images, (padding, padding, padding, padding))
    rows = top[:, None] + torch.arange(height, device=device)
    columns = left[:, None] + torch.arange(width, device=device)
    sample = torch.arange(samples, device=device)[:, None, None, None]
    channel = torch.arange(channels, device=device)[None, :, None, None]
    return padded[sample, channel, rows[:, None, :, None], columns[:, None, None, :]]


def flip(images: Tensor, chosen: Tensor) -> Tensor:
    """Mirror the `chosen` images, bool (N,), left to right."""
    return torch.where(_per_image(chosen), images.flip(-1), images)


def cut_out(images: Tensor, size: int, row: Tensor, column: Tensor) -> Tensor:
    """Blacken in each image a square of `size` pixels around (row, column), int64 (N,) each.

    What lies outside the image is lost, as in DeVries and Taylor, 2017: some images keep more than others.
    """
    height, width = images.shape[-2:]
    inside = _within(height, size, row)[:, None, :, None] & _within(width, size, column)[:, None, None, :]
    return images.masked_fill(inside, 0)


def adjust_brightness(images: Tensor, factors: Tensor) -> Tensor:
    """Blend float images with black; this and the next two are torchvision's functions with a factor per image."""
    return _blend(images, torch.zeros_like(images), factors)


def adjust_contrast(images: Tensor, factors: Tensor) -> Tensor:
    """Blend float images with the mean grey of each."""
    return _blend(images, _grey(images).mean(dim=(1, 2, 3), keepdim=True), factors)


def adjust_saturation(images: Tensor, factors: Tensor) -> Tensor:
    """Blend float images with their own grey."""
    return _blend(images, _grey(images), factors)


def _jitter(images: Tensor, wanted: ColorJitter, generator: Generator) -> Tensor:
    """Adjust brightness, then contrast, then saturation; one order for all, where torchvision draws one per image."""
    for adjust, strength in (
        (adjust_brightness, wanted.brightness),
        (adjust_contrast, wanted.contrast),
        (adjust_saturation, wanted.saturation),
    ):
        if strength:
            factors = torch.empty(len(images), device=images.device)
            images = adjust(images, factors.uniform_(1 - strength, 1 + strength, generator=generator))
    return images


def _blend(images: Tensor, others: Tensor, factors: Tensor) -> Tensor:
    weights = _per_image(factors)
    return (weights * images + (1 - weights) * others).clamp(0, _WHITE)


def _grey(images: Tensor) -> Tensor:
    if images.shape[1] == 1:
        return images
    red, green, blue = (weight * channel for weight, channel in zip(_LUMA, images.unbind(1), strict=True))
    return (red + green + blue)[:, None]


def _within(length: int, size: int, centre: Tensor) -> Tensor:
    """Return bool (N, length): which pixels are among the `size` around each centre."""
    start = centre - size // 2
    pixels = torch.arange(length, device=centre.device)
    return (pixels >= start[:, None]) & (pixels < start[:, None] + size)


def _per_image(values: Tensor) -> Tensor:
    return values[:, None, None, None]
