"""What ships: every name leads to a folder with a model of the kind that it is for."""

import pytest

from deed.cli.serve import named
from deed.pipelines.making import _SHIPPED
from deed.utils.saved_model import read_saved_model
from deed.utils.shipped import CHECKPOINTS, NAMES, shipped

TYPES = {"documents": "latr", "paperwork": "latr", "pictures": "ofa", "pronunciation": "t5"}


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_a_model_of_its_kind(name):
    folder = shipped(name)
    assert folder.parent == CHECKPOINTS and read_saved_model(folder).model_type == TYPES[name]
    assert (folder / "README.md").is_file(), "a model card"
    assert named(name) == (name, str(folder))


def test_pipelines_know_shipped_models_by_these_names():
    assert {name for names in _SHIPPED.values() for name in names} <= set(NAMES)
