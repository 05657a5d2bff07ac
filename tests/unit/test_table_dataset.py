"""Tests of tables: CSV files read cell by cell, split, and scaled as the training rows alone say."""

import csv
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from models.dataset_spec import Scaling, TableDataset
from models.errors import InvalidData
from models.result import Scale
from worker.datasets import PreparedData, prepare
from worker.datasets.scaling import apply_scale, fit_column
from worker.datasets.table import read_table

HOUSING = Path(__file__).parents[3] / "shared" / "data" / "Housing.csv"
NUMBERS = st.floats(-1e12, 1e12).map(lambda number: float(f"{number:.6g}"))


def spec(**fields: Any) -> TableDataset:
    base: dict[str, Any] = {"file": "t.csv", "target": "y", "features": ["a", "b"], "test_split": 0.25}
    return TableDataset.model_validate(base | fields)


def write(root: Path, content: str | bytes, name: str = "t.csv") -> Path:
    path = root / "tables" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def rows(count: int, header: str = "a,b,y", seed: int = 0) -> str:
    random = np.random.default_rng(seed)
    lines = (",".join(f"{cell:.3f}" for cell in random.normal(5, 3, header.count(",") + 1)) for _ in range(count))
    return "\n".join([header, *lines]) + "\n"


def load(root: Path, seed: int = 1, **fields: Any) -> PreparedData:
    return prepare(spec(**fields), seed=seed, root=root)


def refusal(root: Path, **fields: Any) -> str:
    with pytest.raises(InvalidData) as refused:
        load(root, **fields)
    return str(refused.value)


def test_a_regression_has_float_inputs_and_a_scaled_target(tmp_path: Path) -> None:
    write(tmp_path, rows(40))
    data = load(tmp_path, validation=0.2)
    assert data.validation is not None
    for split, count in ((data.train, 24), (data.validation, 6), (data.test, 10)):
        assert split.inputs.shape == (count, 2)
        assert split.targets.shape == (count,)
        assert split.inputs.dtype == split.targets.dtype == np.float32
    assert (data.mean, data.std) == (None, None)
    report = data.report
    assert (report.name, report.input_shape) == ("tables/t.csv", [2])
    assert {name: (split.samples, split.classes) for name, split in report.splits.items()} == {
        "train": (24, {}),
        "validation": (6, {}),
        "test": (10, {}),
    }
    assert list(report.scaling) == ["a", "b", "y"]
    assert report.scaling["y"] == data.target_scale


def test_the_target_scale_leads_back_to_the_values_in_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, rows(40))
    data = load(tmp_path, validation=0)
    assert data.target_scale is not None
    back = [
        float(scaled) * data.target_scale.scale + data.target_scale.shift
        for split in (data.train, data.test)
        for scaled in split.targets
    ]
    written = [float(row["y"]) for row in csv.DictReader(io.StringIO(path.read_text()))]
    assert sorted(back) == pytest.approx(sorted(written), rel=1e-5)


def test_a_classification_has_labels_in_the_order_of_the_spec(tmp_path: Path) -> None:
    lines = "".join(f"{index},{index % 3},{('low', 'mid', 'high')[index % 3]}\n" for index in range(30))
    write(tmp_path, f"a,b,y\n{lines}")
    data = load(tmp_path, classes=["high", "mid", "low"], scaling="none", test_split=0.2, validation=0.25)
    assert data.train.targets.dtype == np.int64
    assert data.target_scale is None
    assert list(data.report.scaling) == ["a", "b"]
    for split in (data.train, data.test):
        assert np.array_equal(split.targets, 2 - split.inputs[:, 1])
    assert {name: split.classes for name, split in data.report.splits.items()} == {
        "train": {"high": 6, "mid": 6, "low": 6},
        "validation": {"high": 2, "mid": 2, "low": 2},
        "test": {"high": 2, "mid": 2, "low": 2},
    }


def test_categories_are_one_hot_and_yes_no_is_one_or_zero(tmp_path: Path) -> None:
    cells = ["yes,red,1", "No,green,2", "TRUE,blue,3", "false,red,4", "1,green,5", " 0 , blue ,6"]
    write(tmp_path, "\n".join(["flag,colour,y", *cells]))
    features = [
        {"kind": "yes_no", "column": "flag"},
        {"kind": "one_hot", "column": "colour", "categories": ["blue", "red", "green"]},
    ]
    table = read_table(spec(features=features), tmp_path / "tables/t.csv")
    assert table.features["flag"].ravel().tolist() == [1, 0, 1, 0, 1, 0]
    assert table.features["colour"].argmax(axis=1).tolist() == [1, 2, 0, 1, 2, 0]
    assert table.features["colour"].sum() == 6
    data = load(tmp_path, features=features, scaling="standard", test_split=0.5, validation=0)
    assert set(np.unique(data.train.inputs)) == {0.0, 1.0}  # never scaled
    assert list(data.report.scaling) == ["y"]


