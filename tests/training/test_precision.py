"""The precision of a job: what torch is told, that it has an effect everywhere, and that half precision learns."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from harness.training import Fresh, MakeJob, MakeSplit
from models.errors import NonFiniteLoss
from models.training_spec import TrainingSpec
from worker.training.latency import measure_latency
from worker.training.loop import evaluate, fit, train_one_epoch
from worker.training.optimizers import build_optimizer
from worker.training.precision import prepare_precision
from worker.training.state import TrainState

# torch 2.11 says so of a setting that its newer versions keep without a word.
pytestmark = pytest.mark.filterwarnings("ignore:Please use the new API settings:UserWarning")

CNN: dict[str, Any] = {"name": "cnn", "channels": [8], "batch_norm": True, "hidden": [16]}
HALVES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@pytest.fixture
def torch_as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo what is set for the whole process."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "as it was")
    precision, tf32 = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    benchmark, deterministic = torch.backends.cudnn.benchmark, torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = benchmark
    torch.use_deterministic_algorithms(deterministic)


@pytest.mark.usefixtures("torch_as_it_was")
@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16", "float16"])
def test_tf32_is_on_where_it_is_asked_for_and_nowhere_else(precision: str) -> None:
    for before in ("float32", "tf32"):
        prepare_precision(TrainingSpec.model_validate({"precision": before}))
        prepare_precision(TrainingSpec.model_validate({"precision": precision}))
        products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
        assert products.allow_tf32 == (products.fp32_precision == "tf32") == (precision == "tf32")
        of_each: str = convolutions.conv.fp32_precision  # type: ignore[attr-defined]
        assert convolutions.allow_tf32 == (of_each == "tf32") == (precision == "tf32")


# In a process of its own: that is what torch keeps these for, and what CUDA reads them from.
DETERMINISM = """
import os, torch
from models.training_spec import TrainingSpec
from worker.training.optimizers import build_optimizer
from worker.training.precision import prepare_precision
for deterministic in (False, True):
    prepare_precision(TrainingSpec(deterministic=deterministic))
    print(torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark, end=" ")
    print(os.environ.get("CUBLAS_WORKSPACE_CONFIG"))
