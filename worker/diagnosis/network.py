"""The network: weights that are applied more than once, units that are dead, parameters that nothing reaches."""

from models.result import Diagnosis, Level
from worker.diagnosis.evidence import Evidence
from worker.diagnosis.wording import listed

# Of a layer. Fewer are usual; with 40 % the learning rate was too high (Stanford's CS231n, on ReLU).
_SOME_DEAD = 0.1
_MANY_DEAD = 0.4

_MOST_LISTED = 100  # names in the evidence; the count says how many there are


def weights_shared(evidence: Evidence) -> list[Diagnosis]:
    """Fire where a module with parameters is applied more than once in one pass."""
    if not evidence.shared_modules:
        return []
    applied = [f"layer {module.place} ({module.times:,} times)" for module in evidence.shared_modules]
    normalised = [f"layer {module.place}" for module in evidence.shared_modules if module.batch_norm]
    message = (
        f"Weights are shared: one pass applies {listed(applied)}. These parameters are counted once, their MACs each "
        "time; with separate weights the network would have more parameters at the same MACs."
    )
    if normalised:
        message += (
            f" The batch norm in {listed(normalised)} has one set of running statistics for all its applications, "
            "which suits none of them in eval mode: expect scores far below those of training. Try separate weights, "
            "or group_norm."
        )
    shown = evidence.shared_modules[:_MOST_LISTED]
    numbers = {
        "layers": [module.place for module in shown],
        "times": [module.times for module in shown],
        "batch_norm": [module.batch_norm for module in shown],
    }
    level: Level = "warning" if normalised else "info"
    return [Diagnosis(code="weights_shared", level=level, message=message, evidence=numbers)]


def dead_units(evidence: Evidence) -> list[Diagnosis]:
    """Fire where a noticeable part of a layer's units puts out zero for every sample; graver with its share."""
    layers = [layer for layer in evidence.dead_units if layer.units and layer.dead >= _SOME_DEAD * layer.units]
    if not layers:
        return []
    layers.sort(key=lambda layer: layer.dead / layer.units, reverse=True)
    worst = layers[0].dead / layers[0].units
    level: Level = "error" if worst == 1 else "warning" if worst >= _MANY_DEAD else "info"
    found = [f"{layer.dead:,} of {layer.units:,} units of layer {layer.place} ({layer.kind})" for layer in layers]
    message = (
        f"Units are dead: {listed(found)} put out zero for every training sample looked at. They add nothing and no "
        "longer learn. Try a lower learning rate, batch norm before the activation, or leaky_relu."
    )
    shown = layers[:_MOST_LISTED]
    numbers = {
        "layers": [layer.place for layer in shown],
        "dead": [layer.dead for layer in shown],
        "units": [layer.units for layer in shown],
    }
    return [Diagnosis(code="dead_units", level=level, message=message, evidence=numbers)]


def parameter_without_gradient(evidence: Evidence) -> list[Diagnosis]:
    """Fire where the loss does not depend on a trainable parameter."""
    names = list(evidence.parameters_without_gradient)
    if not names:
        return []
    message = (
        f"No gradient reaches {listed(names)}: the loss does not depend on them as the network stands, so they are not "
        "trained. Either the pass does not use them, or everything behind them is dead or saturated."
    )
    numbers = {"parameters": names[:_MOST_LISTED], "count": len(names)}
    return [Diagnosis(code="parameter_without_gradient", level="warning", message=message, evidence=numbers)]
