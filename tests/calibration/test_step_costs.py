"""What a step costs: known costs are found again by the clock of a model that takes exactly so long; a real run."""

import json
from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch

from conftest import deed_model
from deed import DeedConfig
from deed.calibration import step_costs
from deed.calibration.step_costs import Costs, measure_costs
from deed.cli.demo import CHECKPOINT
from deed.utils import timing


class Clockwork(torch.nn.Module):
    """`generate()` advances a clock by what a decoder with these costs (in seconds) would take."""

    def __init__(self, exits, layer, ask, fixed, first, width, adapter="residual_linear", draft=None):
        super().__init__()
        self.deed_config = SimpleNamespace(exit_layers=exits, adapter=adapter, draft_head=draft and {"rank": 8})
        self.draft = draft
        self.generation_config = SimpleNamespace(max_new_tokens=None)
        self.device, self.encoder, self.time = torch.device("cpu"), torch.nn.Identity(), 0.0
        self.costs = (layer, ask, fixed, first, width)

    def get_encoder(self):
        return self.encoder

    def generate(self, exit_policy, max_length, min_length, **options):
        assert max_length == min_length and options["do_sample"] is False
        self.encoder(options["input_ids"])  # timed apart, by hooks
        layer, ask, fixed, first, width = self.costs
        filled = {}
        for step in range(max_length - 1):
            schedule = exit_policy.to_dict()["depths"]
            depth = next(e for e in self.deed_config.exit_layers if e >= schedule[step % len(schedule)])
            last, asked = self.deed_config.exit_layers[-1], ask if self.deed_config.draft_head is None else self.draft
            self.time += fixed + (ask if depth == last else asked)  # the exit left by
            if self.deed_config.adapter == "layer":
                run = [e for e in self.deed_config.exit_layers[:-1] if e == depth or (e < depth and exit_policy.ask)]
                self.time += sum(layer + first * (-e not in filled) for e in run)
                filled.update({-e: step + 1 for e in run})
            self.time += asked * sum(e < depth for e in self.deed_config.exit_layers) * exit_policy.ask
            for at in range(1, depth + 1):
                block = step + 1 - filled.get(at, 0)
                self.time += layer * (1 + width * (block - 1)) + first * (at not in filled)
                filled[at] = step + 1


@pytest.mark.parametrize("draft", [None, 1e-3])
@pytest.mark.parametrize("adapter", ["residual_linear", "layer"])
@pytest.mark.parametrize("exits", [[1, 2, 3, 4, 5, 6], [2, 6]])
def test_finds_the_costs_again(monkeypatch, exits, adapter, draft):
    model = Clockwork(exits, layer=2e-3, ask=5e-3, fixed=3e-3, first=7e-3, width=0.14, adapter=adapter, draft=draft)
    spec = model.deed_config.draft_head
    for module in (step_costs, timing):
        monkeypatch.setattr(module, "now", lambda device: model.time)
    found = measure_costs(model, {"input_ids": torch.zeros(1, 3)}, repeats=1)
    assert found.layer_ms == pytest.approx(2.0)
    assert found.exit_check == pytest.approx(2.5 if draft is None else 0.5) and found.fixed == pytest.approx(1.5)
    assert found.at_last == pytest.approx(2.5) and (found.last_check is None) == (draft is None)
    assert model.deed_config.draft_head == spec
    assert found.first_use == pytest.approx(3.5) and found.extra_position == pytest.approx(0.14)
    assert found.exit_layer == (adapter == "layer")
    assert not model.encoder._forward_hooks and not model.encoder._forward_pre_hooks


@pytest.mark.parametrize("exits", [None, [2]])
@pytest.mark.parametrize("draft", [None, {"rank": 4, "refine": 2}])
def test_a_real_model(kind, exits, draft):
    model = deed_model(kind, DeedConfig(exit_layers=exits, draft_head=draft), dtype=torch.float32).train()
    found = measure_costs(model, steps=16, repeats=1)
    assert found.layer_ms > 0 and found.layer == 1.0 and 0 <= found.extra_position <= 1
    assert min(found.exit_check, found.fixed, found.first_use) >= 0 and model.training
    assert model.deed_config == DeedConfig(exit_layers=exits, draft_head=draft).resolve(5)


def test_refusals():
    with pytest.raises(ValueError, match="no exit before the last"):
        measure_costs(deed_model("t5_tied", DeedConfig(exit_layers=[5])))
    with pytest.raises(ValueError, match="steps must be a multiple of 8"):
        measure_costs(deed_model("t5_tied"), steps=20)
    with pytest.raises(ValueError, match="costs: exit_check must be"):
        Costs(exit_check=-1.0)
    with pytest.raises(ValueError, match="layer is the unit"):
        Costs(exit_check=1.0, layer=0.0)
    assert Costs(layer=2.0, exit_check=5.0, fixed=3.0) == Costs(exit_check=2.5, fixed=1.5)
    assert Costs(layer=2.0, exit_check=1.0, last_check=5.0) == Costs(exit_check=0.5, last_check=2.5)


def test_costs_of_earlier_curves_are_still_read():
    """The shipped models' curves were recorded with the names `ask`, `first` and `width`."""
    recorded = json.loads((CHECKPOINT / "config.json").read_text())["deed_config"]["curve"]["costs"]["plain"]
    found = Costs.from_dict(recorded)
    assert (found.exit_check, found.first_use, found.extra_position) == tuple(
        recorded[name] for name in ("ask", "first", "width")
    )
    assert Costs.from_dict(asdict(found)) == found


def test_an_exit_right_below_the_last_saves_no_layer_of_its_own():
    model = deed_model("t5_tied", DeedConfig(exit_layers=[4], adapter="layer"))
    with pytest.raises(ValueError, match="saves no layer"):
        measure_costs(model)