"""


def test_a_deterministic_job_tells_torch_and_cublas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    told = subprocess.run([sys.executable, "-c", DETERMINISM], capture_output=True, text=True, check=True)
    assert told.stdout.splitlines() == ["False False None", "True False :4096:8"]


@pytest.mark.usefixtures("torch_as_it_was")
def test_a_deterministic_job_trains(pictures: MakeSplit, job: MakeJob, fresh: Fresh) -> None:
    augmentation = {"random_crop": {}, "horizontal_flip": 0.5, "color_jitter": {"contrast": 0.3}, "cutout": {"size": 3}}
    spec = job(CNN, epochs=2, deterministic=True, augmentation=augmentation, l2_penalty=1e-3, gradient_clip_norm=1.0)
    prepare_precision(spec.training)
    state = fresh(spec)
    assert len(list(fit(state, spec.training, pictures(80), pictures(30, seed=1)))) == 2


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("optimizer", [{"name": "sgd", "momentum": 0.9}, {"name": "adam", "learning_rate": 0.005}])
def test_half_precision_learns_what_float32_learns_with_other_roundings(
    pictures: MakeSplit, job: MakeJob, fresh: Fresh, precision: str, optimizer: dict[str, Any]
) -> None:
    train, validation = pictures(200), pictures(60, seed=1)

    def trained(precision: str) -> tuple[TrainState, float]:
        spec = job(CNN, epochs=4, batch_size=20, optimizer=optimizer, precision=precision, gradient_clip_norm=5.0)
        state = fresh(spec)
        list(fit(state, spec.training, train, validation))
        return state, evaluate(state, validation).loss

    state, loss = trained(precision)
    full_state, full_loss = trained("float32")
    assert [m.train_loss for m in state.history] != [m.train_loss for m in full_state.history]
    assert loss != full_loss
    # Roundings grow with every step; at first they are small.
    assert state.history[0].train_loss == pytest.approx(full_state.history[0].train_loss, rel=0.05)
    assert state.history[-1].train_loss < 0.7 * state.history[0].train_loss
    assert all(parameter.dtype == torch.float32 for parameter in state.network.parameters())


@pytest.mark.parametrize("precision", HALVES)
def test_every_forward_pass_is_in_the_precision_of_the_job_and_every_loss_in_float32(
    pictures: MakeSplit, job: MakeJob, fresh: Fresh, precision: str
) -> None:
    train, validation = pictures(40), pictures(20, seed=1)
    spec = job(CNN, epochs=1, precision=precision, evaluate_before_training=True)
    state = fresh(spec)
    outputs: list[Tensor] = []
    state.network.register_forward_hook(lambda network, inputs, output: outputs.append(output.detach()))
    list(fit(state, spec.training, train, validation))
    evaluate(state, validation)
    measure_latency(state, validation)
    assert {output.dtype for output in outputs} == {HALVES[precision]}

    # Losses of half precision outputs, added up in it, would be off by more than this.
    logits = state.forward(validation.batch(slice(None))[0])
    assert logits.dtype == torch.float32
    expected = torch.nn.functional.cross_entropy(logits.double(), validation.targets)
    assert evaluate(state, validation).loss == pytest.approx(expected.item(), rel=1e-6)


def test_a_step_whose_scaled_gradients_overflow_is_left_out_and_no_error(
    pictures: MakeSplit, job: MakeJob, fresh: Fresh
) -> None:
    train = pictures(40)
    spec = job(CNN, epochs=1, batch_size=40, precision="float16")
    state = fresh(spec)
    state.scaler.load_state_dict(state.scaler.state_dict() | {"scale": 2.0**60})
    before = [parameter.detach().clone() for parameter in state.network.parameters()]
    loss, _, _ = train_one_epoch(state, spec.training, train, epoch=1)
    assert 0 < loss < 10
    assert all(torch.equal(a, b) for a, b in zip(before, state.network.parameters(), strict=True))
    assert state.scaler.get_scale() == 2.0**59

    state.scaler.load_state_dict(state.scaler.state_dict() | {"scale": 2.0**10})
    train_one_epoch(state, spec.training, train, epoch=1)
    assert not any(torch.equal(a, b) for a, b in zip(before, state.network.parameters(), strict=True))


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "rmsprop"])
def test_the_fused_kernels_of_loss_scaling_on_a_gpu_make_the_same_steps_and_leave_out_the_same(
    pictures: MakeSplit, job: MakeJob, fresh: Fresh, name: str
) -> None:
    train = pictures(60)
    spec = job(CNN, epochs=1, batch_size=20, optimizer={"name": name}, precision="float16", gradient_clip_norm=0.1)

    def trained(*, fused: bool, scale: float) -> Tensor:
        state = fresh(spec)
        state.optimizer = build_optimizer(state.network, spec.training.optimizer, fused=fused)
        state.scaler.load_state_dict(state.scaler.state_dict() | {"scale": scale})
        train_one_epoch(state, spec.training, train, epoch=1)
        return parameters_to_vector(state.network.parameters()).detach()

    untrained = parameters_to_vector(fresh(spec).network.parameters()).detach()
    assert torch.equal(trained(fused=True, scale=2.0**60), untrained)
    fused = trained(fused=True, scale=2.0**10)
    assert not torch.equal(fused, untrained)
    torch.testing.assert_close(fused, trained(fused=False, scale=2.0**10), atol=1e-4, rtol=0)


def test_loss_scaling_is_taken_back_before_gradients_are_clipped(
    pictures: MakeSplit, job: MakeJob, fresh: Fresh
) -> None:
    train = pictures(40)

    def moved_by(precision: str) -> float:
        spec = job(CNN, epochs=1, batch_size=40, precision=precision, learning_rate=1.0, gradient_clip_norm=1e-3)
        state = fresh(spec)
        before = parameters_to_vector(state.network.parameters()).detach()
        train_one_epoch(state, spec.training, train, epoch=1)
        return float((parameters_to_vector(state.network.parameters()).detach() - before).norm())

    assert moved_by("float32") == pytest.approx(1e-3, rel=1e-3)
    assert moved_by("float16") == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_loss_that_is_not_finite_names_its_step_in_half_precision_too(
    pictures: MakeSplit, job: MakeJob, fresh: Fresh, precision: str
) -> None:
    spec = job(
        {"name": "mlp", "hidden": [32] * 8}, epochs=20, batch_size=50, learning_rate=1_000.0, precision=precision
    )
    state = fresh(spec)
    with pytest.raises(NonFiniteLoss, match=r"epoch \d+, step [12] of 2\.$"):
        list(fit(state, spec.training, pictures(100), None))
