"""Muon and AdamW as one optimizer: both step, schedules reach both, checkpoints give both back."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR

from deed.training.muon import MuonWithAdamW


def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)).double()


def optimizer_of(net, rate=0.02, decay=0.1):
    matrices = [p for p in net.parameters() if p.ndim == 2]
    return MuonWithAdamW(matrices, [{"params": [p for p in net.parameters() if p.ndim == 1]}], rate, decay)


def train(net, optimizer, schedule, steps, first=0):
    for step in range(first, first + steps):
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(16, 6, generator=generator, dtype=torch.float64)
        y = torch.stack([x.sum(1), x[:, 0]], 1)
        optimizer.zero_grad()
        loss = (net(x) - y).pow(2).mean()
        loss.backward()
        optimizer.step()
        schedule.step()
    return float(loss)


def test_matrices_step_as_muon_does_and_the_rest_as_adamw():
    net, twin = model(), model()
    optimizer = optimizer_of(net)
    muon = torch.optim.Muon(
        [p for p in twin.parameters() if p.ndim == 2], lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
    )
    adamw = torch.optim.AdamW([p for p in twin.parameters() if p.ndim == 1], lr=0.02, weight_decay=0.0)
    for _ in range(3):
        for one, parts in ((net, [optimizer]), (twin, [muon, adamw])):
            one.zero_grad()
            one(torch.ones(3, 6, dtype=torch.float64)).pow(2).sum().backward()
            for part in parts:
                part.step()
    for mine, theirs in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_it_learns_and_a_schedule_reaches_both():
    net = model()
    optimizer = optimizer_of(net)
    schedule = LambdaLR(optimizer, lambda step: 1 - step / 400)
    first = train(net, optimizer, schedule, 1)
    assert train(net, optimizer, schedule, 300) < first / 4
    assert {group["lr"] for group in optimizer.parts[0].param_groups} == {0.02 * (1 - 301 / 400)}
    assert {group["lr"] for group in optimizer.parts[1].param_groups} == {0.02 * (1 - 301 / 400)}


def test_a_run_goes_on_from_its_state():
    net = model()
    optimizer = optimizer_of(net)
    schedule = LambdaLR(optimizer, lambda step: 1 / (1 + step))
    train(net, optimizer, schedule, 3)
    again = copy.deepcopy(net)
    resumed = optimizer_of(again)
    other = LambdaLR(resumed, lambda step: 1 / (1 + step))
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    other.load_state_dict(schedule.state_dict())
    train(net, optimizer, schedule, 3, 3)
    train(again, resumed, other, 3, 3)
    for mine, theirs in zip(net.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


def test_another_optimizers_state_is_refused():
    net = model()
    state = torch.optim.AdamW(net.parameters()).state_dict()
    with pytest.raises(ValueError, match="begun with another optimizer"):
        optimizer_of(net).load_state_dict(state)


def test_a_closure_gives_its_loss():
    net = model()
    optimizer = optimizer_of(net)

    def closure():
        optimizer.zero_grad()
        loss = net(torch.ones(2, 6, dtype=torch.float64)).pow(2).sum()
        loss.backward()
        return loss

    before = float(closure())
    assert float(optimizer.step(closure)) == before
    assert float(closure()) != before