def test_inputs_stand_in_the_order_of_the_spec_not_of_the_file(tmp_path: Path) -> None:
    write(tmp_path, "y,extra,b,a\n" + "".join(f"{n},text,{n + 100},{n + 1000}\n" for n in range(8)))
    data = load(tmp_path, scaling="none", validation=0)
    expected = np.column_stack([data.train.targets + 1000, data.train.targets + 100])
    assert np.array_equal(data.train.inputs, expected)


WAYS_TO_WRITE = {
    "bom": b"\xef\xbb\xbfa,b,y\n1,2,3\n4,5,6\n",
    "windows": b"a,b,y\r\n1,2,3\r\n4,5,6\r\n",
    "no last newline": b"a,b,y\n1,2,3\n4,5,6",
    "blank lines": b"\na,b,y\n\n1,2,3\n4,5,6\n\n\n",
    "spaces": b" a , b , y \n 1, 2 , 3\n4,5,6\n",
    "quotes": b'"a","b","y"\n"1","2","3"\n4,5,6\n',
    "semicolons": b"a;b;y\n1;2;3\n4;5;6\n",
    "semicolons and a comma in a name": b'"x,1";a;b;y\n0;1;2;3\n0;4;5;6\n',
    "quoted semicolons": b'\xef\xbb\xbf"a";"b";"y"\r\n"1";"2";"3"\r\n"4";"5";"6"\r\n',
    "a semicolon in a name": b"a,b,y,d;e\n1,2,3,x\n4,5,6,y;z\n",
    "exponents": b"a,b,y\n1e0,+2,.3e1\n4.,5.0,600e-2\n",
    "a newline in a cell": b'a,note,b,y\n1,"two\nlines",2,3\n4,"",5,6\n',
    "unused columns of one name": b"a,b,y,,\n1,2,3,,\n4,5,6,,\n",
}


@pytest.mark.parametrize("content", WAYS_TO_WRITE.values(), ids=WAYS_TO_WRITE.keys())
def test_common_ways_to_write_csv_are_read(tmp_path: Path, content: bytes) -> None:
    table = read_table(spec(), write(tmp_path, content))
    assert np.column_stack([table.features["a"], table.features["b"], table.targets]).tolist() == [[1, 2, 3], [4, 5, 6]]


