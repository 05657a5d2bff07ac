"""What is inside of each recipe: its layers, data and training, held to the table of the reference runs."""

from pathlib import Path
from typing import Any

import pytest

from models import layers as kinds
from models.dataset_spec import NamedDataset, TableDataset
from models.layers import Layer
from models.recipes import Recipe, get

PAGE = Path(__file__).parents[3] / "shared" / "reference-runs.md"
CONV_32 = "C(3,32,3,1)"
TO_TEN = "P F L(2048,32) relu L(32,10)"

# In the notation of the reference page: C(in,out,kernel,padding), a * where there is no bias; P max pooling by 2;
# F flatten; L(in,out); D and D2 dropout; BN(channels); 10x[...] a block with its input added, all with shared weights.
NETWORKS = {
    "lenet": "C(3,6,5,0) relu P C(6,16,5,0) relu P C(16,120,5,0) relu F L(120,84) relu L(84,10)",
    "lenet-dropout": "C(3,6,5,0) relu P C(6,16,5,0) relu D(0.5) P C(16,120,5,0) relu F L(120,84) relu L(84,10)",
    "lenet-dropout-bn": (
        "C(3,6,5,0) BN(6) relu P C(6,16,5,0) relu D(0.5) P C(16,120,5,0) relu F L(120,84) relu L(84,10)"
    ),
    "cnn2-tanh": "C(3,16,3,1) tanh P C(16,8,3,1) tanh P F L(512,32) tanh L(32,10)",
    "cnn3-tanh": "C(3,16,3,1) tanh P C(16,8,3,1) tanh P C(8,4,3,1) tanh P F L(64,32) tanh L(32,10)",
    "resnet10-bn": f"{CONV_32} relu P 10x[C(32,32,3,1)*he BN(32)=0.5 relu] {TO_TEN}",
    "cnn2-wide-l2": f"{CONV_32} tanh P C(32,16,3,1) tanh P F L(1024,32) tanh L(32,10)",
    "cnn2-wide-dropout": f"{CONV_32} tanh P D2(0.3) C(32,16,3,1) tanh P D2(0.3) F L(1024,32) tanh L(32,10)",
    "cnn2-wide-bn": f"{CONV_32} BN(32) tanh P C(32,16,3,1) BN(16) tanh P F L(1024,32) tanh L(32,10)",
    "cnn2-relu": f"{CONV_32} relu P C(32,16,3,1) relu P F L(1024,32) relu L(32,10)",
    "cnn3-relu": f"{CONV_32} relu P C(32,16,3,1) relu P C(16,8,3,1) relu P F L(128,32) tanh L(32,10)",
    "resnet10": f"{CONV_32} relu P 10x[C(32,32,3,1) relu] {TO_TEN}",
    "resnet10-l2": f"{CONV_32} relu P 10x[C(32,32,3,1) relu] {TO_TEN}",
    "resnet10-dropout": f"{CONV_32} D2(0.3) relu P 10x[C(32,32,3,1) D2(0.3) relu] {TO_TEN}",
    "resnet10-bn-after-relu": f"{CONV_32} relu BN(32) P 10x[C(32,32,3,1)* relu BN(32)] {TO_TEN}",
    "mlp-512": "F L(3072,512) tanh L(512,10)",
    "mlp-512-256-128": "F L(3072,512) tanh L(512,256) tanh L(256,128) tanh L(128,10)",
    "mlp-512-1024-256": "F L(3072,512) tanh L(512,1024) tanh L(1024,256) tanh L(256,10)",
    "housing-8": "F L(5,8) tanh L(8,1)",
    "housing-256-128-64": "F L(5,256) tanh L(256,128) tanh L(128,64) tanh L(64,1)",
    "housing-8-32-10": "F L(5,8) tanh L(8,32) tanh L(32,10) tanh L(10,1)",
}

