"""Networks as data -> `nn.Module`, with the counts of what was built."""

from pathlib import Path

from torch import nn

from models.layers import Shape
from models.network import NetworkSummary, summarise
from models.presets import Network, Torchvision
from worker.networks.classifiers import build_classifier
from worker.networks.counting import summarise_module
from worker.networks.layers import build

__all__ = ["build", "build_network", "summarise_module"]


def build_network(
    network: Network, input_shape: Shape, outputs: int, weights_directory: Path
) -> tuple[nn.Module, NetworkSummary]:
    """Build a network for samples of `input_shape` (without the batch) that puts out (batch, outputs), and count it.

    Random weights come from torch's global generator; nothing is downloaded. Raises LayerDoesNotFit where the network
    cannot take the samples, NetworkTooLarge, and InvalidData naming a file of weights that does not suit it.
    """
    if isinstance(network, Torchvision):
        module = build_classifier(network, input_shape, outputs, weights_directory)
        return module, summarise_module(module, input_shape, name=network.architecture)
    layers = network.layer_list(outputs)
    return build(layers, input_shape), summarise(layers, input_shape)
