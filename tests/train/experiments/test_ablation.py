"""The ablation of the training recipe: each variant changes something that exists, and trains."""

import pytest

from tests import helpers
from train.cli import train
from train.experiments import ablation
from train.model import fine_tune, recipe

pytest.importorskip("tensorflow")


@pytest.mark.parametrize("name", list(ablation.VARIANTS)[1:])
def test_every_variant_changes_something_that_the_recipe_has(name):
    options = train.parser().parse_args(["train.tsv", "--out", "bundle"])
    options.fine_tune = recipe.BLOCKS
    changes = [
        (getattr(module, key), value)
        for module, values in zip((fine_tune, recipe, options), ablation.VARIANTS[name])
        for key, value in values.items()
    ]
    assert changes and all(before != after for before, after in changes)


@pytest.mark.slow
def test_a_variant_trains_in_a_process_of_its_own_and_gets_a_line_beside_the_head(tmp_path, capsys):
    rows = helpers.write_photos(tmp_path / "photos", per_class=6)
    helpers.write_table(tmp_path / "train.tsv", rows)
    ablation.main(
        ["--only", "without label smoothing", "--", str(tmp_path / "train.tsv"), "--images", str(tmp_path / "photos")]
        + ["--weights", "none", "--fine-tune", "1", "--fine-tune-epochs", "1", "--epochs", "5"]
    )
    lines = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == ["variant", "---", "the head alone", "without label smoothing"]
    for line in lines[2:]:
        assert float(line[1]) >= 0 and 0 <= float(line[2]) <= 1 and 0 <= float(line[3]) <= 1
    assert fine_tune.LABEL_SMOOTHING  # this process is untouched
