"""Which data to train on, as a person may ask for it: a data set by name, a tree of images, or a table."""

from abc import abstractmethod
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from models.datasets import DATASETS, DatasetFacts, DatasetName, Task
from models.layers import Shape
from models.validation import Name, Strict

DEFAULT_TEST_SPLIT = 0.2
_MAX_INPUTS = 65_536


def _validation_split(value: Any) -> Any:
    if value == "test" or (type(value) in (int, float) and (value == 0 or 0.001 <= value <= 0.9)):
        return value if value == "test" else float(value)
    raise PydanticCustomError("validation_split", 'Input should be 0, a fraction from 0.001 to 0.9, or "test"')


def _distinct(values: list[str]) -> list[str]:
    seen = set()
    for value in values:
        if value in seen:
            raise PydanticCustomError("duplicate", "'{value}' stands in the list twice", {"value": value})
        seen.add(value)
    return values


def _unpadded(name: str) -> str:
    if name != name.strip():
        raise PydanticCustomError("padded_text", "Text may not begin or end with spaces here")
    return name


def _one_component(name: str) -> str:
    """Refuse what could name anything outside the directory that it is looked up in, or a hidden file."""
    if name.startswith(".") or "/" in name or "\\" in name:
        raise PydanticCustomError("file_name", "Input should be one name, without slashes and no dot at its beginning")
    return name


ValidationSplit = Annotated[
    float | Literal["test"],
    BeforeValidator(_validation_split),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0, "maximum": 0.9}, {"const": "test"}]}),
]
ClassName = Annotated[Name, AfterValidator(_unpadded)]
TestSplit = Annotated[float, Field(ge=0.001, le=0.9)]
SideLength = Annotated[int, Field(ge=4, le=512)]
SplitSeed = Annotated[int, Field(ge=0, le=2**32 - 1)]
FileName = Annotated[
    Name,
    AfterValidator(_one_component),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": 200, "pattern": r"^[^./\\][^/\\]*$"}),
]
Classes = Annotated[list[ClassName], Field(min_length=2, max_length=1_000), AfterValidator(_distinct)]


class _Dataset(Strict):
    validation: ValidationSplit = Field(
        default=0.1,
        description='Fraction of the training split held out, seeded by `training.seed`; or "test": the test split.',
    )

    @property
    @abstractmethod
    def class_names(self) -> tuple[str, ...]:
        """The classes in the order of their labels; none for a regression."""

    @property
    @abstractmethod
    def input_shape(self) -> Shape:
        """The shape of one sample as the network sees it: (channels, height, width), or (features,)."""

    @property
    def task(self) -> Task:
        """What is learned: classes, or a number."""
        return "classification" if self.class_names else "regression"

    @property
    def outputs(self) -> int:
        """How many values the network puts out per sample."""
        return len(self.class_names) or 1


class NamedDataset(_Dataset):
    """A data set of the registry."""

    name: DatasetName
    resize: SideLength | None = Field(
        default=None, description="Side length in pixels, applied once when the images are decoded."
    )

    @property
    def facts(self) -> DatasetFacts:
        """What is known of the data set by its name."""
        return DATASETS[self.name]

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in the order of their labels."""
        return self.facts.classes

    @property
    def input_shape(self) -> Shape:
        """The shape of one sample as the network sees it: (channels, height, width)."""
        return self.facts.input_shape(self.resize)


class ImagesDataset(_Dataset):
    """Images of one's own: `<datasets>/images/<folder>/train/<class>/*`, and `test/<class>/*` where there is one."""

    name: Literal["images"] = "images"
    folder: FileName
    classes: Classes = Field(description="The names of the class folders, in the order of their labels.")
    resize: SideLength = Field(description="Side length in pixels that all images get, once, when they are decoded.")
    colors: Literal["rgb", "gray"] = "rgb"
    test_split: TestSplit | None = Field(
        default=None,
        description=f"Fraction of train/ held out as test split where no test/ is; {DEFAULT_TEST_SPLIT} if unset.",
    )
    split_seed: SplitSeed = Field(
        default=0, description="Of the test split, apart from `training.seed`: runs stay comparable."
    )

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in the order of their labels."""
        return tuple(self.classes)

    @property
    def input_shape(self) -> Shape:
        """The shape of one sample as the network sees it: (channels, height, width)."""
        return (3 if self.colors == "rgb" else 1, self.resize, self.resize)


class NumberColumn(Strict):
    """A column of numbers, one feature."""

    kind: Literal["number"] = "number"
    column: Name


class YesNoColumn(Strict):
    """A column of yes and no (or true and false, 1 and 0), one feature: 1 or 0."""

    kind: Literal["yes_no"] = "yes_no"
    column: Name


class OneHotColumn(Strict):
    """A column of categories, one feature each: 1 for the row's own, 0 for the others."""

    kind: Literal["one_hot"] = "one_hot"
    column: Name
    categories: Annotated[list[Name], Field(min_length=2, max_length=1_000), AfterValidator(_distinct)]


def _number_unless_said(value: Any) -> Any:
    if isinstance(value, str):
        return {"kind": "number", "column": value}
    return {"kind": "number"} | value if isinstance(value, dict) else value


def _or_a_name(schema: dict[str, Any]) -> None:
    """Say in the JSON schema that `kind` may be left out, and that a plain name is enough."""
    schema.pop("discriminator")
    schema["anyOf"] = [{"type": "string"}, *schema.pop("oneOf")]


Feature = Annotated[
    Annotated[NumberColumn | YesNoColumn | OneHotColumn, Field(discriminator="kind", json_schema_extra=_or_a_name)],
    BeforeValidator(_number_unless_said),
]
Scaling = Literal["none", "min_max", "standard"]


class TableDataset(_Dataset):
    """A CSV file of one's own, `<datasets>/tables/<file>`: one row per sample, column names in the first line."""

    name: Literal["table"] = "table"
    file: FileName
    target: Name = Field(description="The column to predict: a number, or one of `classes` where these are given.")
    classes: Classes | None = Field(default=None, description="Makes it a classification: the target's values.")
    features: list[Feature] = Field(
        min_length=1,
        max_length=1_000,
        description='Columns in the order of the inputs; a plain name is short for {"kind": "number", "column": name}.',
    )
    scaling: Scaling = Field(
        default="standard", description="Of number columns and of a regression's target, fitted on the training rows."
    )
    test_split: TestSplit = DEFAULT_TEST_SPLIT
    split_seed: SplitSeed = Field(
        default=0, description="Of the test split, apart from `training.seed`: runs stay comparable."
    )

    @model_validator(mode="after")
    def _columns_fit_together(self) -> "TableDataset":
        _distinct([self.target, *(feature.column for feature in self.features)])
        if self.input_shape[0] > _MAX_INPUTS:
            raise PydanticCustomError("too_long", "The features make more than {limit} inputs", {"limit": _MAX_INPUTS})
        return self

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in the order of their labels; none for a regression."""
        return tuple(self.classes or ())

    @property
    def input_shape(self) -> Shape:
        """The shape of one sample as the network sees it: (features,)."""
        widths = (len(f.categories) if isinstance(f, OneHotColumn) else 1 for f in self.features)
        return (sum(widths),)


DatasetSpec = NamedDataset | ImagesDataset | TableDataset
DatasetChoice = Annotated[DatasetSpec, Field(discriminator="name")]
