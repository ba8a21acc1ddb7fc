"""Models whose exits have layers of their own (`adapter="layer"`): training, saving, int8, checks, graphs, running batches."""

import copy

import pytest
import torch
from test_rows_join import Request, check, policies

import deed
from conftest import batch, deed_model, plain_model
from deed import DeedConfig, get_deed_model
from deed.calibration.exit_features import collect
from deed.calibration.exit_statistics import record_exits
from recording import using
from test_decode import compare

LAYER = DeedConfig(adapter="layer")
IDS = torch.tensor([[0, 5, 6, 7], [0, 9, 8, 30], [0, 3, 3, 3], [0, 12, 13, 14]])
LABELS = torch.tensor([[5, 6, 7, 2], [9, 8, -100, -100], [3, 3, 3, 2], [12, 13, 2, -100]])


@pytest.fixture(scope="module")
def model():
    return deed_model("bart", LAYER)


def test_each_exit_gets_a_copy_of_the_last_layer(kind):
    plain = plain_model(kind)
    plain(**batch(), decoder_input_ids=IDS, output_hidden_states=True)  # leaves hooks on the layers
    model = get_deed_model(plain, DeedConfig(adapter="layer", exit_layers=[1, 4]))
    last = model.deed_family.layers(model)[-1]
    assert set(model.deed_exits) == {"1", "4"}
    for i, exit_layer in enumerate(model.deed_exits.values()):
        assert type(exit_layer) is type(last) and not any(m._forward_hooks for m in exit_layer.modules())
        for (name, p), q in zip(exit_layer.named_parameters(), last.parameters(), strict=True):
            assert torch.equal(p, q) and p.data_ptr() != q.data_ptr(), name
        assert {m.layer_idx for m in exit_layer.modules() if hasattr(m, "layer_idx")} == {5 + i}
    before = model.exit_logits(**batch(), decoder_input_ids=IDS)
    with torch.no_grad():
        next(model.deed_exits["1"].parameters()).add_(0.3)
    after = model.exit_logits(**batch(), decoder_input_ids=IDS)
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [False, True, True]


