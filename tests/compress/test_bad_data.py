"""Rows that can say nothing are refused with the first wrong row; doubtful ones are told of."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from compress.evaluate import make_judge
from compress.export import to_onnx
from compress.job import compress
from compress.metric import ACCURACY, F1, MAE, MSE, ROC_AUC
from compress.row_checks import (
    require_finite_answers,
    require_sane,
    takes_gaps,
    warnings_about,
)
from compress.session import Session
from compress.splits import Place
from hlserve.datasets import Rows
from hlserve.errors import DataError
from hlserve.nn.architectures import build_for

WIDTH, N_CLASSES = 4, 3


def model_of(operator, n_outputs=N_CLASSES):
    """Answers ``operator`` of the first numbers of a row, so that tests know every answer."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", WIDTH])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", n_outputs])
    weights = helper.make_tensor("w", TensorProto.FLOAT, [WIDTH, n_outputs], np.eye(
        WIDTH, n_outputs, dtype=np.float32).ravel())  # fmt: skip
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["scores"]),
        helper.make_node(operator, ["scores"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "g", [x], [y], [weights])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


CLASSIFIER, NUMBERS = model_of("Softmax"), model_of("Identity", 1)


def judged(y, metric=None, model=CLASSIFIER):
    session = Session(model.SerializeToString())
    return make_judge(model, session, y, metric=metric), session


def rows(n=60, seed=0):
    """Rows that the classifier answers rightly."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, N_CLASSES, n)
    x = rng.uniform(0, 0.1, (n, WIDTH)).astype(np.float32)
    x[np.arange(n), y] += 3
    return Rows({"x": x}, y)


def changed(what, row, value, y_dtype=None):
    """The rows with one number, or one label, put wrong."""
    made = rows()
    x, y = made.x.copy(), made.y.astype(y_dtype or made.y.dtype)
    if what == "x":
        x[row, 1] = value
    else:
        y[row] = value
    return Rows({"x": x}, y)


def check(made, metric=ACCURACY, **options):
    judge, session = judged(made.y, metric)
    require_sane(made, judge, session, **({"has_gaps": False, "where": "--eval"} | options))


REFUSED = {
    "no rows": (rows(0), ACCURACY, "--eval: there are no rows"),
    "NaN": (changed("x", 7, np.nan), ACCURACY, "input 'x': row 7 holds NaN, and the model does"),
    "infinity": (changed("x", 9, np.inf), ACCURACY, "input 'x': row 9 holds infinity"),
    "label too large": (changed("y", 5, 3), ACCURACY, "label 3 does not fit, in row 5: .*0 to 2"),
    "negative label": (changed("y", 6, -1), F1, "--eval: label -1 does not fit, in row 6"),
    "counted from 1": (Rows(rows().inputs, rows().y + 1), ACCURACY, "seem to count from 1"),
    "fractions": (changed("y", 0, 0.5, np.float32), ROC_AUC, "are float32, and roc_auc compares"),
    "NaN label": (changed("y", 8, np.nan, np.float64), MSE, "the label of row 8 is NaN"),
    "texts": (Rows(rows().inputs, rows().y.astype(str)), ACCURACY, "labels are <U21, expected num"),
    "one class, F1": (Rows(rows().inputs, 0 * rows().y), F1, "all 60 labels are class 0; f1 needs"),
    "one class, AUC": (Rows(rows().inputs, 0 * rows().y), ROC_AUC, "roc_auc needs two classes"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_rows_that_can_say_nothing_are_refused(name):
    made, metric, message = REFUSED[name]
    with pytest.raises(DataError, match=message):
        check(made, metric)


def test_messages_name_the_row_of_what_the_user_gave():
    place = Place("train.npz", np.arange(60) * 100 + 17)
    for made, metric, message in (
        (changed("x", 7, np.nan), ACCURACY, "input 'x': row 717 of train.npz holds NaN"),
        (changed("x", 9, np.inf), ACCURACY, "input 'x': row 917 of train.npz holds infinity"),
        (changed("y", 5, 3), ACCURACY, "label 3 does not fit, in row 517 of train.npz: "),
        (changed("y", 8, np.nan, np.float64), MSE, "the label of row 817 of train.npz is NaN"),
    ):
        with pytest.raises(DataError, match=message):
            check(made, metric, place=place)
    judge, _ = judged(np.zeros(3, np.float32), MSE, NUMBERS)
    with pytest.raises(DataError, match=r"answers row 117 of train\.npz with an infinite"):
        require_finite_answers(judge, np.array([[0.0], [np.inf], [1.0]]), place)


@pytest.mark.parametrize("metric", [ACCURACY, F1, ROC_AUC, MSE, None])
def test_good_rows_pass_without_a_word(metric):
    made = rows()
    if metric is MSE:
        made = Rows(made.inputs, np.eye(N_CLASSES, dtype=np.float32)[made.y])
    check(made, metric)
    judge, session = judged(made.y, metric)
    assert warnings_about(judge, judge.answers(session, made.inputs), made.y) == []


def test_rows_that_are_only_learned_from_may_be_of_one_class():
    check(Rows(rows().inputs, 0 * rows().y), F1, judges=False)


def test_gaps_are_for_models_that_fill_them():
    check(changed("x", 7, np.nan), has_gaps=True)
    with pytest.raises(DataError, match="row 9 holds infinity"):
        check(changed("x", 9, -np.inf), has_gaps=True)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 5)).astype(np.float32)
    y = rng.integers(0, 2, 80)
    assert not takes_gaps(to_onnx(build_for("mlp:4", x, y, task="classification")))
    x[::9, 2] = np.nan
    assert takes_gaps(to_onnx(build_for("mlp:4", x, y, task="classification")))
    assert not takes_gaps(CLASSIFIER)


def test_an_additive_mask_may_hold_minus_infinity():
    made = rows()
    mask = np.where(made.x > 0.05, 0, -np.inf).astype(np.float32)
    check(Rows({"x": made.x, "mask": mask}, made.y))


def test_infinite_answers_are_refused_where_they_are_reckoned_with():
    judge, _ = judged(np.zeros(3, np.float32), MSE, NUMBERS)
    with pytest.raises(DataError, match="answers row 1 with an infinite number in output 'y'"):
        require_finite_answers(judge, np.array([[0.0], [np.inf], [1.0]]))
    scores, _ = judged(np.zeros(3, np.int64), ACCURACY)
    require_finite_answers(scores, np.array([[0.0, -np.inf, 1.0]]))  # log-probabilities


# ----- what is told of


def told(made, metric, model=CLASSIFIER):
    judge, session = judged(made.y, metric, model)
    return warnings_about(judge, judge.answers(session, made.inputs), made.y)


@pytest.mark.parametrize("metric", [ACCURACY, F1, ROC_AUC], ids=lambda m: m.name)
def test_shuffled_labels_are_noticed_with_both_numbers(metric):
    made = rows(300)
    shuffled = Rows(made.inputs, np.random.default_rng(1).permutation(made.y))
    (warning,) = told(shuffled, metric)
    judge, session = judged(made.y, metric)
    value = judge.value(judge.answers(session, made.inputs), shuffled.y)
    assert f"no better than chance: {metric.name} is {value:.4g}, " in warning
    assert "reaches 0." in warning
    assert "differs" not in warning


def test_labels_in_another_order_are_recognised():
    made = rows(300)
    (warning,) = told(Rows(made.inputs, (made.y + 1) % N_CLASSES), ACCURACY)
    assert "accuracy is 0, the best constant answer reaches 0.3" in warning
    assert "numbered otherwise it would be right on 100 %" in warning


@pytest.mark.parametrize(("metric", "chance"), [(MSE, "0.25"), (MAE, "0.5")])
def test_numbers_that_a_constant_tells_as_well_are_noticed(metric, chance):
    made = rows(100)
    y = np.tile([0, 1], 50).astype(np.float32)
    (warning,) = told(Rows(made.inputs, y), metric, NUMBERS)
    assert f"a constant answer reaches {chance}" in warning
    assert told(Rows(made.inputs, made.x[:, 0]), metric, NUMBERS) == []


def test_one_class_only_is_a_warning_for_accuracy():
    made = rows()
    (warning,) = told(Rows(made.inputs, np.full(60, 2)), ACCURACY)
    assert warning.startswith("WARNING: all 60 labels are class 2")


def test_classes_that_no_row_has_are_named():
    made = rows().take(np.flatnonzero(rows().y < 2))
    (note,) = told(made, ACCURACY)
    assert note == (
        "the labels hold 2 of the 3 classes that output 'y' tells apart: nothing is known of "
        "class 2."
    )


def test_without_labels_there_is_nothing_to_doubt():
    judge, session = judged(None)
    made = rows()
    assert warnings_about(judge, judge.answers(session, made.inputs), None) == []
    check(Rows(made.inputs), None)


# ----- the whole job


def spoil(made, name):
    x, y = made.x.astype(np.float32), made.y.copy()
    if name == "NaN":
        x[3, 0] = np.nan
    else:
        y[4] = 17
    return Rows({"x": x}, y)


@pytest.mark.parametrize(
    ("name", "message"),
    [("NaN", "row 3 of {} holds NaN"), ("label", "label 17 does not fit, in row 4 of {}")],
)
@pytest.mark.parametrize("part", ["learn from", "judge with"])
def test_the_job_refuses_bad_rows_before_it_works(trained_mlp, mlp_rows, name, message, part):
    bad = spoil(mlp_rows, name)
    train, valid = (bad, mlp_rows) if part == "learn from" else (mlp_rows, bad)
    started = []
    message = message.format("train" if part == "learn from" else "valid")
    with pytest.raises(DataError, match=f"{message}"):
        compress(to_onnx(trained_mlp), train=train, valid=valid, max_drop=0.1, tell=started.append)
    assert started == []


@pytest.mark.parametrize("row", [0, 421, 899])
def test_a_row_that_was_set_apart_is_named_as_it_stands_in_the_file(trained_mlp, mlp_rows, row):
    x = mlp_rows.x.astype(np.float32)
    x[row, 3] = np.nan
    with pytest.raises(DataError, match=f": row {row} of train holds NaN"):
        compress(to_onnx(trained_mlp), train=(x, mlp_rows.y), max_drop=0.1)


def test_the_job_tells_of_labels_that_are_not_those_of_the_rows(trained_mlp, mlp_rows):
    wrong = Rows(mlp_rows.inputs, np.random.default_rng(0).permutation(mlp_rows.y))
    result = compress(
        to_onnx(trained_mlp), train=mlp_rows, valid=wrong, max_drop=0.1, minimize="bytes",
        batches=(1,),
    )  # fmt: skip
    assert any("no better than chance" in note for note in result.notes)


def test_the_file_that_answers_for_these_tests_is_valid():
    for model in (CLASSIFIER, NUMBERS):
        onnx.checker.check_model(model, full_check=True)
