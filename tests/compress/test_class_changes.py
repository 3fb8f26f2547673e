import itertools
from fractions import Fraction

import numpy as np
import pytest

from compress.report.classes import class_changes, confusion_matrix, holm, sign_test
from hlserve.errors import DataError


@pytest.mark.parametrize("n", range(11))
def test_the_sign_test_is_the_enumeration_of_all_coins(n):
    for worse in range(n + 1):
        distance = abs(2 * worse - n)
        as_far = sum(
            abs(2 * sum(coins) - n) >= distance for coins in itertools.product((0, 1), repeat=n)
        )
        # sums of exponentials of lgamma: a few units in the last place
        assert sign_test(worse, n - worse) == pytest.approx(
            float(Fraction(as_far, 2**n)), rel=1e-12
        )


def test_holm_keeps_the_error_of_the_family_when_nothing_changed():
    rng = np.random.default_rng(0)
    families, n_classes = 1000, 10
    false_alarms = 0
    for _ in range(families):
        worse = rng.binomial(40, 0.5, n_classes)
        p = holm([sign_test(int(w), 40 - int(w)) for w in worse])
        false_alarms += min(p) < 0.05
    # binomial(1000, 0.05) exceeds 70 with a chance below 0.3 %
    assert false_alarms <= 70


def test_holm_agrees_with_its_definition_on_a_worked_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


def test_a_class_that_pays_is_named_and_the_others_are_not():
    truth = np.repeat([0, 1, 2], 200)
    before = truth.copy()
    after = truth.copy()
    after[:40] = 1  # class 0 loses 40 of 200
    after[200:201] = 2
    told = class_changes(truth, before, after, ["shirt", "1", "bag"], max_drop=0.005)
    (warning,) = told["warnings"]
    assert warning.startswith("class 0 (shirt) falls from 100.0 % to 80.0 % (proven, p = ")
    assert [c["worse"] for c in told["changes"]] == [40, 1, 0]
    assert [c["best"] for c in told["changes"]] == [0.8, 0.995, 1.0]


def test_a_fall_that_few_rows_cannot_prove_is_still_told():
    truth = np.zeros(20, np.int64)
    after = truth.copy()
    after[:3] = 1
    told = class_changes(truth, truth, after, ["a", "b"])
    assert len(told["warnings"]) == 1
    assert "not proven, p = 0.25" in told["warnings"][0]


def test_a_proven_fall_within_the_allowed_drop_is_no_warning():
    truth = np.zeros(10_000, np.int64)
    after = truth.copy()
    after[:30] = 1
    assert class_changes(truth, truth, after, ["a", "b"], max_drop=0.005)["warnings"] == []
    assert len(class_changes(truth, truth, after, ["a", "b"], max_drop=0.001)["warnings"]) == 1


def test_a_class_that_is_never_answered_any_more_is_told():
    truth = np.array([0, 0, 0, 1])
    told = class_changes(truth, truth, np.zeros(4, np.int64), ["0", "rare"])
    assert told["warnings"] == [
        "class 1 (rare) is never answered any more (the original answers it 1 times)"
    ]


def test_the_matrices_count_every_row_once(rng):
    truth, answers = rng.integers(0, 4, (2, 50))
    wanted = [[0] * 4 for _ in range(4)]
    for t, a in zip(truth, answers, strict=True):
        wanted[t][a] += 1
    assert confusion_matrix(truth, answers, 4) == wanted


def test_classes_of_the_same_name_and_without_rows_are_kept_apart():
    truth = np.array([0, 2, 2])
    told = class_changes(truth, truth, truth, ["same", "none", "same"])
    assert [c["rows"] for c in told["changes"]] == [1, 2]
    assert told["warnings"] == []


def test_indices_without_a_label_and_shapes_that_differ_are_refused():
    one = np.zeros(3, np.int64)
    with pytest.raises(DataError, match="after holds classes 2 to 2, expected 0 to 1"):
        class_changes(one, one, one + 2, ["a", "b"])
    with pytest.raises(DataError, match=r"before has shape \(2,\)"):
        class_changes(one, one[:2], one, ["a", "b"])
