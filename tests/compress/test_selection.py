"""Choosing among many breaks a bound that was made for one; the corrected ones hold."""

import numpy as np
import pytest

from compress.bound import drop
from compress.metric import ACCURACY, MSE
from compress.selection import effective_comparisons

N_CANDIDATES, ROWS, TRUE_LOSS = 20, 400, 0.02


def alike(rng, likeness):
    """Losses of candidates that all cost as much in truth, and err partly on the same rows."""
    shared = rng.normal(size=ROWS)
    own = rng.normal(size=(N_CANDIDATES, ROWS))
    return TRUE_LOSS + 0.2 * (np.sqrt(likeness) * shared + np.sqrt(1 - likeness) * own)


def share_covered(make, n_draws, bound):
    rng = np.random.default_rng(0)
    held = []
    for _ in range(n_draws):
        losses = make(rng)
        chosen = int(np.argmin(losses.mean(axis=1)))
        held.append(bound(losses, chosen) >= TRUE_LOSS)
    return np.mean(held)


def selected(losses, chosen):
    """The search's own bound of the chosen one, as numbers whose mean falls by the losses."""
    zeros = np.zeros(losses.shape[1])
    return drop(MSE, zeros, losses[chosen], comparisons=effective_comparisons(losses)).upper


def naive(losses, chosen):
    return drop(MSE, np.zeros(losses.shape[1]), losses[chosen]).upper


def bonferroni(losses, chosen):
    zeros = np.zeros(losses.shape[1])
    return drop(MSE, zeros, losses[chosen], comparisons=len(losses)).upper


@pytest.mark.parametrize("likeness", [0.0, 0.8])
def test_the_bound_of_the_chosen_holds_where_a_naive_one_breaks(likeness):
    def make(rng):
        return alike(rng, likeness)

    # nominal 0.95, less three standard errors of 300 draws, 0.038
    assert share_covered(make, 300, naive) < 0.85
    assert share_covered(make, 100, selected) >= 0.89  # of 100 draws: 0.065
    assert share_covered(make, 300, bonferroni) >= 0.912


def test_the_bound_of_chosen_answers_right_or_wrong_holds():
    """Rows that are wrong with each candidate, at a true drop of two points."""

    def make(rng):
        return (rng.random((N_CANDIDATES, ROWS)) < TRUE_LOSS).astype(np.float64)

    def corrected(losses, chosen):
        counted = effective_comparisons(losses)
        return drop(ACCURACY, 0 * losses[chosen], -losses[chosen], comparisons=counted).upper

    assert share_covered(make, 200, lambda x, i: drop(ACCURACY, 0 * x[i], -x[i]).upper) < 0.8
    assert share_covered(make, 60, corrected) >= 0.9


@pytest.mark.parametrize("likeness", [0.0, 0.5, 0.9, 1.0])
def test_likeness_is_never_a_loss_and_pays_where_it_is_large(likeness):
    losses = alike(np.random.default_rng(3), likeness)
    counted = effective_comparisons(losses)
    assert 1 <= counted <= N_CANDIDATES
    chosen = int(np.argmin(losses.mean(axis=1)))
    assert selected(losses, chosen) <= bonferroni(losses, chosen) + 1e-12
    if likeness == 1.0:  # all are one
        assert counted == pytest.approx(1, abs=0.1)  # by 40,000 draws
    if likeness == 0.9:
        assert counted < N_CANDIDATES / 2


def test_one_candidate_is_no_choice():
    losses = alike(np.random.default_rng(0), 0.0)[:1]
    assert effective_comparisons(losses) == 1
    assert selected(losses, 0) == pytest.approx(naive(losses, 0))
    assert selected(losses[:, :1], 0) == np.inf


def test_candidates_that_changed_nothing_count_each_by_itself():
    counted = effective_comparisons(np.zeros((10, 100)))
    assert 9.5 < counted <= 10  # Sidak's 9.77, less an error of 2 % in the draws
    assert effective_comparisons(np.zeros((10, 1))) == 10


def test_the_same_losses_give_the_same_bound():
    losses = alike(np.random.default_rng(0), 0.5)
    assert selected(losses, 3) == selected(losses, 3)