# Batch size, learning rate, epochs, penalty. The learning rate of the lenets is not published.
TRAINING: dict[str, tuple[int, float, int, float]] = {
    "lenet": (128, 0.1, 50, 0.0),
    "lenet-dropout": (128, 0.1, 50, 0.0),
    "lenet-dropout-bn": (128, 0.1, 50, 0.0),
    "cnn2-tanh": (64, 1e-2, 300, 0.0),
    "cnn3-tanh": (64, 1e-2, 300, 0.0),
    "resnet10-bn": (32, 3e-3, 300, 0.0),
    "cnn2-wide-l2": (32, 1e-2, 300, 0.001),
    "cnn2-wide-dropout": (32, 1e-2, 300, 0.0),
    "cnn2-wide-bn": (32, 1e-2, 300, 0.0),
    "cnn2-relu": (1024, 1e-2, 300, 0.0),
    "cnn3-relu": (1024, 1e-2, 300, 0.0),
    "resnet10": (1024, 3e-3, 300, 0.0),
    "resnet10-l2": (1024, 3e-3, 300, 0.001),
    "resnet10-dropout": (1024, 3e-3, 300, 0.0),
    "resnet10-bn-after-relu": (1024, 3e-3, 300, 0.0),
    "mlp-512": (64, 1e-2, 200, 0.0),
    "mlp-512-256-128": (64, 1e-2, 200, 0.0),
    "mlp-512-1024-256": (1024, 1e-2, 300, 0.0),
    "housing-8": (545, 1e-2, 200, 0.0),
    "housing-256-128-64": (545, 1e-2, 200, 0.0),
    "housing-8-32-10": (545, 1e-2, 300, 0.0),
}

# Seconds, training loss, training accuracy, and the test accuracy: best, worst, last.
Figures = tuple[float | None, float | None, float | None, tuple[float | None, float | None, float | None]]
UNKNOWN = (None, None, None)
PUBLISHED: dict[str, Figures] = {
    "lenet": (12_585, None, None, (0.64, 0.42, 0.63)),
    "lenet-dropout": (12_314, None, None, (0.51, 0.35, 0.50)),
    "lenet-dropout-bn": (12_907, None, None, (0.55, 0.37, 0.53)),
    "cnn2-tanh": (4_560, 0.525, 0.77, (None, None, 0.60)),
    "cnn3-tanh": (4_620, 0.870, 0.66, (None, None, 0.62)),
    "resnet10-bn": (4_560, 0.0231, 1.0, (None, None, 0.67)),
    "cnn2-wide-l2": (4_380, 0.716, 0.85, (None, None, 0.68)),
    "cnn2-wide-dropout": (4_200, 0.870, 0.69, (None, None, 0.62)),
    "cnn2-wide-bn": (4_200, 0.070, None, UNKNOWN),
    "cnn2-relu": (919.63, 0.7506, 0.7409, (None, None, 0.6808)),
    "cnn3-relu": (892.96, 0.9916, 0.6496, (None, None, 0.6347)),
    "resnet10": (1_331.39, 0.4046, 0.8554, (None, None, 0.6435)),
    "resnet10-l2": (1_394.76, 0.4608, 0.8550, (None, None, 0.6412)),
    "resnet10-dropout": (1_071.67, 0.8524, 0.7037, (None, None, 0.6582)),
    "resnet10-bn-after-relu": (1_085.71, 0.2497, 0.9237, (None, None, 0.4561)),
    "mlp-512": (1_838.73, 0.0151, None, (None, None, 0.4674)),
    "mlp-512-256-128": (1_859.54, 0.00038, None, (None, None, 0.4592)),
    "mlp-512-1024-256": (None, None, None, (None, None, 0.5)),
    "housing-8": (0.166, 0.0233, None, UNKNOWN),
    "housing-256-128-64": (0.297, 0.1608, None, UNKNOWN),
    "housing-8-32-10": (None, None, None, UNKNOWN),
}


