"""Weights from a file that an administrator placed: read without running any code, and matched tensor by tensor."""

import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from models.errors import InvalidData

# Heads that we build googlenet and inception_v3 without; torchvision's own files have them.
_LEFT_OFF = ("aux1.", "aux2.", "AuxLogits.")
# Names in torchvision's files of densenet, from before module names could not contain dots.
_OLD_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)$")


def load_weights(network: nn.Module, file: Path) -> None:
    """Load the file's tensors into the network; a last layer of another number of outputs keeps its random start.

    Raises InvalidData naming the file where it is missing or damaged, and the tensor where one does not match.
    """
    found = _read(file)
    own = network.state_dict()
    head = _head(network)
    for name, tensor in found.items():
        _require_known(file, name, own)
        if not bool(torch.isfinite(tensor).all()):
            raise InvalidData(f"Weights file {file.name}: its tensor {name} holds values that are not finite.")
        if not _fits(tensor, own[name]) and not _is_other_head(name, tensor, own[name], head):
            raise InvalidData(
                f"Weights file {file.name}: its tensor {name} is {_described(tensor)}, "
                f"and the network's is {_described(own[name])}."
            )
    for name in own:
        # Files from before batch norm counted its batches are complete without the counts.
        if name not in found and not name.endswith("num_batches_tracked"):
            raise InvalidData(f"Weights file {file.name}: the network's tensor {name} is missing in it.")
    matching = OrderedDict((name, tensor) for name, tensor in found.items() if _fits(tensor, own[name]))
    # Some of torchvision's networks read the version of their file here; safetensors has no place for it.
    matching._metadata = getattr(found, "_metadata", None) or own._metadata  # type: ignore[attr-defined]  # noqa: SLF001
    network.load_state_dict(matching, strict=False)


def _read(file: Path) -> Mapping[str, Tensor]:
    if not file.is_file():
        raise InvalidData(f"Weights file {file.name} is not in the directory of weights.")
    try:
        found = load_file(file) if file.suffix == ".safetensors" else _unpickle(file)
    except Exception as error:  # noqa: BLE001 - a damaged file breaks its reader anywhere
        raise InvalidData(
            f"Weights file {file.name} cannot be read ({type(error).__name__}): it is damaged, or holds something "
            "else than a state_dict, as a whole pickled network does."
        ) from None
    if not isinstance(found, dict) or not all(_is_plain(tensor) for tensor in found.values()):
        raise InvalidData(f"Weights file {file.name} does not hold plain tensors by name, as a state_dict does.")
    return _named_as_today(found)


def _is_plain(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta


def _unpickle(file: Path) -> Any:
    return torch.load(file, map_location="cpu", weights_only=True)


def _named_as_today(found: dict[str, Tensor]) -> Mapping[str, Tensor]:
    renamed = OrderedDict(
        (_OLD_DENSENET.sub(r"\1\2", str(name)), tensor)
        for name, tensor in found.items()
        if not str(name).startswith(_LEFT_OFF)
    )
    if hasattr(found, "_metadata"):
        renamed._metadata = found._metadata  # type: ignore[attr-defined]  # noqa: SLF001
    return renamed


def _head(network: nn.Module) -> str:
    """Return the name of the layer that puts out the logits: the last linear layer or convolution."""
    names: list[str] = [name for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    return names[-1]


def _require_known(file: Path, name: str, own: Mapping[str, Tensor]) -> None:
    if name not in own:
        raise InvalidData(f"Weights file {file.name}: its tensor {name} is none of the network's.")


def _fits(tensor: Tensor, own: Tensor) -> bool:
    return tensor.shape == own.shape and tensor.is_floating_point() == own.is_floating_point()


def _is_other_head(name: str, tensor: Tensor, own: Tensor, head: str) -> bool:
    same_but_for_outputs = tensor.shape[1:] == own.shape[1:] and tensor.is_floating_point()
    return name.rpartition(".")[0] == head and tensor.ndim > 0 and same_but_for_outputs


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