@pytest.mark.parametrize("loss", ["deed", "distill"])
def test_training_with_the_base_frozen_moves_the_exits_layers_alone(kind, loss):
    model = deed_model(kind, DeedConfig(adapter="layer", loss=loss)).train()
    model.freeze_backbone()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    given = {**batch(), "labels": LABELS}
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for _ in range(6):
        torch.manual_seed(0)  # the same dropout
        out = model(**given)
        losses.append(out.exit_losses.detach()[:-1].mean())
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    for name, p in model.named_parameters():
        if not name.startswith("deed_exits."):
            assert torch.equal(p, before[name]) and p.grad is None, name
    moved = {n.split(".")[1] for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {"1", "2", "3", "4"}


def test_the_losses_are_those_of_the_exits_logits(kind):
    model = deed_model(kind, LAYER)
    out = model(**batch(), labels=LABELS)
    shifted = model.prepare_decoder_input_ids_from_labels(LABELS)
    for z, found in zip(model.exit_logits(**batch(), decoder_input_ids=shifted), out.exit_losses, strict=True):
        expected = torch.nn.functional.cross_entropy(z.flatten(0, 1).float(), LABELS.flatten())
        torch.testing.assert_close(found, expected)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable:FutureWarning")
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_gradient_checkpointing_changes_no_gradient(kind, frozen, reentrant):
    model = deed_model(kind, LAYER)
    if frozen:
        model.freeze_backbone()
    for module in model.modules():  # training mode without its randomness
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name in ("dropout", "activation_dropout", "attention_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)

    def gradients():
        model.train().zero_grad()
        model(**batch(), labels=LABELS).loss.backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    expected = gradients()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    assert all(m.gradient_checkpointing for m in model.deed_exits.values())
    if frozen and reentrant:
        model.enable_input_require_grads()  # as Transformers asks for with frozen models
    found = gradients()
    assert set(found) == set(expected)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-10)


def test_saved_and_loaded_it_is_the_same(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = deed.from_pretrained(tmp_path, dtype=torch.float64)
    assert loaded.deed_config == model.deed_config and loaded.deed_config.adapter == "layer"
    given = {**batch(), "decoder_input_ids": IDS}
    torch.testing.assert_close(loaded.exit_logits(**given), model.exit_logits(**given), rtol=0, atol=0)
    again = copy.deepcopy(model)
    torch.testing.assert_close(again.exit_logits(**given), model.exit_logits(**given), rtol=0, atol=0)
    plain = deed.unwrap(loaded)
    torch.testing.assert_close(plain(**given).logits, model.exit_logits(**given)[-1], rtol=0, atol=1e-10)


def test_a_file_of_other_exits_is_refused(model, tmp_path):
    model.save_pretrained(tmp_path)
    deed_model("bart").save_pretrained(tmp_path / "other")
    (tmp_path / "other" / "deed_exits.safetensors").replace(tmp_path / "deed_exits.safetensors")
    with pytest.raises(deed.errors.DeedLoadError, match="does not fit deed_config"):
        deed.from_pretrained(tmp_path)


def test_what_cannot_know_the_positions_before_is_refused(model):
    with pytest.raises(ValueError, match="exit_logits"):
        model.exit_head(2, torch.zeros(1, 32, dtype=torch.float64))
    assert model.exit_head(5, torch.zeros(1, 32, dtype=torch.float64)).shape == (1, 40)


@pytest.mark.parametrize("kind", ["t5_tied", "bart"])
def test_int8_is_of_the_decoders_linears(kind):
    model = deed.quantize(deed_model(kind, LAYER, dtype=torch.float32), parts=("decoder",), min_weights=0)
    names = {type(m).__name__ for m in model.deed_exits.modules()}
    assert "Int8Linear" in names and "Linear" not in names
    compare(model, batch(), 0.55)


@pytest.mark.parametrize("spec", [{"name": "screen"}, {"name": "screen", "rank": 8, "refine": 4}])
def test_a_screen_leaves_only_where_the_plain_check_does(model, spec):
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "return_dict_in_generate": True}
    got = model.generate(**batch(), exit_threshold=0.5, exit_check=spec, **options)
    z = model.exit_logits(**batch(), decoder_input_ids=got.sequences[:, :-1])
    early = 0
    for r, depths in enumerate(got.exit_layers.tolist()):
        for t, depth in enumerate(depths):
            if 0 < depth < 5:
                early += 1
                assert float(z[depth - 1, r, t].softmax(-1).max()) >= 0.5
    assert early > 3


def test_gates_look_at_the_decoder_and_run_the_layer_where_a_row_leaves():
    model = deed_model("bart", DeedConfig(adapter="layer", exit_layers=[1, 3]))
    data = [{"input_ids": [5, 6, 7 + i], "labels": [4, 5 + i, 2]} for i in range(10)]
    found = collect(model, data, 100, 4)
    assert not torch.allclose(found.hidden[1], found.states[1])
    deed.fit_gate(model, data)
    got = model.generate(**batch(), exit_threshold=0.5, max_new_tokens=6, return_dict_in_generate=True)
    left = int(((got.exit_layers > 0) & (got.exit_layers < 5)).sum())
    assert left and got.past_key_values.stats()["branch_cells"] == left


def test_recorded_confidence_is_the_exits(model):
    data = [{"input_ids": [5, 6, 7], "labels": [4, 5, 2]}]
    found = record_exits(model, data, tokens="labels")
    ids = model.prepare_decoder_input_ids_from_labels(torch.tensor([[4, 5, 2]]))
    z = model.exit_logits(input_ids=torch.tensor([[5, 6, 7]]), decoder_input_ids=ids)[:-1, 0]
    torch.testing.assert_close(torch.from_numpy(found.confidence), z.softmax(-1).amax(-1).to(torch.float64))


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
def test_cuda_graphs(tape, options):
    model = deed_model("t5_tied", LAYER)
    given = {**batch(), "max_new_tokens": 8, "return_dict_in_generate": True, **options}
    expected = [model.generate(**given, exit_threshold=t) for t in (0.4, 0.7)]
    using(model)
    for _ in range(2):
        for t, one in zip((0.4, 0.7), expected, strict=True):
            got = model.generate(**given, exit_threshold=t)
            assert torch.equal(got.sequences, one.sequences) and torch.equal(got.exit_layers, one.exit_layers)
    assert tape.run > 2 * tape.made


@pytest.mark.parametrize("policy", ["schedule", "threshold"])
def test_rows_that_join_and_leave_are_as_alone(model, policy):
    of = policies(policy)
    found = check(
        lambda i: Request(model, i, of(i)),
        arrivals=[0, 0, 2, 3, 5],
        tokens=[7, 4, 9, 5, 6],
        waits=[(3, 1), (4, 0), (6, 2)],
    )
    assert len({d for one in found for d in one.depths}) > 2
