"""CUDA graphs: the same answers from static places that every replay overwrites (recorded by `recording.Tape`)."""

import copy
import pickle
import threading

import pytest
import torch

import deed
from conftest import KINDS, batch, deed_model
from deed.engine import cuda_graphs as graphs
from oracle import Oracle
from recording import DEVICE, using


def inputs(rows=4):
    return {k: v.to(DEVICE) for k, v in batch(rows).items()}


def decode(model, rows=4, threshold=0.5, **options):
    defaults = {"max_new_tokens": 12, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    return model.generate(**inputs(rows), exit_threshold=threshold, **{**defaults, **options})


def same(a, b):
    assert torch.equal(a.sequences, b.sequences)
    assert torch.equal(a.exit_layers, b.exit_layers)
    for x, y in zip(a.logits or (), b.logits or (), strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-10)


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
def test_answers_are_those_without(kind, rows, options, tape, packing):
    model = deed_model(kind).to(DEVICE)
    expected = [decode(model, rows, threshold, **options) for threshold in (0.3, 0.6, 0.9, 2.0)]
    assert torch.cat([one.exit_layers.flatten() for one in expected]).unique().numel() > 1
    using(model)
    for _ in range(2):  # eagerly, recorded, replayed
        for threshold, one in zip((0.3, 0.6, 0.9, 2.0), expected, strict=True):
            same(decode(model, rows, threshold, **options), one)
    assert tape.made > 3 * 5 and tape.run > 2 * tape.made


def test_the_oracle_agrees(kind, tape):
    model = using(deed_model(kind).to(DEVICE))
    for _ in range(2):
        found = decode(model, threshold=0.5, max_new_tokens=8)
    reference, _ = Oracle(model, 0.5).generate(inputs(), max_new_tokens=8, do_sample=False)
    assert tape.run > 0
    assert torch.equal(found.sequences, reference.sequences)


def test_sampling_draws_the_same(tape):
    model = deed_model("t5_tied").to(DEVICE)
    torch.manual_seed(3)
    expected = decode(model, do_sample=True)
    using(model)
    for _ in range(3):
        torch.manual_seed(3)
        same(decode(model, do_sample=True), expected)
    assert tape.run


@pytest.mark.parametrize("exit_check", [{"name": "screen", "bound": True}, {"name": "gate"}], ids=["screen", "gate"])
def test_exit_checks_go_with_it(exit_check, tape):
    model = deed_model("t5_tied").to(DEVICE)
    if exit_check["name"] == "gate":
        weight = torch.randn(4, 32, dtype=torch.float64)
        model.deed_exits["gate"] = deed.exits.learned.Learned(
            weight=weight, bias=torch.zeros(4, dtype=torch.float64)
        ).to(DEVICE)
    expected = decode(model, exit_check=exit_check)
    using(model)
    for _ in range(3):
        same(decode(model, exit_check=exit_check), expected)
    assert tape.run


def test_logits_stay_what_they_were(tape):
    """What a step gave is not overwritten by the next."""
    model = using(deed_model("bart").to(DEVICE))
    decode(model)
    first = decode(model)
    kept = [x.clone() for x in first.logits]
    decode(model, threshold=2.0)
    decode(model)
    for x, y in zip(first.logits, kept, strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize("change", ["in place", "replaced"])
def test_changed_weights_are_recorded_anew(kind, change, tape):
    model = using(deed_model(kind).to(DEVICE))
    decode(model), decode(model)
    made = tape.made
    decode(model)
    assert tape.made == made  # nothing changed: nothing recorded
    layer = model.deed_family.layers(model)[1]
    name, weight = next((n, p) for n, p in layer.named_parameters() if p.ndim > 1)
    with torch.no_grad():
        if change == "in place":
            weight.mul_(-1.5)
        else:
            owner, _, attribute = name.rpartition(".")
            setattr(layer.get_submodule(owner), attribute, torch.nn.Parameter(weight * -1.5))
    found = [decode(model) for _ in range(3)]
    assert tape.made > made
    graphs.use_cuda_graphs(model, False)
    for one in found:
        same(one, decode(model))


def test_adapters_and_hooks_run_as_they_are(tape):
    class Adapter(torch.nn.Linear):
        scale = 1.0

        def forward(self, x):
            return super().forward(x) * self.scale

    Adapter.__module__ = "somebody"
    model = using(deed_model("t5_tied").to(DEVICE))
    attention = model.decoder.block[1].layer[0].SelfAttention
    changed = Adapter(32, 32, bias=False, dtype=torch.float64, device=DEVICE)
    attention.o = changed
    decode(model), decode(model)
    assert tape.made == 0
    changed.scale = 3.0
    after = decode(model)
    graphs.use_cuda_graphs(model, False)
    same(after, decode(model))


def test_large_blocks_and_many_shapes_are_not_recorded(tape, monkeypatch):
    model = using(deed_model("t5_tied").to(DEVICE))
    monkeypatch.setattr(graphs, "LARGEST", 0)
    decode(model), decode(model)
    assert tape.made == 0
    monkeypatch.setattr(graphs, "LARGEST", 64)
    monkeypatch.setattr(graphs, "SHAPES", 1)
    decode(model, threshold=0.3), decode(model, threshold=0.3)
    assert 0 < tape.made <= 3 * 5 + 5


def test_threads_have_recordings_of_their_own(tape):
    model = deed_model("t5_tied").to(DEVICE)
    expected = {t: decode(model, threshold=t) for t in (0.3, 0.6)}
    using(model)
    wrong = []

    def work(threshold):
        try:
            for _ in range(6):
                same(decode(model, threshold=threshold), expected[threshold])
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(t,)) for t in (0.3, 0.6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and tape.run


def test_copies_record_their_own(tape):
    model = using(deed_model("t5_tied").to(DEVICE))
    expected = decode(model)
    decode(model)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(vars(model)[graphs.KEPT]))):
        if other is not None and hasattr(other, "generate"):
            made = tape.made
            same(decode(other), expected)
            same(decode(other), expected)
            assert tape.made > made
        else:
            assert not vars(other.here)


def test_it_needs_a_gpu():
    model = deed_model("t5_tied")
    with pytest.raises(ValueError, match=r"need a model on a GPU; this one is on 'cpu': model.to\('cuda'\)"):
        deed.use_cuda_graphs(model)
    assert deed.use_cuda_graphs(model, False) is model


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 4])
def test_one_wait_for_the_device_per_exit_asked(kind, rows, monkeypatch):
    """Numbers that Python needs from tensors: who leaves, once per exit, and the new tokens, once per step."""
    model = deed_model(kind)
    waits = []
    for name in ("tolist", "item", "__bool__", "__int__", "__float__", "nonzero", "cpu", "numpy"):
        real = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor,
            name,
            lambda self, *a, real=real, name=name, **k: (waits.append(name), real(self, *a, **k))[1],
        )
    asked = []
    real_leaves = deed.ThresholdPolicy.leaves
    monkeypatch.setattr(
        deed.ThresholdPolicy, "leaves", lambda self, ask: (asked.append(ask.depth), real_leaves(self, ask))[1]
    )
    counts = []
    for new in (4, 10):
        waits.clear(), asked.clear()
        decode(model, rows, 0.5, max_new_tokens=new, output_logits=False, return_dict_in_generate=False)
        counts.append((len(waits), len(asked)))
    more_waits, more_asked = (b - a for a, b in zip(*counts, strict=True))
    assert more_asked >= 6
    assert more_waits <= more_asked + 6  # six further steps
