"""`exact=True` gives full depth's tokens in every class, by its layers' parts where there are any, greedy and sampled."""

import pytest
import torch

import tiny_rotary  # noqa: F401
import tiny_t5  # noqa: F401
from deed import get_deed_model
from deed.families.base import family_of
from tiny import TINY


def known(name):
    try:
        return family_of(TINY[name].build()) is not None
    except (TypeError, ValueError):
        return False


NAMES = [name for name in TINY if known(name)]


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_exact_is_full_depth(name):
    model = get_deed_model(TINY[name].build())
    torch.manual_seed(1)
    for p in model.deed_exits.parameters():
        p.add_(torch.randn_like(p) * 0.1)
    source = TINY[name].inputs(3)
    drafted = 0
    for mode in ({}, {"do_sample": True, "temperature": 1.5}):
        options = {"max_new_tokens": 9, "min_new_tokens": 6, **TINY[name].options, **mode}
        if "Whisper" not in name:
            options["return_dict_in_generate"] = True
        torch.manual_seed(0)
        expected = model.generate(**source, exit_threshold=2.0, **options)
        torch.manual_seed(0)
        got = model.generate(**source, exit_threshold=0.0, exact=True, **options)
        if "Whisper" in name:
            assert torch.equal(getattr(got, "sequences", got), getattr(expected, "sequences", expected))
            continue
        assert torch.equal(got.sequences, expected.sequences)
        drafted += int((got.exit_layers < model.deed_config.exit_layers[-1]).sum() + got.accepted.sum())
    assert drafted > 5 or "Whisper" in name


def test_there_are_families_to_compare():
    assert len(NAMES) >= 10