ONE_HOT = {"features": ["a", {"kind": "one_hot", "column": "b", "categories": ["x", "z"]}]}
YES_NO = {"features": ["a", {"kind": "yes_no", "column": "b"}]}
FAULTS: list[tuple[str | bytes, dict[str, Any], str]] = [
    ("a,b,y\n1,2,3\n1,,3\n", {}, "{p}, line 3, column b: the cell is empty."),
    ("a,b,y\n1,2,3\n1,  ,3\n", {}, "{p}, line 3, column b: the cell is empty."),
    ("a,b,y\n1,2,\n", {}, "{p}, line 2, column y: the cell is empty."),
    ("a,b,y\n1,2 m,3\n", {}, "{p}, line 2, column b: '2 m' is not a number."),
    ("a,b,y\n1,1_000,3\n", {}, "{p}, line 2, column b: '1_000' is not a number."),
    ('a,b,y\n1,"1,5",3\n', {}, "{p}, line 2, column b: '1,5' is not a number."),
    ("a,b,y\n1,0x1F,3\n", {}, "{p}, line 2, column b: '0x1F' is not a number."),
    ("a,b,y\n1,2\0,3\n", {}, r"{p}, line 2, column b: '2\\x00' is not a number."),
    (f"a,b,y\n1,{'9' * 5000}z,3\n", {}, "{p}, line 2, column b: '9{40}...' is not a number."),
    ("a,b,y\n1,nan,3\n", {}, "{p}, line 2, column b: 'nan' is not a finite number."),
    ("a,b,y\n1,2,-Infinity\n", {}, "{p}, line 2, column y: '-Infinity' is not a finite number."),
    ("a,b,y\n1e999,2,3\n", {}, "{p}, line 2, column a: '1e999' is not a finite number."),
    ('a,b,y,n\n1,2,3,"two\n\nlines"\n\n1,x,3,\n', {}, "{p}, line 6, column b: 'x' is not a number."),
    ("a,b,y\n1,x,3\n1,y,3\n", ONE_HOT, "{p}, line 3, column b: 'y' is none of the categories of the spec: x, z."),
    ("a,b,y\n1,X,3\n", ONE_HOT, "{p}, line 2, column b: 'X' is none of the categories .*"),
    ("a,b,y\n1,,3\n", ONE_HOT, "{p}, line 2, column b: the cell is empty."),
    ("a,b,y\n1,2,u\n1,2,w\n", {"classes": ["u", "v"]}, "{p}, line 3, column y: 'w' is none of the classes .*: u, v."),
    ("a,b,y\n1,2,u\n", {"classes": ["u", "v"]}, "{p}, column y: no row has the class v, so it cannot be learned."),
    ("a,b,y\n1,yes,3\n1,y,3\n", YES_NO, r"{p}, line 3, column b: 'y' is neither yes nor no \(nor true or .*\)."),
    ("a,b,y\n1,2,3\n1,2\n", {}, "{p}, line 3: the row has 2 cells, the file has 3 columns."),
    ("a,b,y\n1,2,3,4\n", {}, "{p}, line 2: the row has 4 cells, the file has 3 columns."),
    ("a,c,y\n1,2,3\n", {}, "{p} has no column b; its columns are 'a', 'c', 'y'."),
    ("A,B,Y\n1,2,3\n", {}, "{p} has no column a; its columns are 'A', 'B', 'Y'."),
    ("a\tb\ty\n1\t2\t3\n", {}, r"{p} has no column a; its columns are 'a\\tb\\ty'."),
    ("a,b,y, b\n1,2,3,4\n", {}, "{p} has 2 columns of the name b."),
    ("a,b,y\n", {}, "{p} has no rows below the names of its columns."),
    ("", {}, "{p} is empty."),
    ("\n\n", {}, "{p} is empty."),
    (b"a,b,y\n1,2,3\n\xff\xfe,2,3\n", {}, "{p}, line 3: this is not text in UTF-8."),
    ("a,b,y\n1,2,3\n".encode("utf-16"), {}, "{p}, line 1: this is not text in UTF-8."),
    (bytes(range(256)) * 50, {}, "{p}, line 2: this is not text in UTF-8."),
    ("a,b,y\n1,2,3\n" + f'1,"{"2" * 200_000}",3\n', {}, r"{p}, line 3: this is not CSV \(field larger than .*\)."),
    ("x" * 200_000, {}, r"{p}, line 1: this is not CSV \(field larger than field limit \(131072\)\)."),
    ('a,b,y\n1,"2,3\n4,5,6\n', {}, r"{p}, line 2: this is not CSV \(unexpected end of data\)."),
    ('a,b,y\n1,"2"x,3\n', {}, r"{p}, line 2: this is not CSV \(',' expected after '\"'\)."),
    (
        "a,b,y\n" + "1,2,3\n" * 3,
        {"test_split": 0.1},
        r"The test split of tables/\S+ cannot be held out\. Holding out 0.1 of 3 samples leaves .* empty.",
    ),
]


@pytest.mark.parametrize(("content", "fields", "sentence"), FAULTS)
def test_a_fault_is_refused_with_file_line_and_column(
    tmp_path: Path, content: str | bytes, fields: dict[str, Any], sentence: str
) -> None:
    path = write(tmp_path, content)
    assert re.fullmatch(sentence.replace("{p}", re.escape(str(path))), refusal(tmp_path, **fields))


def test_a_fault_in_a_late_block_has_the_right_line(tmp_path: Path) -> None:
    path = write(tmp_path, rows(2_500) + "1,2,bad\n" + "1,2,3\n")
    assert refusal(tmp_path) == f"{path}, line 2502, column y: 'bad' is not a number."


def test_a_table_that_is_missing_or_is_none_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"The table {tmp_path}/tables/t.csv cannot be read: No such file or directory."
    (tmp_path / "tables/t.csv").mkdir(parents=True)
    assert refusal(tmp_path) == f"The table {tmp_path}/tables/t.csv cannot be read: Is a directory."


def test_a_table_may_be_a_link_to_another_place(tmp_path: Path) -> None:
    write(tmp_path, rows(20), "elsewhere.csv")
    (tmp_path / "tables/t.csv").symlink_to(tmp_path / "tables/elsewhere.csv")
    assert load(tmp_path).report.splits["test"].samples == 5


