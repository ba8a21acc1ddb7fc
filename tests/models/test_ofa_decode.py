"""OFA with early exit: tokens and depths equal the cache-free reference's, though biases span the whole prefix."""

import copy

import pytest
import torch
from ofa_models import ofa_batch, ofa_model, plain_ofa
from transformers.modeling_outputs import BaseModelOutput

import deed
import oracle as ref
from conftest import VOCAB
from deed import DeedConfig, FixedSchedule
from deed.engine import masks
from deed.families.ofa import OFAWithSource
from recording import DEVICE, using
from test_decode import MODES, compare

CODES = torch.tensor([True, False, False, True])
ALL_CODES = torch.ones(4, dtype=torch.bool)


def by_layers(model):
    """The model with its layers run by their own `forward`, which a hook makes necessary."""
    for layer in model.decoder.layers:
        layer.register_forward_hook(lambda *arguments: None)
    assert model.deed_family.parts(model) is None
    return model


@pytest.mark.parametrize("mode", MODES)
def test_equals_the_cache_free_reference(mode, packing):
    model, seen = ofa_model(), set()
    for threshold in (0.5, 0.75, 0.9):
        got = compare(model, ofa_batch(), threshold, **MODES[mode])
        seen |= {d for step in got.past_key_values.state.depths for d in step}
    assert len(seen - {0}) >= 4, "the case is vacuous: too few depths were taken"
    assert model.deed_family.parts(model) is not None, "layers are to be run by their parts"


def test_batches_of_text_alone():
    for mode in ({}, {"num_beams": 3}):
        compare(ofa_model(), ofa_batch(images=False), 0.7, min_new_tokens=9, **mode)


def test_rows_of_a_batch_leave_at_different_depths(packing):
    model, spread, padding = ofa_model(), 0, 0
    for threshold in (0.5, 0.6, 0.7, 0.8):
        got = compare(model, ofa_batch(), threshold, min_new_tokens=9)
        spread += sum(len(set(step.tolist())) > 1 for step in got.exit_layers.T)
        padding += got.past_key_values.stats()["padding_cells"]
    assert spread > 3 and (padding > 0) == (packing == "padded")


@pytest.mark.parametrize("attention", ("sdpa", "eager"))
def test_layers_by_their_own_forward(attention):
    model = by_layers(ofa_model())
    model.set_attn_implementation(attention)
    for images in (True, False):
        for mode in ({}, {"num_beams": 3}):
            compare(model, ofa_batch(images=images), 0.7, min_new_tokens=9, **mode)


@pytest.mark.parametrize("attention", ("sdpa", "eager"))
def test_a_row_with_nothing_to_read(attention):
    model, batch = ofa_model(), ofa_batch()
    batch["attention_mask"][1] = 0  # which has no picture either
    model.set_attn_implementation(attention)
    compare(model, batch, 0.7, min_new_tokens=9)
    compare(by_layers(model), batch, 0.7, min_new_tokens=9)


def test_recorded_as_cuda_graphs(packing, tape):
    model = using(ofa_model().to(DEVICE))
    for _ in range(2):
        for threshold in (0.5, 0.75):
            compare(model, {k: v.to(DEVICE) for k, v in ofa_batch().items()}, threshold, min_new_tokens=9)
    assert tape.run > tape.made > 20


def test_every_block_width_and_the_growing_of_tables(packing):
    """More steps than the first tables have positions, and catch-up blocks of every width up to twenty."""
    depths = [d for width in range(1, 9) for d in [*[1] * (width - 1), 5, 2]]

    def forced(step, rows):
        return [depths[step % len(depths)]] * rows

    policy = FixedSchedule(depths)
    got = compare(ofa_model(), ofa_batch(), depths=forced, policy=policy, max_new_tokens=40, min_new_tokens=40)
    assert got.exit_layers.shape[1] == 40
    compare(by_layers(ofa_model()), ofa_batch(), depths=forced, policy=policy, max_new_tokens=40, min_new_tokens=40)


