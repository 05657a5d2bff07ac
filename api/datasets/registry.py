"""The registry page: what is known of each data set by name, and what `images` and `table` are."""

from collections.abc import Mapping

from api.datasets.schemas import DatasetView, FileView, Normalization, Samples
from models.datasets import DATASETS, DatasetFacts, DatasetName


def _named(name: DatasetName, facts: DatasetFacts) -> DatasetView:
    return DatasetView(
        name=name,
        title=facts.title,
        task="classification",
        shape=list(facts.shape),
        classes=list(facts.classes),
        samples=Samples(train=facts.train_samples, test=facts.test_samples),
        normalization=Normalization(mean=list(facts.mean), std=list(facts.std)),
        source=facts.source,
        licence=facts.licence,
        files=[FileView(name=file.name, md5=file.md5) for file in facts.files],
        placing=_placing(name),
        example={"name": name},
    )


def _placing(name: DatasetName) -> str:
    if name == "digits":
        return "Nothing to place: it comes with scikit-learn."
    return (
        "Downloaded by torchvision on first use, where downloads are allowed. Without a network: the files as they are "
        f"published in <datasets>/{name}/, or as torchvision unpacks them there, or images in "
        f"<datasets>/{name}/train/<class>/ and test/<class>/."
    )


def _own(name: str, title: str, **fields: object) -> DatasetView:
    nothing = dict.fromkeys(("task", "shape", "classes", "samples", "normalization", "source", "licence"))
    return DatasetView.model_validate({**nothing, "name": name, "title": title, "files": [], **fields})


_IMAGES = _own(
    "images",
    "Images of your own, in one folder per class; each is resized once to the same square",
    task="classification",
    placing="<datasets>/images/<folder>/train/<class>/*, and test/<class>/* where there is a test split; without one, "
    "a part of train/ is held out (`test_split`). The spec names the folder, the classes and the side length.",
    example={"name": "images", "folder": "flowers", "classes": ["daisy", "rose", "tulip"], "resize": 64},
)
_TABLE = _own(
    "table",
    "A CSV file of your own, one row per sample: a regression, or a classification where the spec lists `classes`",
    placing="<datasets>/tables/<file>, with the names of the columns in the first line. The spec names the target and "
    "the features; for a column of categories it lists them.",
    example={
        "name": "table",
        "file": "Housing.csv",
        "target": "price",
        "features": [
            "area",
            "bedrooms",
            {"kind": "yes_no", "column": "mainroad"},
            {
                "kind": "one_hot",
                "column": "furnishingstatus",
                "categories": ["furnished", "semi-furnished", "unfurnished"],
            },
        ],
        "scaling": "standard",
    },
)

REGISTRY: Mapping[str, DatasetView] = {
    **{name: _named(name, facts) for name, facts in DATASETS.items()},
    "images": _IMAGES,
    "table": _TABLE,
}
