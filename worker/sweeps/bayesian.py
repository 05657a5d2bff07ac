"""The next point of a bayesian sweep: Optuna's sampler, asked over our own rows and told nothing that they do not hold.

Only this module knows Optuna, and loads it when it is first asked for a point: it takes half a second.
"""

import random
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import JsonValue

from models.sweep_spec import Bayesian, Choices, Point, Range

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

_SEED_BITS = 32


@dataclass(frozen=True)
class Tried:
    """A point that was tried and what came of it: a value, and the epoch of a job that was stopped at it.

    A job that was stopped early counts behind all that succeeded; a failed one says nothing; near one that is still
    running no other is tried (Optuna's constant liar).
    """

    point: Mapping[str, JsonValue]
    outcome: Literal["succeeded", "stopped", "failed", "running"]
    value: float | None = None
    epoch: int | None = None


def propose(parameters: Bayesian, tried: Sequence[Tried], *, maximizes: bool) -> Point:
    """Return the next point; the same parameters and the same past always give the same one."""
    import optuna

    optuna.logging.disable_default_handler()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    assert parameters.seed is not None, "a resolved sweep has a seed"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # constant_liar, since 2021
        sampler = optuna.samplers.TPESampler(seed=_seed(parameters.seed, len(tried)), constant_liar=True)
    # In memory: Optuna's own tables would put its version in the place of ours.
    study = optuna.create_study(direction="maximize" if maximizes else "minimize", sampler=sampler)
    distributions = {path: _distribution(domain) for path, domain in parameters.ranges.items()}
    study.add_trials([_trial(parameters, past, distributions) for past in tried])
    drawn = study.ask(distributions).params
    return {path: _value(domain, drawn[path]) for path, domain in parameters.ranges.items()}


def _seed(seed: int, number: int) -> int:
    """Return the seed of one proposal: a sampler made anew with the same one would draw the same point again."""
    return random.Random(f"{seed}/{number}").getrandbits(_SEED_BITS)  # noqa: S311 - to be repeatable, not secret


def _distribution(domain: Range | Choices) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(domain, Choices):
        return CategoricalDistribution(range(len(domain.choices)))  # by place: 1, 1.0 and true are equal in Python
    if domain.steps is not None:
        return IntDistribution(0, domain.steps)
    if domain.integer:
        return IntDistribution(round(domain.low), round(domain.high), log=True)
    return FloatDistribution(domain.low, domain.high, log=domain.log)


def _value(domain: Range | Choices, drawn: Any) -> JsonValue:
    """Return what a person reads for what was drawn from the domain's distribution."""
    if isinstance(domain, Choices):
        return domain.choices[int(drawn)]
    number: float | int = domain.value_of_step(drawn) if domain.steps is not None else drawn
    return number


def _drawn(domain: Range | Choices, value: Any) -> Any:
    """Return what was drawn for a value that `_value` gave."""
    if isinstance(domain, Choices):
        return next(place for place, choice in enumerate(domain.choices) if _same(choice, value))
    return domain.step_of_value(value) if domain.steps is not None else value


def _same(choice: JsonValue, value: JsonValue) -> bool:
    return type(choice) is type(value) and choice == value


def _trial(parameters: Bayesian, past: Tried, distributions: "dict[str, BaseDistribution]") -> "FrozenTrial":
    from optuna.trial import TrialState, create_trial

    drawn = {path: _drawn(domain, past.point[path]) for path, domain in parameters.ranges.items()}
    match past.outcome:
        case "succeeded" if past.value is not None:
            return create_trial(params=drawn, distributions=distributions, value=past.value)
        case "stopped" if past.value is not None:
            reached = {past.epoch or 0: past.value}
            return create_trial(
                state=TrialState.PRUNED, params=drawn, distributions=distributions, intermediate_values=reached
            )
        case "running":
            return create_trial(state=TrialState.RUNNING, params=drawn, distributions=distributions)
        case _:
            return create_trial(state=TrialState.FAIL, params=drawn, distributions=distributions)
