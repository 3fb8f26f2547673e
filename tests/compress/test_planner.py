"""How a search goes on by what it found: what is trained longer, and when it ends."""

import pytest

from compress.clock import Clock
from compress.pace import Pace
from compress.workshop import Workshop
from tests.compress.ladders import MAX_DROP, candidates

LONGER = "trained longer"


def trained(model, rows, folder, drop_of, **wishes):
    found, notes = candidates(model, rows, folder, drop_of=drop_of, minimize="macs", **wishes)
    return [c.name for c in found if "pruned to" in c.name and "low rank" not in c.name], notes


def test_a_near_miss_is_trained_longer_until_it_holds(trained_mlp, mlp_rows, tmp_path):
    def drop_of(name):
        if "pruned" not in name:
            return 0.0
        patience = {"trained longer 2 times": 0.5, LONGER: 1.5}
        return MAX_DROP * next((v for words, v in patience.items() if words in name), 2.0)

    names, _ = trained(trained_mlp, mlp_rows, tmp_path, drop_of, most=20)
    assert any(f"{LONGER} 2 times" in name for name in names)
    assert not any(f"{LONGER} 3 times" in name for name in names)
    widths = list(dict.fromkeys(name.split(",")[0] for name in names))
    assert len(widths) > 1  # it held, so it goes on


def test_what_gets_no_better_is_not_trained_on(trained_mlp, mlp_rows, tmp_path):
    names, _ = trained(
        trained_mlp, mlp_rows, tmp_path,
        lambda name: 2 * MAX_DROP if "pruned" in name else 0.0, most=40,
    )  # fmt: skip
    assert any(name.split(", int8")[0].endswith(LONGER) for name in names)
    assert not any(f"{LONGER} 2 times" in name for name in names)


def test_what_is_far_outside_is_not_trained_longer(trained_mlp, mlp_rows, tmp_path):
    names, _ = trained(
        trained_mlp, mlp_rows, tmp_path, lambda name: float("pruned" in name), most=40
    )
    assert names
    assert not any(LONGER in name for name in names)


def test_without_time_nothing_is_trained_and_that_is_said(trained_mlp, mlp_rows, tmp_path):
    found, notes = candidates(trained_mlp, mlp_rows, tmp_path, clock=Clock(1e-6))
    assert {c.name for c in found} <= {"folded", "int8", "int8 per tensor"}
    assert any(
        note.startswith("nothing was trained: 0 s of the budget were left") for note in notes
    )


@pytest.mark.parametrize(
    ("jobs", "epochs", "stems", "needed"),
    [
        (1, 4, 2, 8.0),  # as before
        (1, 12, 1, 12.0),  # three times as long, half as many
        (2, 4, 2, 8.0),
        (2, 12, 1, 24.0),  # the second process has nothing to do
        (2, 4, 3, 16.0),
    ],
)
def test_the_next_trainings_are_reckoned_from_the_last(
    jobs, epochs, stems, needed, trained_mlp, mlp_data, tmp_path
):
    shop = Workshop.opened(trained_mlp, mlp_data, tmp_path / "shop", jobs=jobs, notes=[])
    pace = Pace(shop, Clock())
    assert pace.needs_s(epochs, stems) == 0.0  # nothing is known yet
    pace.heard(4, 2, 8.0)
    assert pace.needs_s(epochs, stems) == needed


def test_an_epoch_is_told_from_a_probe_and_only_once(trained_mlp, mlp_data, tmp_path):
    shop = Workshop.opened(trained_mlp, mlp_data, tmp_path / "shop", notes=[])
    pace = Pace(shop, Clock(1000.0))
    assert pace.epoch_s() > 0
    assert pace.epoch_s() == pace.epoch_s()
    assert pace.is_worth_beginning()
    assert not Pace(shop, Clock(1e-6)).is_worth_beginning()
