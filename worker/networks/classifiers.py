"""torchvision's classifiers, built for our data: their outputs, their image size, grey images, weights from a file."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from models.layers import Shape
from models.presets import Torchvision
from worker.networks.weights import load_weights


class GreyToColour(nn.Module):
    """One channel as three equal ones: (batch, 1, height, width) to (batch, 3, height, width)."""

    def forward(self, images: Tensor) -> Tensor:
        """Repeat the channel without copying it."""
        return images.expand(-1, 3, -1, -1)


def build_classifier(network: Torchvision, input_shape: Shape, outputs: int, weights_directory: Path) -> nn.Module:
    """Build the classifier for images of `input_shape`, (1 or 3, height, width), to put out (batch, outputs).

    Raises NetworkDoesNotFit where it cannot take the images, InvalidData naming a file of weights that does not suit.
    """
    # Importing it takes more than a second, which other jobs need not spend.
    from torchvision.models import get_model

    network.require_fits(input_shape)
    channels, height, width = input_shape
    module: nn.Module = get_model(
        network.architecture, weights=None, num_classes=outputs, **_options(network.architecture, height, width)
    )
    if network.weights is not None:
        load_weights(module, weights_directory / network.weights)
    return nn.Sequential(GreyToColour(), module) if channels == 1 else module


def _options(architecture: str, height: int, width: int) -> dict[str, Any]:
    if architecture in ("googlenet", "inception_v3"):
        # Auxiliary heads would put out more than logits; `init_weights` unsaid is today's default, with a warning.
        return {"aux_logits": False, "init_weights": True}
    if architecture.startswith("vit_"):
        return {"image_size": height}
    if architecture.startswith("maxvit_"):
        return {"input_size": (height, width)}
    return {}
