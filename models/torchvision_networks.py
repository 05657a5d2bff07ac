"""The classifiers that torchvision lists, and the image sides that each of them takes."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, WithJsonSchema
from pydantic_core import PydanticKnownError

from models.layers import Shape
from models.network import NetworkDoesNotFit


@dataclass(frozen=True)
class Sides:
    """The image sides, in pixels, that a network takes: from the smallest up, and only multiples of `multiple_of`.

    A network that takes multiples only is built for one size, and its images are square.
    """

    smallest: int
    multiple_of: int = 1


# Where convolutions and pools run out of pixels; torchvision's own `min_size` says the same or asks for more.
_BY_SMALLEST_SIDE = {
    1: """
        efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_b4 efficientnet_b5 efficientnet_b6
        efficientnet_b7 efficientnet_v2_l efficientnet_v2_m efficientnet_v2_s mnasnet0_5 mnasnet0_75 mnasnet1_0
        mnasnet1_3 mobilenet_v2 mobilenet_v3_large mobilenet_v3_small regnet_x_16gf regnet_x_1_6gf regnet_x_32gf
        regnet_x_3_2gf regnet_x_400mf regnet_x_800mf regnet_x_8gf regnet_y_128gf regnet_y_16gf regnet_y_1_6gf
        regnet_y_32gf regnet_y_3_2gf regnet_y_400mf regnet_y_800mf regnet_y_8gf resnet101 resnet152 resnet18 resnet34
        resnet50 resnext101_32x8d resnext101_64x4d resnext50_32x4d shufflenet_v2_x0_5 shufflenet_v2_x1_0
        shufflenet_v2_x1_5 shufflenet_v2_x2_0 wide_resnet101_2 wide_resnet50_2
    """,
    4: "swin_b swin_s swin_t swin_v2_b swin_v2_s swin_v2_t",
    15: "googlenet",
    17: "squeezenet1_1",
    21: "squeezenet1_0",
    29: "densenet121 densenet161 densenet169 densenet201",
    32: """
        convnext_base convnext_large convnext_small convnext_tiny vgg11 vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn vgg19
        vgg19_bn
    """,
    63: "alexnet",
    75: "inception_v3",
}
# Images are cut into patches (vit), or halved five times and then cut into 7x7 windows (maxvit).
_BY_MULTIPLE = {14: "vit_h_14", 16: "vit_b_16 vit_l_16", 32: "vit_b_32 vit_l_32", 224: "maxvit_t"}

CLASSIFIERS: dict[str, Sides] = {
    **{name: Sides(side) for side, names in _BY_SMALLEST_SIDE.items() for name in names.split()},
    **{name: Sides(side, multiple_of=side) for side, names in _BY_MULTIPLE.items() for name in names.split()},
}


def _known(name: str) -> str:
    if name not in CLASSIFIERS:
        *others, last = [repr(known) for known in sorted(CLASSIFIERS)]
        raise PydanticKnownError("literal_error", {"expected": f"{', '.join(others)} or {last}"})
    return name


Architecture = Annotated[str, AfterValidator(_known), WithJsonSchema({"type": "string", "enum": sorted(CLASSIFIERS)})]


def require_fits(architecture: str, input_shape: Shape) -> None:
    """Raise NetworkDoesNotFit with a sentence where the network cannot take samples of `input_shape`."""
    if len(input_shape) != 3 or input_shape[0] not in (1, 3):
        raise NetworkDoesNotFit(
            f"{architecture} takes colour or grey images (channels, height, width), and these data have {input_shape}."
        )
    sides = CLASSIFIERS[architecture]
    _, height, width = input_shape
    if min(height, width) < sides.smallest:
        raise NetworkDoesNotFit(
            f"{architecture} takes images of {sides.smallest}x{sides.smallest} pixels or more, and these have "
            f"{height}x{width}: set dataset.resize to {sides.smallest} or more."
        )
    if sides.multiple_of > 1 and (height != width or height % sides.multiple_of):
        nearest = max(sides.multiple_of, round(max(height, width) / sides.multiple_of) * sides.multiple_of)
        raise NetworkDoesNotFit(
            f"{architecture} takes square images whose side is a multiple of {sides.multiple_of} pixels, and these "
            f"have {height}x{width}: set dataset.resize, to {nearest} for example."
        )