@given(
    st.lists(
        st.tuples(NUMBERS, NUMBERS, st.sampled_from(["x", "y,;\"'", " z"]), st.booleans()), min_size=1, max_size=30
    )
)
def test_what_a_csv_writer_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[float, float, str, bool]]
) -> None:
    text = io.StringIO()
    csv.writer(text).writerows([("a", "y", "kind", "flag"), *cells])
    categories = ["x", "y,;\"'", "z"]
    columns = spec(
        features=[
            "a",
            {"kind": "one_hot", "column": "kind", "categories": categories},
            {"kind": "yes_no", "column": "flag"},
        ]
    )
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    path.write_bytes(text.getvalue().encode())
    table = read_table(columns, path)
    assert table.features["a"].ravel().tolist() == [a for a, _, _, _ in cells]
    assert table.targets.tolist() == [y for _, y, _, _ in cells]
    assert [categories[place] for place in table.features["kind"].argmax(axis=1)] == [k.strip() for _, _, k, _ in cells]
    assert table.features["flag"].ravel().tolist() == [float(flag) for *_, flag in cells]


@given(st.lists(NUMBERS, min_size=2, max_size=50, unique=True).filter(lambda column: np.std(column) > 1e-3))
def test_scaling_is_that_of_scikit_learn(column: list[float]) -> None:
    values = np.array(column)
    standard, min_max = StandardScaler().fit(values[:, None]), MinMaxScaler().fit(values[:, None])
    scale = fit_column(values, "standard")
    assert scale.shift == pytest.approx(standard.mean_[0], rel=1e-9, abs=1e-9 * np.abs(values).max())
    assert scale.scale == pytest.approx(standard.scale_[0], rel=1e-9)
    scaled = apply_scale(values, fit_column(values, "min_max"))
    assert scaled == pytest.approx(min_max.transform(values[:, None]).ravel(), abs=1e-6)
    assert (scaled.min(), scaled.max()) == (0.0, 1.0)


@pytest.mark.parametrize("scaling", ["min_max", "standard"])
@pytest.mark.parametrize("value", [0.1, 0.0, -1e300])
def test_a_constant_column_is_shifted_to_zero(scaling: Scaling, value: float) -> None:
    values = np.full(7, value)
    assert fit_column(values, scaling) == Scale(shift=value, scale=1.0)
    assert apply_scale(values, fit_column(values, scaling)).tolist() == [0.0] * 7


def test_values_too_close_for_a_deviation_do_not_divide_by_zero() -> None:
    values = np.array([1e-200, 2e-200])
    assert np.isfinite(apply_scale(values, fit_column(values, "standard"))).all()
    assert apply_scale(values, fit_column(values, "min_max")).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("scaling", ["none", "min_max", "standard"])
@pytest.mark.parametrize("column", ["a", "y"])
def test_values_beyond_float32_are_refused_not_made_infinite(tmp_path: Path, scaling: str, column: str) -> None:
    lines = [f"{n},{n},{n}" for n in range(20)]
    huge = {"a": ("1e308,1,1", "-1e308,1,1"), "y": ("1,1,1e308", "1,1,-1e308")}[column]
    path = write(tmp_path, "\n".join(["a,b,y", *lines, *(huge * 10)]))
    sentence = f"{path}, column {column}: its values are too large, or too far apart, for float32."
    assert refusal(tmp_path, scaling=scaling) == sentence


def test_large_values_that_scaling_brings_down_are_fine(tmp_path: Path) -> None:
    write(tmp_path, "a,b,y\n" + "".join(f"{n}e200,{n},{n}\n" for n in range(1, 21)))
    data = load(tmp_path, scaling="min_max", validation=0)
    assert (data.train.inputs.min(), data.train.inputs.max()) == (0.0, 1.0)


def test_unscaled_columns_are_the_files_own_and_the_report_says_so(tmp_path: Path) -> None:
    write(tmp_path, rows(20))
    data = load(tmp_path, scaling="none")
    assert data.report.scaling == {name: Scale(shift=0.0, scale=1.0) for name in ("a", "b", "y")}
    assert data.target_scale == Scale(shift=0.0, scale=1.0)


@pytest.mark.parametrize("scaling", ["min_max", "standard"])
@pytest.mark.parametrize("held_out", ["validation", "test"])
def test_scaling_is_fitted_on_the_training_rows_alone(tmp_path: Path, scaling: str, held_out: str) -> None:
    path = write(tmp_path, rows(60))
    before = load(tmp_path, scaling=scaling, validation=0.25)
    outside = {"validation": before.validation, "test": before.test}[held_out]
    assert outside is not None
    changed = path.read_text().splitlines()
    originals = before.report.scaling
    for inputs in outside.inputs:
        shown = [
            f"{number * originals[name].scale + originals[name].shift:.3f}"
            for name, number in zip(("a", "b"), inputs.tolist(), strict=True)
        ]
        (line,) = [place for place, text in enumerate(changed) if text.startswith(",".join(shown) + ",")]
        changed[line] = "1000000,-1000000,5000000"
    write(tmp_path, "\n".join(changed))
    after = load(tmp_path, scaling=scaling, validation=0.25)
    assert after.report.scaling == before.report.scaling
    assert np.array_equal(after.train.inputs, before.train.inputs)
    assert np.array_equal(after.train.targets, before.train.targets)
    assert after.report.checksum != before.report.checksum


