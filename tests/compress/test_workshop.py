"""Growing networks: here or in processes, kept, and gone on with."""

import dataclasses
import os
import signal
import threading

import numpy as np
import pytest

from compress.distillation import Distill, FineTune
from compress.pruning import PruneChannels
from compress.stem import Stem
from compress.technique import Data
from compress.workshop import Workshop
from hlserve.errors import ConfigError, TrainingError

ROOT = Stem("", "folded")
PRUNED = ROOT.grown("pruned", "pruned", PruneChannels(0.5), Distill(epochs=2))
CONTROL = ROOT.grown("control", "pruned", PruneChannels(0.5), FineTune(epochs=2))
DEEPER = PRUNED.grown("deeper", "pruned", PruneChannels(0.5), FineTune(epochs=1))


@pytest.fixture
def opened(trained_mlp, mlp_data, tmp_path):
    """Opens a workshop in a folder of its own, by the name of the folder."""

    def open_(name="shop", **settings):
        settings = {"notes": [], **settings}
        return Workshop.opened(trained_mlp, mlp_data, tmp_path / name, **settings)

    return open_


def values(grown):
    return [g.network.value for g in grown]


def test_processes_give_the_same_bits_as_this_one(opened):
    here = opened("here").grown([PRUNED, CONTROL])
    apart = opened("apart", jobs=2).grown([PRUNED, CONTROL])
    for ours, theirs in zip(values(here), values(apart), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert [r.technique for r in apart[0].reports] == ["PruneChannels", "Distill"]
    assert here[0].network.n_parameters < opened("other").network.n_parameters


def test_a_stem_goes_on_from_its_parent_and_tells_the_whole_way(opened):
    shop = opened()
    (parent,) = shop.grown([PRUNED])
    (child,) = shop.grown([DEEPER])
    assert child.network.n_parameters < parent.network.n_parameters
    techniques = [report.technique for report in child.reports]
    assert techniques == ["PruneChannels", "Distill", "PruneChannels", "FineTune"]


def test_what_was_grown_is_not_grown_again(opened, monkeypatch):
    first = opened().grown([PRUNED, PRUNED])
    assert len(first) == 2

    def refuse(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr("compress.workshop.take_steps", refuse)
    again = opened(is_resumed=True).grown([PRUNED])
    np.testing.assert_array_equal(first[0].network.value, again[0].network.value)
    assert again[0].seconds == first[0].seconds


def test_without_resume_it_begins_anew(opened):
    shop = opened()
    shop.grown([PRUNED])
    opened()
    assert not list(shop.folder.glob("*.safetensors"))


def test_a_search_of_other_rows_is_not_gone_on_with(opened, trained_mlp, mlp_data, tmp_path):
    opened("shop").grown([PRUNED])
    other = dataclasses.replace(mlp_data, seed=1)
    with pytest.raises(ConfigError, match="another model, other rows or another seed"):
        Workshop.opened(trained_mlp, other, tmp_path / "shop", is_resumed=True, notes=[])


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_does_not_fit_is_noted_and_the_rest_is_grown(opened, jobs):
    notes = []
    wrong = ROOT.grown("wrong", "pruned", PruneChannels(widths=(1, 2, 3)))
    found = opened(jobs=jobs, notes=notes).grown([wrong, PRUNED])
    assert [g.stem.name for g in found] == ["pruned"]
    assert len(notes) == 1
    assert notes[0].startswith("wrong was left out: ")


def test_without_labels_or_a_teacher_rows_are_handed_on_as_they_are(
    trained_mlp, mlp_rows, tmp_path
):
    data = Data(mlp_rows)
    shop = Workshop.opened(trained_mlp, data, tmp_path / "a", jobs=2, notes=[])
    longer = ROOT.grown("longer", "pruned", PruneChannels(0.5), FineTune(epochs=3))
    assert len(shop.grown([CONTROL, longer])) == 2


def test_a_worker_that_dies_is_an_error_and_leaves_no_process(opened):
    shop = opened(jobs=2)
    long = [ROOT.grown(f"long {n}", "pruned", FineTune(epochs=5000 + n)) for n in range(2)]
    import multiprocessing

    def kill_one():
        while len(multiprocessing.active_children()) < 2:
            pass
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    with pytest.raises(TrainingError, match="died"):
        shop.grown(long)
    killer.join()
    assert not multiprocessing.active_children()
