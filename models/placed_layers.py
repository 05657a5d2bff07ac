"""The layers of a network where they stand, and whether two of them are the same."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from models.layers import Layer, Residual
from models.network import LayerSummary


@dataclass(frozen=True)
class PlacedLayer:
    """One layer where it stands: `layer` is its spec, `inside` the layers of a residual; see `LayerSummary`."""

    loc: str
    layer: dict[str, Any]
    output_shape: tuple[int, ...]
    parameters: int
    macs: int
    inside: tuple["PlacedLayer", ...] = ()

    @classmethod
    def listed(cls, layers: Sequence[Layer], summaries: Sequence[LayerSummary]) -> tuple[Self, ...]:
        """Return the places of a layer list; the projection of a residual is in its summary alone."""
        specs: list[Layer | None] = [*layers, *[None] * (len(summaries) - len(layers))]
        return tuple(cls._of(layer, summary) for layer, summary in zip(specs, summaries, strict=True))

    @classmethod
    def counted(cls, counts: Sequence[dict[str, Any]]) -> tuple[Self, ...]:
        """Return the places of a network that is known from a result's `parameters.layers` alone."""
        return tuple(
            cls(
                loc=str(each["layer"]),
                layer={"kind": each["kind"]},
                output_shape=tuple(each["output_shape"]),
                parameters=each["parameters"],
                macs=each["macs"],
            )
            for each in counts
        )

    @classmethod
    def _of(cls, layer: Layer | None, summary: LayerSummary) -> Self:
        inside = layer.layers if isinstance(layer, Residual) else []
        spec = {"kind": summary.kind} if layer is None else layer.model_dump(mode="json", exclude={"layers"})
        return cls(
            loc=summary.loc,
            layer=spec,
            output_shape=summary.output_shape,
            parameters=summary.parameters,
            macs=summary.macs,
            inside=cls.listed(inside, summary.layers),
        )

    def differs_from(self, other: "PlacedLayer") -> list[str]:
        """Return the names of the layer's fields, and of the shape and counts, that are not the other's."""
        names = dict.fromkeys([*self.layer, *other.layer])
        fields = [name for name in names if (name in self.layer, self.layer.get(name)) != _field(other, name)]
        fields += [
            name for name in ("output_shape", "parameters", "macs") if getattr(self, name) != getattr(other, name)
        ]
        return fields if fields or self.inside == other.inside else ["layers"]


def _field(place: PlacedLayer, name: str) -> tuple[bool, Any]:
    return name in place.layer, place.layer.get(name)