def test_the_test_split_depends_on_its_own_seed_alone(tmp_path: Path) -> None:
    write(tmp_path, rows(60))
    one, other, moved = (
        load(tmp_path, 1, scaling="none"),
        load(tmp_path, 2, scaling="none"),
        load(tmp_path, split_seed=3),
    )
    assert np.array_equal(one.test.inputs, other.test.inputs)
    assert not np.array_equal(one.train.inputs, other.train.inputs)
    assert not np.array_equal(one.test.inputs, moved.test.inputs)


def test_the_test_split_may_serve_as_validation(tmp_path: Path) -> None:
    write(tmp_path, rows(20))
    data = load(tmp_path, validation="test")
    assert data.validation is data.test
    assert list(data.report.splits) == ["train", "test"]
    assert load(tmp_path, validation=0).validation is None


def test_the_checksum_is_of_the_values_not_of_the_way_they_are_written(tmp_path: Path) -> None:
    path = write(tmp_path, "a,b,y\n1,2,3\n4,5,6\n")
    other = write(tmp_path, 'y;b;a\r\n"3.0";2.0;1e0\r\n6;5;4\r\n', "other.csv")
    assert read_table(spec(), path).checksum == read_table(spec(), other).checksum
    swapped = spec(features=["b", "a"])
    assert read_table(spec(), path).checksum != read_table(swapped, path).checksum
    write(tmp_path, "a,b,y\n1,2,3\n4,5,6.0000001\n", "other.csv")
    assert read_table(spec(), path).checksum != read_table(spec(), other).checksum


@pytest.mark.skipif(not HOUSING.exists(), reason="the table of housing prices is not on this machine")
@pytest.mark.parametrize("scaling", ["min_max", "standard"])
def test_the_housing_prices_are_scaled_as_scikit_learn_scales_their_training_rows(tmp_path: Path, scaling: str) -> None:
    write(tmp_path, HOUSING.read_bytes(), "Housing.csv")
    numbers = ["area", "bedrooms", "bathrooms", "stories", "parking"]
    furnishing = ["furnished", "semi-furnished", "unfurnished"]
    features = [
        *numbers,
        {"kind": "yes_no", "column": "mainroad"},
        {"kind": "one_hot", "column": "furnishingstatus", "categories": furnishing},
    ]
    housing: dict[str, Any] = {"file": "Housing.csv", "target": "price", "features": features, "test_split": 0.2}
    scaled = load(tmp_path, validation=0, scaling=scaling, **housing)
    plain = load(tmp_path, validation=0, scaling="none", **housing)
    assert {name: split.samples for name, split in scaled.report.splits.items()} == {"train": 436, "test": 109}
    assert scaled.report.input_shape == [9]
    scaler = {"min_max": MinMaxScaler, "standard": StandardScaler}[scaling]()
    scaler.fit(plain.train.inputs[:, :5].astype(np.float64))
    for ours, raw in ((scaled.train, plain.train), (scaled.test, plain.test)):
        assert ours.inputs[:, :5] == pytest.approx(scaler.transform(raw.inputs[:, :5].astype(np.float64)), abs=1e-6)
        assert np.array_equal(ours.inputs[:, 5:], raw.inputs[:, 5:])
        assert ours.inputs[:, 6:].sum(axis=1).tolist() == [1.0] * len(ours.inputs)
    if scaling == "min_max":
        assert scaled.train.inputs[:, :5].min(axis=0).tolist() == [0.0] * 5
        assert scaled.train.inputs[:, :5].max(axis=0).tolist() == [1.0] * 5
        assert (scaled.train.targets.min(), scaled.train.targets.max()) == (0.0, 1.0)
    with HOUSING.open(encoding="utf-8") as file:
        written = list(csv.DictReader(file))
    assert len(written) == 545
    inputs = np.concatenate([plain.train.inputs, plain.test.inputs])
    assert inputs[:, 5].sum() == sum(row["mainroad"] == "yes" for row in written)
    assert inputs[:, 6:].sum(axis=0).tolist() == [
        sum(row["furnishingstatus"] == status for row in written) for status in furnishing
    ]