def test_to_the_last_position_the_model_has():
    model = ofa_model(max_position_embeddings=20)
    assert compare(model, ofa_batch(), 0.5, max_length=20, max_new_tokens=None, min_length=20).sequences.shape == (
        4,
        20,
    )


def every_layer_the_first(patch):
    right = OFAWithSource.position_bias
    patch.setattr(
        OFAWithSource, "position_bias", lambda self, model, start, stop, layer=0: right(self, model, start, stop)
    )


def no_cross_bias(patch):
    right = OFAWithSource.cross_bias
    patch.setattr(OFAWithSource, "cross_bias", lambda *arguments: right(*arguments) * 0)


def cross_rows_of_the_newest_position_for_all(patch):
    right = masks.cross
    patch.setattr(masks, "cross", lambda *arguments: right(*arguments)[:, :, -1:])


def cross_rows_kept_from_step_to_step(patch):
    right, kept = masks.cross, {}
    patch.setattr(masks, "cross", lambda g, s, b: kept.setdefault((id(g), b.stop - b.start), right(g, s, b)))


@pytest.mark.parametrize(
    "mutant",
    (
        every_layer_the_first,
        no_cross_bias,
        cross_rows_of_the_newest_position_for_all,
        cross_rows_kept_from_step_to_step,
    ),
)
def test_mistakes_in_the_biases_are_seen(mutant, monkeypatch):
    mutant(monkeypatch)
    with pytest.raises((AssertionError, RuntimeError)):
        for threshold in (0.7, 0.85):
            compare(ofa_model(), ofa_batch(), threshold, min_new_tokens=12, max_new_tokens=12)


def test_residual_factors_and_few_exits():
    model = ofa_model(DeedConfig(exit_layers=[2]), scale_resids=True, enc=3, dec=3)
    assert model.deed_family.parts(model) is None
    compare(model, ofa_batch(), 0.7, min_new_tokens=9)
    bare = ofa_model(DeedConfig(adapter="none"), normformer=False, scale_heads=False)
    assert bare.deed_family.parts(bare) is not None
    compare(bare, ofa_batch(), 0.7, min_new_tokens=9)


def test_entangled_positions():
    compare(ofa_model(disable_entangle=False), ofa_batch(), 0.7, min_new_tokens=9)


def test_images_as_codes():
    model = ofa_model(disable_entangle=False)
    for mode in ({}, {"num_beams": 3}):
        got = compare(
            model, {**ofa_batch(), "code_masks": ALL_CODES}, 0.7, min_new_tokens=19, max_new_tokens=19, **mode
        )
        words = compare(model, ofa_batch(), 0.7, min_new_tokens=19, max_new_tokens=19, **mode)
        assert not torch.equal(got.sequences, words.sequences)
    none = model.generate(
        **ofa_batch(), code_masks=~ALL_CODES, exit_threshold=0.5, max_new_tokens=19, min_new_tokens=19
    )
    assert torch.equal(none, model.generate(**ofa_batch(), exit_threshold=0.5, max_new_tokens=19, min_new_tokens=19))
    with pytest.raises(ValueError, match="code_masks"):
        model.generate(**ofa_batch(), code_masks=CODES, max_new_tokens=3)
    bare = BaseModelOutput(last_hidden_state=torch.zeros(4, 9, 32, dtype=torch.float64))
    with pytest.raises(ValueError, match="position_embeddings"):
        model.generate(encoder_outputs=bare, max_new_tokens=3)


@pytest.mark.parametrize("mode", ({}, {"num_beams": 3}, {"do_sample": True, "top_k": 0}), ids=str)
@pytest.mark.parametrize("images", (True, False), ids=("pictures", "text"))
def test_never_leaving_early_gives_the_plain_models_tokens(mode, images):
    out = []
    for model, options in ((plain_ofa(), {}), (ofa_model(), {"exit_threshold": 2.0})):
        torch.manual_seed(3)
        out.append(model.generate(**ofa_batch(images=images), max_new_tokens=12, **mode, **options))
    assert torch.equal(*out)


