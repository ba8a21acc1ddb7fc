"""`exact=True` gives full depth's tokens in every class, by its layers' parts where there are any, greedy and sampled."""

import pytest
import torch
from cases import CASES

from deed.engine.exact_tuning import Tuner


def cast(value, dtype):
    return value.to(dtype) if value.is_floating_point() else value


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_exact_is_full_depth(name, dtype, monkeypatch):
    monkeypatch.setattr(Tuner, "warm", False)  # four drafts each time, whatever they cost
    case = CASES[name]
    model = case.deed().to(dtype)  # of its own: some classes keep what a call of generate() changed
    source = {k: cast(v, dtype) for k, v in case.inputs.items()}
    drafted = 0
    for mode in ({"do_sample": False}, {"do_sample": True, "temperature": 1.5}):
        options = {"max_new_tokens": 9, "min_new_tokens": 6, **case.options, **mode, "return_dict_in_generate": True}
        torch.manual_seed(0)
        expected = model.generate(**source, exit_threshold=2.0, **options)
        torch.manual_seed(0)
        got = model.generate(**source, exit_threshold=0.0, exact=True, **options)
        assert torch.equal(got["sequences"], expected["sequences"])
        depths = got["exit_layers"]
        if isinstance(depths, list):
            assert [len(each) for each in got["accepted"]] == [len(each) for each in depths]
            assert all(stats["verifying_passes"] for stats in got["stats"])
        for each in depths if isinstance(depths, list) else [depths]:  # Whisper: of every inner generation
            drafted += int((each < model.deed_config.exit_layers[-1]).sum())
    assert drafted >= 2
