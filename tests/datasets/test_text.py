"""Texts as rows: lines, tables, class folders and archives, and what is wrong with them."""

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from hlserve.datasets import load
from hlserve.errors import ConfigError, DataError, ModelFileError
from hlserve.frontend import LogMel, Subwords, Words, to_json

SHARED = Path(os.environ.get("HLSERVE_SHARED", Path(__file__).parents[3] / "shared"))
ROWS = [("good food, good staff", "1"), ("bad food", "0"), ("the staff is bad", "0")]


def write(tmp_path, name, content, encoding="utf-8"):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return path


def lines(rows=ROWS):
    return "".join(f"{text}\t{label}\n" for text, label in rows)


FORMS = {
    "a.txt": lines(),
    "b.tsv": "text\tlabel\n" + lines(),
    "c.tsv": "id\tlabel\ttext\n" + "".join(f"7\t{label}\t{text}\n" for text, label in ROWS),
    "d.csv": "label,text\n" + "".join(f'{label},"{text}"\n' for text, label in ROWS),
    "e.txt": "\ufeff" + lines().replace("\n", "\r\n\r\n"),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_rows(name, tmp_path):
    dataset = load(write(tmp_path, name, FORMS[name]))
    front_end = Words.fit([text for text, _ in ROWS])
    assert dataset.frontend == front_end
    assert (dataset.task, dataset.class_labels) == ("classification", ("0", "1"))
    np.testing.assert_array_equal(dataset.train.y, [1, 0, 0])
    expected = front_end.apply([text for text, _ in ROWS])
    np.testing.assert_array_equal(dataset.train.x, expected["input"])
    np.testing.assert_array_equal(dataset.train.inputs["mask"], expected["mask"])


def test_class_folders_and_archives_give_parts_and_classes(tmp_path):
    for name, text in [
        ("train/neg/1.txt", "bad bad food"),
        ("train/pos/1.txt", "good food"),
        ("train/pos/2.txt", "good good"),
        ("test/pos/9.txt", "food"),
    ]:
        write(tmp_path / "reviews", name, text)
    with zipfile.ZipFile(tmp_path / "reviews.zip", "w") as archive:
        for path in sorted((tmp_path / "reviews").rglob("*.txt")):
            archive.write(path, path.relative_to(tmp_path))
        archive.writestr("__MACOSX/reviews/._1.txt", b"\x00\xff")
    for path in (tmp_path / "reviews", tmp_path / "reviews.zip"):
        dataset = load(path)
        assert dataset.name == "reviews"
        assert dataset.class_labels == ("neg", "pos")
        np.testing.assert_array_equal(dataset.train.y, [0, 1, 1])
        assert dataset.test is not None
        np.testing.assert_array_equal(dataset.test.y, [1])
        assert set(dataset.frontend.vocabulary) == {"good", "bad", "food"}  # of training alone


def test_a_front_end_that_is_given_is_not_fitted_again(tmp_path):
    path = write(tmp_path, "a.txt", lines())
    given = Words(vocabulary=("food",), max_length=3, with_mask=False)
    dataset = load(path, frontend=given)
    assert dataset.frontend == given
    assert dataset.train.inputs.keys() == {"input"}
    assert dataset.train.x.tolist() == [[1, 2, 1], [1, 2, 0], [1, 1, 1]]


def test_a_short_text_chooses_the_front_end(tmp_path):
    path = write(tmp_path, "a.txt", lines())
    assert isinstance(load(path, frontend="subwords:60").frontend, Subwords)
    with pytest.raises(ConfigError, match="unknown front end 'bert'"):
        load(path, frontend="bert")
    with pytest.raises(DataError, match="holds text, the front end 'log-mel'"):
        load(path, frontend="log-mel")
    with pytest.raises(DataError, match="holds text, the model's front end takes sound"):
        load(path, frontend=LogMel(sample_rate=8000, max_frames=3, fmax=4000.0))
    with pytest.raises(DataError, match="digits holds numbers, the front end 'words'"):
        load("digits", frontend="words")


def test_lines_without_labels_are_texts_alone(tmp_path):
    dataset = load(write(tmp_path, "a.txt", "good food\nbad food\n"))
    assert (dataset.task, dataset.train.y, len(dataset.train)) == (None, None, 2)


def test_labels_are_sorted_as_numbers_where_they_are_and_fractions_are_a_regression(tmp_path):
    def loaded(*labels):
        return load(write(tmp_path, "a.txt", lines([("good food", label) for label in labels])))

    assert loaded("10", "9", "-1").class_labels == ("-1", "9", "10")
    dataset = loaded("0.5", "2")
    assert (dataset.task, dataset.class_labels) == ("regression", None)
    assert dataset.train.y.tolist() == [0.5, 2.0]
    assert dataset.train.y.dtype == np.float32


def test_tabs_and_other_separators_inside_a_text_stay_there(tmp_path):
    dataset = load(write(tmp_path, "a.txt", "a\tfood\u0085food\t1\nfood\t0\n"))
    assert len(dataset.train) == 2
    assert dataset.train.inputs["mask"].sum(axis=1).tolist() == [3, 1]


@pytest.mark.parametrize(
    ("name", "content", "target", "message"),
    [
        ("a.txt", "", None, "empty, expected a text and its label"),
        ("a.txt", "good\t1\nbad food\n", None, "line 2 is no text, tab and label: 'bad food'"),
        ("a.txt", "good\t1\n\t0\n", None, "line 2 is no text, tab and label"),
        ("a.txt", "good food\t1\nbad food\t \n", None, "line 2 is no text"),
        ("a.txt", lines(), "label", "leave the target out"),
        ("a.txt", b"good\t1\ncaf\xe9\t0\n", None, "line 2 is not UTF-8.*iconv"),
        ("a.txt", "one\t1\ntwo\t0\n", None, "no word of the 2 texts occurs 2 times"),
        ("a.tsv", "text\tlabel\n", None, "and rows"),
        ("a.tsv", "text\tlabel\na food\t1\nfood\n", None, "line 3 has 1 cells, expected 2"),
        ("a.tsv", "text\ta\tb\nfood\t1\t2\n", None, "no column 'label' for the labels"),
        ("a.tsv", "text\ta\tb\nfood\t1\t2\n", "c", "no column 'c'"),
        ("a.tsv", "text\tlabel\nfood\t\n", None, "line 2 has no label"),
        ("a.csv", "text\nfood\n", "label", "no column 'label'"),
        ("a.csv", 'text,label\nfood,1\n"bad,0\n', None, "not well-formed CSV"),
        ("a.csv", "text,label\nfood,1\n ,0\n", None, "line 3 is an empty text"),
    ],
)
def test_bad_texts_say_where_and_what_came(name, content, target, message, tmp_path):
    with pytest.raises(DataError, match=f"'.*{name}': .*{message}"):
        load(write(tmp_path, name, content), target=target)


def test_folders_without_classes_are_told(tmp_path):
    write(tmp_path / "flat", "a.txt", lines())
    with pytest.raises(DataError, match=r"no class folders; name a file of them, such as .*a\.txt"):
        load(tmp_path / "flat")
    write(tmp_path / "odd", "a/b/c/1.txt", "x")
    write(tmp_path / "odd", "a/d.txt", "x")
    with pytest.raises(DataError, match="tells no class, expected <class>/<file>"):
        load(tmp_path / "odd")
    write(tmp_path / "mixed", "train/a/1.txt", "x")
    write(tmp_path / "mixed", "a/1.txt", "x")
    with pytest.raises(DataError, match="files lie at different depths"):
        load(tmp_path / "mixed")


def test_a_folder_of_idx_files_stays_one_whatever_lies_below_it(tmp_path):
    write(tmp_path, "train-labels-idx1-ubyte", b"")
    write(tmp_path, "notes/readme.txt", "hello")
    with pytest.raises(DataError, match="holds no train images"):
        load(tmp_path)


def test_a_class_that_training_lacks_and_a_bad_file_are_told(tmp_path):
    write(tmp_path / "r", "train/a/1.txt", "food food")
    write(tmp_path / "r", "train/b/1.txt", "food food")
    write(tmp_path / "r", "test/c/1.txt", "food")
    with pytest.raises(DataError, match="the test part has the class 'c', training has not"):
        load(tmp_path / "r")
    write(tmp_path / "r", "test/c/1.txt", b"\xff")
    with pytest.raises(DataError, match=r"'test/c/1\.txt': line 1 is not UTF-8"):
        load(tmp_path / "r")
    write(tmp_path / "r", "test/c/1.txt", " ")
    with pytest.raises(DataError, match=r"'test/c/1\.txt' is an empty text"):
        load(tmp_path / "r")


def test_uci_sentences_are_read_as_they_are():
    folder = SHARED / "data" / "sentiment-uci"
    if not folder.is_dir():
        pytest.skip(f"no folder '{folder}'; HLSERVE_SHARED names its root")
    for name in ("amazon_cells", "imdb", "yelp"):
        dataset = load(folder / f"{name}_labelled.txt")
        assert len(dataset.train) == 1000
        assert np.bincount(dataset.train.y).tolist() == [500, 500]
        assert 500 < dataset.frontend.vocabulary_size < 2000
        assert (dataset.train.inputs["mask"].sum(axis=1) > 0).all()


def test_a_front_end_is_taken_from_its_json(tmp_path):
    path = write(tmp_path, "a.txt", lines())
    given = Words(vocabulary=("food",), max_length=3)
    file = write(tmp_path, "words.json", json.dumps(to_json(given)))
    assert load(path, frontend=str(file)).frontend == given
    with pytest.raises(DataError, match=r"absent\.json': cannot be read"):
        load(path, frontend="absent.json")
    with pytest.raises(ModelFileError, match=r"bad\.json is no JSON"):
        load(path, frontend=str(write(tmp_path, "bad.json", "{")))