def test_prompts_of_several_tokens():
    """The decoder reads part of the answer first (`prompt_type prev_output`), padded at the left."""
    prompt = torch.randint(3, VOCAB, (4, 6), generator=torch.Generator().manual_seed(0))
    prompt[:, 0] = 0
    mask = torch.ones_like(prompt)
    mask[1, :2] = 0
    inputs = {**ofa_batch(), "decoder_input_ids": prompt, "decoder_attention_mask": mask}
    compare(ofa_model(), inputs, 0.7, prompt=6, min_new_tokens=9)
    compare(by_layers(ofa_model()), inputs, 0.7, prompt=6, min_new_tokens=9)


def test_single_precision_exits_agree():
    model, batch = ofa_model(), ofa_batch()
    ids = torch.randint(3, VOCAB, (4, 10), generator=torch.Generator().manual_seed(0))
    exact = model.exit_logits(**batch, decoder_input_ids=ids)
    batch["patch_images"] = batch["patch_images"].float()
    single = model.float().exit_logits(**batch, decoder_input_ids=ids)
    torch.testing.assert_close(single.double(), exact, rtol=1e-4, atol=1e-4)


def test_exit_logits_are_of_the_layers_states():
    model = ofa_model(DeedConfig(adapter="none"))
    ids = torch.randint(3, VOCAB, (4, 10), generator=torch.Generator().manual_seed(0))
    exits = model.exit_logits(**ofa_batch(), decoder_input_ids=ids)
    plain = plain_ofa()
    out = plain(**ofa_batch(), decoder_input_ids=ids, output_hidden_states=True)
    states = [plain.decoder.layer_norm(h) for h in out.decoder_hidden_states[1:-1]]
    expected = torch.stack([*(plain.decoder.output_projection(h) for h in states), out.logits])
    torch.testing.assert_close(exits, expected, rtol=0, atol=1e-10)


def test_deep_supervision_reaches_every_exit():
    model = ofa_model().train()
    labels = torch.randint(3, VOCAB, (4, 8), generator=torch.Generator().manual_seed(0))
    out = model(**ofa_batch(), labels=labels)
    assert out.exit_losses.shape == (5,)
    torch.testing.assert_close(out.loss, out.exit_losses.mean() + out.exit_losses[-1])
    out.loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.deed_exits.parameters())


def test_saved_and_loaded(tmp_path):
    model, batch = ofa_model(dtype=torch.float32), ofa_batch(dtype=torch.float32)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.save_pretrained(tmp_path)
    loaded = deed.from_pretrained(tmp_path)
    assert all(torch.equal(v, before[k]) for k, v in loaded.state_dict().items())
    options = {"exit_threshold": 0.5, "max_new_tokens": 9, "return_dict_in_generate": True}
    a, b = model.generate(**batch, **options), loaded.generate(**batch, **options)
    assert torch.equal(a.sequences, b.sequences) and torch.equal(a.exit_layers, b.exit_layers)
    twin = copy.deepcopy(loaded)
    assert torch.equal(twin.generate(**batch, **options).sequences, a.sequences)


def test_beams_of_a_request_and_the_oracle_see_the_same_rows():
    """A threshold per request, and requests with and without a picture, under beams."""
    model, limit = ofa_model(), torch.tensor([0.0, 0.7, 0.85, 2.0])
    torch.manual_seed(0)
    expected, trace = ref.Oracle(model, limit.repeat_interleave(3)).generate(
        ofa_batch(), num_beams=3, max_new_tokens=6
    )
    got = model.generate(
        **ofa_batch(), num_beams=3, max_new_tokens=6, exit_threshold=limit, return_dict_in_generate=True
    )
    assert torch.equal(got.sequences, expected.sequences)
    assert torch.equal(got.exit_layers, ref.expected_exit_layers(expected, trace, 1, None))
