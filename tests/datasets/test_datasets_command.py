import json

import pytest

from hlserve.cli import cli, run
from hlserve.datasets import KNOWN


def test_table_names_every_known_set_with_its_licence(capsys):
    assert run(cli, ["datasets"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for known in KNOWN:
        assert any(line.startswith(f"{known.name} ") and known.licence in line for line in lines)


def test_json_holds_the_facts_of_every_known_set(capsys):
    assert run(cli, ["datasets", "--json"]) == 0
    facts = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert set(facts) == {known.name for known in KNOWN}
    assert facts["fashion-mini"]["class_labels"][9] == "Ankle boot"
    assert facts["digits"]["shape"] == [1, 8, 8]


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_shows_an_example(capsys, option):
    assert run(cli, ["datasets", option]) == 0
    assert "hlserve datasets --json" in capsys.readouterr().out