def notation(layers: list[Layer], shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    """Write a list of layers in the notation of the reference page; return it and the shape that leaves the list."""
    words = []
    for layer in layers:
        words.append(word(layer, shape))
        if not isinstance(layer, kinds.Residual):
            shape = layer.output_shape(shape)
    return " ".join(words), shape


def word(layer: Layer, shape: tuple[int, ...]) -> str:
    match layer:
        case kinds.Conv2d(stride=1):
            start = {"default": "", "kaiming_normal": "he"}[layer.initialization]
            bias = "" if layer.bias else "*"
            return f"C({shape[0]},{layer.out_channels},{layer.kernel_size},{layer.padding}){bias}{start}"
        case kinds.Linear(bias=True, initialization="default"):
            return f"L({shape[0]},{layer.out_features})"
        case kinds.MaxPool2d(kernel_size=2, stride=None | 2, padding=0):
            return "P"
        case kinds.Flatten():
            return "F"
        case kinds.Dropout():
            return f"D({layer.probability})"
        case kinds.Dropout2d():
            return f"D2({layer.probability})"
        case kinds.BatchNorm2d():
            start = "" if layer.initial_weight is None else f"={layer.initial_weight}"
            return f"BN({shape[0]}){start}"
        case kinds.Relu() | kinds.Tanh():
            return layer.kind
        case kinds.Residual(share_weights=True):
            inside, after = notation(layer.layers, shape)
            assert after == shape
            return f"{layer.repeat}x[{inside}]"
    raise AssertionError(f"no layer of the reference page: {layer}")


def figures_of(recipe: Recipe) -> Figures:
    reference = recipe.reference
    test = reference.test_accuracy
    loss = reference.train_loss if reference.train_loss is not None else reference.train_loss_with_penalty
    tested = (test.best, test.worst, test.last) if test else UNKNOWN
    return reference.training_seconds, loss, reference.train_accuracy, tested


@pytest.mark.parametrize("name", NETWORKS)
def test_a_recipe_has_the_layers_of_its_row(name: str) -> None:
    spec = get(name).spec
    assert spec.network.name != "torchvision"
    written, output = notation(spec.network.layer_list(spec.dataset.outputs), spec.dataset.input_shape)
    assert written == NETWORKS[name]
    assert output == (spec.dataset.outputs,)


@pytest.mark.skipif(not PAGE.exists(), reason="the page of reference runs is not at hand")
def test_the_page_writes_the_same_networks_where_it_writes_them_out() -> None:
    page = PAGE.read_text()
    for name in ("lenet", "cnn2-tanh", "cnn3-tanh", "cnn2-relu", "cnn3-relu", "mlp-512", "mlp-512-256-128"):
        assert f"| {name} | {NETWORKS[name]} |" in page, name


@pytest.mark.parametrize("name", TRAINING)
def test_a_recipe_trains_as_its_row_says_and_in_no_other_way(name: str) -> None:
    training = get(name).spec.training
    batch_size, learning_rate, epochs, penalty = TRAINING[name]
    default: dict[str, Any] = type(training)(batch_size=batch_size, epochs=epochs, l2_penalty=penalty).model_dump()
    default["optimizer"]["learning_rate"] = learning_rate
    assert training.model_dump() == default


@pytest.mark.parametrize("name", NETWORKS)
def test_a_recipe_uses_the_data_of_its_row(name: str) -> None:
    dataset = get(name).spec.dataset
    if isinstance(dataset, NamedDataset):
        assert (dataset.name, dataset.resize, dataset.validation) == ("cifar10", None, "test")
        return
    assert isinstance(dataset, TableDataset)
    assert [feature.column for feature in dataset.features] == ["area", "bedrooms", "bathrooms", "stories", "parking"]
    assert (dataset.target, dataset.task, dataset.test_split, dataset.validation) == ("price", "regression", 0.2, 0)
    assert dataset.scaling == ("standard" if name == "housing-8-32-10" else "min_max")


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_has_the_figures_that_were_published(name: str) -> None:
    assert figures_of(get(name)) == PUBLISHED[name]
