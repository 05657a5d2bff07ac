"""Networks by name: which layers their parameters make, and what is refused before anything is built."""

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from models.layers import Layer, Shape
from models.network import NetworkDoesNotFit, summarise
from models.presets import Network, Torchvision
from models.torchvision_networks import CLASSIFIERS

NETWORK: TypeAdapter[Network] = TypeAdapter(Network)


def layers_of(network: dict[str, Any], outputs: int = 10) -> list[Layer]:
    validated = NETWORK.validate_python(network)
    assert not isinstance(validated, Torchvision)
    return validated.layer_list(outputs)


def kinds(network: dict[str, Any]) -> list[str]:
    """Return the kinds of a network's layers, those of a residual after it."""
    return [place.kind for place in summarise(layers_of(network), (3, 32, 32)).places()]


def error_of(network: dict[str, Any]) -> tuple[str, tuple[int | str, ...], str]:
    with pytest.raises(ValidationError) as refused:
        NETWORK.validate_python(network)
    (error,) = refused.value.errors()
    return error["type"], error["loc"], error["msg"]


@pytest.mark.parametrize("name", ["lenet", "cnn", "mlp", "resnet"])
@pytest.mark.parametrize("outputs", [1, 7])
def test_a_preset_puts_out_as_many_values_as_are_asked_for(name: str, outputs: int) -> None:
    assert summarise(layers_of({"name": name}, outputs), (1, 32, 32)).output_shape == (outputs,)


@pytest.mark.parametrize(
    ("placed", "expected"),
    [
        (False, ["conv2d", "relu", "max_pool2d"]),
        (True, ["conv2d", "batch_norm2d", "relu", "max_pool2d"]),
        ("before_activation", ["conv2d", "batch_norm2d", "relu", "max_pool2d"]),
        ("after_activation", ["conv2d", "relu", "batch_norm2d", "max_pool2d"]),
    ],
)
def test_a_cnn_has_its_batch_norm_where_it_was_asked_for(placed: bool | str, expected: list[str]) -> None:
    found = kinds({"name": "cnn", "channels": [4, 4], "hidden": [], "batch_norm": placed})
    assert found == [*expected, *expected, "flatten", "linear"]


def test_a_cnn_drops_channels_after_each_pooling_and_units_after_each_hidden_activation() -> None:
    network = {"name": "cnn", "channels": [4], "dropout2d": 0.1, "hidden": [8, 6], "dropout": 0.2, "activation": "gelu"}
    hidden = ["linear", "gelu", "dropout"]
    assert kinds(network) == ["conv2d", "gelu", "max_pool2d", "dropout2d", "flatten", *hidden, *hidden, "linear"]


def test_a_resnet_drops_channels_right_after_each_convolution_and_places_its_batch_norms_apart() -> None:
    network = {
        "name": "resnet",
        "dropout2d": 0.1,
        "batch_norm": "before_activation",
        "stem_batch_norm": "after_activation",
        "activation": "leaky_relu",
        "hidden": [],
    }
    stem = ["conv2d", "dropout2d", "leaky_relu", "batch_norm2d", "max_pool2d"]
    block = ["residual", "conv2d", "dropout2d", "batch_norm2d", "leaky_relu"]
    assert kinds(network) == [*stem, *block, "max_pool2d", "flatten", "linear"]


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "gelu", "tanh", "sigmoid"])
def test_every_activation_can_stand_in_every_preset(activation: str) -> None:
    for name in ("cnn", "mlp", "resnet"):
        found = kinds({"name": name, "activation": activation, "hidden": [8]})
        assert activation in found
        assert not {"relu", "leaky_relu", "gelu", "tanh", "sigmoid"} & set(found) - {activation}


@pytest.mark.parametrize("value", ["before", "", None, 1, "yes"])
def test_a_batch_norm_that_is_nowhere_is_refused_in_one_error(value: Any) -> None:
    code, loc, message = error_of({"name": "cnn", "batch_norm": value})
    assert (code, loc) == ("literal_error", ("cnn", "batch_norm"))
    assert message == "Input should be true, false, 'before_activation' or 'after_activation'"


def test_an_unknown_classifier_of_torchvision_is_refused_with_those_that_are_known() -> None:
    code, loc, message = error_of({"name": "torchvision", "architecture": "resnet19"})
    assert (code, loc) == ("literal_error", ("torchvision", "architecture"))
    assert message.startswith("Input should be 'alexnet', 'convnext_base', ")
    assert message.endswith(" or 'wide_resnet50_2'")


@pytest.mark.parametrize("file", ["resnet18.pth", "resnet18-f37072fd.pt", "a_1.safetensors"])
def test_weights_are_named_by_their_file(file: str) -> None:
    network = NETWORK.validate_python({"name": "torchvision", "architecture": "resnet18", "weights": file})
    assert isinstance(network, Torchvision)
    assert network.weights == file


@pytest.mark.parametrize(
    "file", ["", ".pth", "../a.pth", "a/b.pth", "a\\b.pth", "..", "a.zip", "a.pth\n", "a\0.pth", "/etc/a.pth", "é.pth"]
)
def test_a_name_that_could_lead_out_of_the_directory_of_weights_is_refused(file: str) -> None:
    code, loc, _ = error_of({"name": "torchvision", "architecture": "resnet18", "weights": file})
    assert (code, loc) == ("string_pattern_mismatch", ("torchvision", "weights"))


@pytest.mark.parametrize(
    ("architecture", "shape", "message"),
    [
        (
            "alexnet",
            (3, 32, 32),
            "alexnet takes images of 63x63 pixels or more, and these have 32x32: set dataset.resize to 63 or more.",
        ),
        (
            "vit_b_16",
            (1, 28, 28),
            (
                "vit_b_16 takes square images whose side is a multiple of 16 pixels, and these have 28x28: "
                "set dataset.resize, to 32 for example."
            ),
        ),
        (
            "vit_b_16",
            (3, 32, 48),
            (
                "vit_b_16 takes square images whose side is a multiple of 16 pixels, and these have 32x48: "
                "set dataset.resize, to 48 for example."
            ),
        ),
        (
            "maxvit_t",
            (3, 32, 32),
            "maxvit_t takes images of 224x224 pixels or more, and these have 32x32: set dataset.resize to 224 or more.",
        ),
        (
            "resnet18",
            (5,),
            "resnet18 takes colour or grey images (channels, height, width), and these data have (5,).",
        ),
        (
            "resnet18",
            (4, 32, 32),
            "resnet18 takes colour or grey images (channels, height, width), and these data have (4, 32, 32).",
        ),
    ],
)
def test_data_that_a_classifier_cannot_take_are_refused_with_what_to_do(
    architecture: str, shape: Shape, message: str
) -> None:
    with pytest.raises(NetworkDoesNotFit) as refused:
        Torchvision(architecture=architecture).require_fits(shape)
    assert str(refused.value) == message


@pytest.mark.parametrize("architecture", CLASSIFIERS)
def test_every_classifier_takes_grey_and_colour_images_of_its_smallest_side(architecture: str) -> None:
    side = CLASSIFIERS[architecture].smallest
    for channels in (1, 3):
        Torchvision(architecture=architecture).require_fits((channels, side, side))
    if side > 1:
        with pytest.raises(NetworkDoesNotFit):
            Torchvision(architecture=architecture).require_fits((3, side, side - 1))


def test_the_names_of_all_classifiers_are_in_the_schema() -> None:
    names = NETWORK.json_schema()["$defs"]["Torchvision"]["properties"]["architecture"]["enum"]
    assert names == sorted(CLASSIFIERS)
