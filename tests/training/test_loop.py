"""The training loop: its numbers against loops and steps written out by hand."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from harness.training import LINEAR, Fresh, MakeJob, MakeSplit
from models.errors import NonFiniteLoss
from models.spec import JobSpec
from worker.training.data import DeviceSplit
from worker.training.loop import evaluate, fit, train_one_epoch
from worker.training.state import TrainState

DROPPING: dict[str, Any] = {
    "name": "sequential",
    "layers": [
        {"kind": "conv2d", "out_channels": 4, "kernel_size": 3},
        {"kind": "batch_norm2d"},
        {"kind": "relu"},
        {"kind": "dropout2d"},
        {"kind": "flatten"},
        {"kind": "dropout"},
        {"kind": "linear", "out_features": 10},
    ],
}


def weights_of(state: TrainState) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in state.network.parameters()]


def test_the_loss_is_the_mean_over_samples_and_not_over_batches(
    pictures: MakeSplit, job: MakeJob, fresh: Fresh
) -> None:
    train = pictures(9)
    # So small a learning rate leaves the weights as they are: every batch meets the initial network.
    spec = job(LINEAR, epochs=1, batch_size=8, learning_rate=1e-30)
    state = fresh(spec)
    before = weights_of(state)
    inputs, labels = train.batch(slice(None))
    with torch.no_grad():
        losses = functional.cross_entropy(state.network(inputs), labels, reduction="none")
    order = torch.randperm(9, generator=torch.Generator().manual_seed(7))
    mean_over_batches = torch.stack([losses[order[:8]].mean(), losses[order[8:]].mean()]).mean()

    loss, _, _ = train_one_epoch(state, spec.training, train, epoch=1)
    assert all(torch.equal(a, b) for a, b in zip(before, weights_of(state), strict=True))
    assert loss == pytest.approx(losses.mean().item(), abs=1e-6)
    assert abs(loss - mean_over_batches.item()) > 0.1


def test_every_epoch_trains_in_train_mode_and_is_validated_in_eval_mode_after_it(
    pictures: MakeSplit, job: MakeJob, fresh: Fresh
) -> None:
    spec = job(DROPPING, epochs=2, batch_size=16)
    state = fresh(spec)
    passes: list[tuple[bool, bool]] = []
    state.network.register_forward_hook(lambda network, *_: passes.append((network.training, torch.is_grad_enabled())))
    list(fit(state, spec.training, pictures(40), pictures(30, seed=1)))
    assert passes == 2 * [(True, True), (True, True), (True, True), (False, False)]


def test_an_evaluation_is_in_eval_mode_and_leaves_nothing_behind(
    pictures: MakeSplit, job: MakeJob, fresh: Fresh
) -> None:
    train, split = pictures(64), pictures(1_203, seed=1)
    spec = job(DROPPING, epochs=1, batch_size=16)
    state = fresh(spec)
    train_one_epoch(state, spec.training, train, epoch=1)
    state.optimizer.zero_grad()
    saved = {name: tensor.clone() for name, tensor in state.network.state_dict().items()}
    generator = torch.get_rng_state()

    state.network.train()
    first = evaluate(state, split)
    state.network.train()
    second = evaluate(state, split)
    assert (first.loss, first.accuracy) == (second.loss, second.accuracy)
    assert torch.equal(first.predictions, second.predictions)
    assert not any(module.training for module in state.network.modules())
    assert all(parameter.grad is None for parameter in state.network.parameters())
    assert all(torch.equal(saved[name], tensor) for name, tensor in state.network.state_dict().items())
    assert torch.equal(generator, torch.get_rng_state()), "no random number was drawn"

    inputs, labels = split.batch(slice(None))
    with torch.no_grad():
        logits = state.network.eval()(inputs)
        distorted = functional.cross_entropy(state.network.train()(inputs), labels).item()
    assert first.loss == pytest.approx(functional.cross_entropy(logits, labels).item(), abs=1e-6)
    assert first.accuracy == (logits.argmax(1) == labels).double().mean().item()
    assert abs(first.loss - distorted) > 0.01, "train mode would have given another number"


def first_bad_step(spec: JobSpec, train: DeviceSplit, state: TrainState) -> tuple[int, int]:
    """Return epoch and step, both from 1, at which a loop that looks at every loss meets one that is not finite."""
    for epoch in range(1, spec.training.epochs + 1):
        order = torch.randperm(len(train), generator=state.sampler)
        for step, indices in enumerate(order.split(spec.training.batch_size), start=1):
            inputs, labels = train.batch(indices)
            loss = functional.cross_entropy(state.network(inputs), labels)
            if not math.isfinite(loss.item()):
                return epoch, step
            state.optimizer.zero_grad()
            loss.backward()
            state.optimizer.step()
    raise AssertionError("every loss was finite")


@pytest.mark.parametrize("batch_size", [5, 100])
def test_a_loss_that_is_not_finite_ends_the_training_and_names_epoch_and_step(
    pictures: MakeSplit, job: MakeJob, fresh: Fresh, batch_size: int
) -> None:
    train = pictures(100)
    network = {"name": "mlp", "hidden": [32] * 8}
    spec = job(network, epochs=20, batch_size=batch_size, learning_rate=1_000.0)
    epoch, step = first_bad_step(spec, train, fresh(spec))
    state = fresh(spec)
    with pytest.raises(NonFiniteLoss, match=rf"epoch {epoch}, step {step} of {100 // batch_size}\.$"):
        list(fit(state, spec.training, train, None))
    assert len(state.history) == epoch - 1, "the bad epoch is not in the history"


def test_weights_that_overflow_in_the_very_last_step_are_no_success(
    pictures: MakeSplit, job: MakeJob, fresh: Fresh
) -> None:
    train = pictures(30)
    # Each step multiplies the weights by about two million: the losses of three steps are finite, the fourth is not.
    network = {"name": "mlp", "hidden": [16], "activation": "relu"}
    spec = job(network, epochs=1, batch_size=10, learning_rate=1_000.0, l2_penalty=1_000.0)
    state = fresh(spec)
    (metrics,) = fit(state, spec.training, train, None)
    assert math.isfinite(metrics.train_loss)
    with pytest.raises(NonFiniteLoss, match="loss after the last epoch"):
        evaluate(state, train)

    state = fresh(spec)
    with pytest.raises(NonFiniteLoss, match="validation loss of epoch 1"):
        list(fit(state, spec.training, train, train))


class HostReads(TorchDispatchMode):
    """Counts the reads of a tensor's value by the host: on a GPU each waits for everything that was queued."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.optimizer = optimizer
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            # torch keeps Adam's count of steps on the host, wherever the weights are.
            counts = [held["step"] for held in self.optimizer.state.values() if "step" in held]
            self.count += all(args[0] is not count for count in counts)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("network", "training"),
    [
        (DROPPING, {}),
        ({"name": "mlp"}, {"l2_penalty": 0.01, "label_smoothing": 0.1, "gradient_clip_norm": 1.0}),
        ({"name": "mlp"}, {"optimizer": {"name": "adamw"}, "schedule": {"name": "one_cycle"}}),
        ({"name": "mlp"}, {"optimizer": {"name": "rmsprop"}, "precision": "bfloat16"}),
        (
            DROPPING,
            {"augmentation": {"random_crop": {}, "horizontal_flip": 0.5, "color_jitter": {}, "cutout": {"size": 3}}},
        ),
        (DROPPING, {"augmentation": {"color_jitter": {"brightness": 0.3, "contrast": 0.3}}}),
    ],
)
def test_no_step_waits_for_the_device(
    pictures: MakeSplit, job: MakeJob, fresh: Fresh, network: dict[str, Any], training: dict[str, Any]
) -> None:
    train = pictures(96)

    def reads(batch_size: int) -> int:
        optimizer = training.get("optimizer", {"momentum": 0.9, "weight_decay": 0.01})
        spec = job(network, batch_size=batch_size, **training | {"optimizer": optimizer})
        state = fresh(spec)
        host = HostReads(state.optimizer)
        with host:
            train_one_epoch(state, spec.training, train, epoch=1)
        return host.count

    assert 0 < reads(batch_size=96) == reads(batch_size=3)


def test_epoch_0_is_the_untrained_network_and_changes_nothing_that_follows(
    pictures: MakeSplit, job: MakeJob, fresh: Fresh
) -> None:
    train, validation = pictures(40), pictures(30, seed=1)
    spec = job(DROPPING, epochs=2, batch_size=16, l2_penalty=0.1)
    without = list(fit(fresh(spec), spec.training, train, validation))
    spec = job(DROPPING, epochs=2, batch_size=16, l2_penalty=0.1, evaluate_before_training=True)
    state = fresh(spec)
    network = copy.deepcopy(state.network).eval()
    epochs = list(fit(state, spec.training, train, validation))
    assert [metrics.epoch for metrics in epochs] == [0, 1, 2]

    untrained, *trained = epochs
    with torch.no_grad():
        for split, loss, accuracy in (
            (train, untrained.train_loss, untrained.train_accuracy),
            (validation, untrained.validation_loss, untrained.validation_accuracy),
        ):
            inputs, labels = split.batch(slice(None))
            logits = network(inputs)
            assert loss == pytest.approx(functional.cross_entropy(logits, labels).item(), abs=1e-6)
            assert accuracy == (logits.argmax(1) == labels).double().mean().item()
        penalty = 0.1 * sum(float(weights.square().sum()) for weights in network.parameters())
    assert untrained.penalty == pytest.approx(penalty, rel=1e-6)
    assert (untrained.learning_rate, untrained.train_seconds) == (0.0, 0.0)
    assert untrained.seconds > 0

    times = {"seconds", "train_seconds"}
    assert [m.model_dump(exclude=times) for m in trained] == [m.model_dump(exclude=times) for m in without]


def test_epoch_0_is_not_measured_again_after_a_resume(pictures: MakeSplit, job: MakeJob, fresh: Fresh) -> None:
    train = pictures(40)
    spec = job(LINEAR, epochs=2, evaluate_before_training=True)
    state = fresh(spec)
    assert next(fit(state, spec.training, train, None)).epoch == 0
    resumed = fresh(spec)
    resumed.load_state_dict(state.state_dict())
    assert [metrics.epoch for metrics in fit(resumed, spec.training, train, None)] == [1, 2]
    assert [metrics.epoch for metrics in resumed.history] == [0, 1, 2]
