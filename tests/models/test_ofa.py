"""OFA as a Transformers model: that it computes what method.md says, cached or not, and trains, saves and generates."""

import ofa_naive
import pytest
import torch
from ofa_models import SMALL, ofa_batch, plain_ofa
from transformers import AutoConfig, AutoModelForSeq2SeqLM

from conftest import VOCAB
from deed.models.ofa import OFAConfig, OFAForConditionalGeneration
from deed.models.ofa.stem import OFAStem, drop_path

FLAGS = {
    "released": {},
    "bare": {
        "normformer": False,
        "scale_heads": False,
        "layernorm_embedding": False,
        "patch_layernorm_embedding": False,
        "add_type_embedding": False,
    },
    "residual factors": {"scale_resids": True, "attn_scale_factor": 3.0, "scale_fc": False},
    "entangled": {
        "disable_entangle": False,
        "entangle_position_embedding": True,
        "scale_embedding": True,
        "code_layernorm_embedding": False,
    },
    "decoder entangled": {"disable_entangle": False},
    "interpolated": {"interpolate_position": True},
    "frozen norms, basic blocks": {"freeze_resnet": True, "stem_layer_type": "basic"},
}
CODES = torch.tensor([True, False, False, True])


def targets(rows=4, length=12, seed=1):
    ids = torch.randint(3, VOCAB, (rows, length), generator=torch.Generator().manual_seed(seed))
    ids[:, 0] = 0
    return ids


@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS)
@torch.no_grad()
def test_every_row_is_what_brute_force_gives(flags):
    """Ragged text, a row without a picture, pictures that are not square, a row of codes beside rows of words."""
    model, batch, ids = plain_ofa(dec=2, **flags), ofa_batch(), targets()
    got = model(**batch, decoder_input_ids=ids, code_masks=CODES)
    for r in range(4):
        text = batch["input_ids"][r][batch["attention_mask"][r] == 1]
        image = batch["patch_images"][r] if batch["patch_masks"][r] else None
        states, positions = ofa_naive.encode(model, text, image)
        start = 9 if image is None else 0  # 3 x 3 patches
        torch.testing.assert_close(got.encoder_last_hidden_state[r, start : 9 + len(text)], states, rtol=0, atol=1e-10)
        logits = ofa_naive.decode(model, states, positions, ids[r], bool(CODES[r]))
        torch.testing.assert_close(got.logits[r], logits, rtol=0, atol=1e-10)


@pytest.mark.parametrize("attention", ("sdpa", "eager"))
@pytest.mark.parametrize("codes", (None, CODES, torch.ones(4, dtype=torch.bool)), ids=("words", "mixed", "codes"))
@pytest.mark.parametrize("entangled", (False, True))
@torch.no_grad()
def test_cached_steps_equal_the_whole_pass(codes, entangled, attention):
    model, batch, ids = plain_ofa(dec=2, disable_entangle=not entangled), ofa_batch(), targets(length=17)
    model.set_attn_implementation(attention)
    whole = model(**batch, decoder_input_ids=ids, code_masks=codes, use_cache=False)
    assert whole.past_key_values is None
    encoded = model.encoder(**batch)
    cache, steps = None, []
    for part in (ids[:, :1], ids[:, 1:5], *ids[:, 5:].split(1, dim=1)):  # a block of several positions among them
        out = model(encoder_outputs=encoded, decoder_input_ids=part, past_key_values=cache, code_masks=codes)
        cache = out.past_key_values
        steps.append(out.logits)
    torch.testing.assert_close(torch.cat(steps, 1), whole.logits, rtol=0, atol=1e-10)


@torch.no_grad()
def test_eager_equals_sdpa_and_gives_attentions():
    model, batch, ids = plain_ofa(), ofa_batch(), targets()
    mask = torch.ones_like(ids)
    mask[0, :3] = 0  # a prompt padded at the left
    by_sdpa = model(**batch, decoder_input_ids=ids, decoder_attention_mask=mask).logits
    model.set_attn_implementation("eager")
    out = model(**batch, decoder_input_ids=ids, decoder_attention_mask=mask, output_attentions=True)
    torch.testing.assert_close(out.logits, by_sdpa, rtol=0, atol=1e-10)
    assert len(out.cross_attentions) == 5 and out.cross_attentions[0].shape == (4, 4, 12, 18)
    assert out.encoder_attentions[0].shape == (4, 4, 18, 18) and (out.decoder_attentions[0][0, :, 3:, :3] == 0).all()


@torch.no_grad()
def test_a_row_without_a_picture_is_a_row_of_text():
    model, batch, ids = plain_ofa(), ofa_batch(), targets()
    together = model(**batch, decoder_input_ids=ids).logits[1]
    alone = model(input_ids=batch["input_ids"][1:2, :7], decoder_input_ids=ids[1:2]).logits[0]
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-10)
    none = {**batch, "patch_masks": torch.zeros(4, dtype=torch.bool)}
    text = {k: batch[k] for k in ("input_ids", "attention_mask")}
    got = model(**none, decoder_input_ids=ids).logits
    torch.testing.assert_close(got, model(**text, decoder_input_ids=ids).logits, rtol=0, atol=1e-10)


@torch.no_grad()
def test_the_mask_is_made_from_padding_where_none_is_given():
    model, batch, ids = plain_ofa(), ofa_batch(), targets()
    expected = model(**batch, decoder_input_ids=ids).logits
    assert torch.equal(model(**{**batch, "attention_mask": None}, decoder_input_ids=ids).logits, expected)
    embedded = model.get_input_embeddings()(batch["input_ids"])
    got = model(**{**batch, "input_ids": None}, inputs_embeds=embedded, decoder_input_ids=ids).logits
    assert torch.equal(got, expected)


def generate_by_hand(model, encoded, steps, codes=None):
    ids = torch.zeros(4, 1, dtype=torch.long)
    for _ in range(steps):
        out = model(encoder_outputs=encoded, decoder_input_ids=ids, code_masks=codes, use_cache=False)
        ids = torch.cat([ids, out.logits[:, -1].argmax(-1, keepdim=True)], -1)
    return ids


@pytest.mark.parametrize("codes", (None, CODES), ids=("words", "codes"))
@torch.no_grad()
def test_greedy_generation(codes):
    model, batch = plain_ofa(), ofa_batch()
    expected = generate_by_hand(model, model.encoder(**batch), 12, codes)
    options = {"max_new_tokens": 12, "min_new_tokens": 12, **({} if codes is None else {"code_masks": codes})}
    model.generation_config.eos_token_id = None
    assert torch.equal(model.generate(**batch, **options), expected)
    assert torch.equal(model.generate(**batch, **options, use_cache=False), expected)
    assert torch.equal(model.generate(**batch, **options, cache_implementation="static"), expected)


def test_beams_and_sampling_do_not_depend_on_the_cache():
    model, batch = plain_ofa(enc=3, dec=2), ofa_batch()
    for options in ({"num_beams": 3, "num_return_sequences": 2}, {"do_sample": True, "top_k": 0}):
        out = []
        for cached in (True, False):
            torch.manual_seed(2)
            out.append(model.generate(**batch, **options, max_new_tokens=8, use_cache=cached))
        assert torch.equal(*out)


def test_labels_give_the_mean_cross_entropy_and_gradients_everywhere():
    model, batch = plain_ofa(scale_resids=True).train(), ofa_batch()
    labels = targets()
    labels[:, -2:] = -100
    out = model(**batch, labels=labels, code_masks=CODES)
    ids = model.prepare_decoder_input_ids_from_labels(labels)
    assert ids[:, 0].eq(0).all() and ids[:, 1:-2].equal(labels[:, :-3]) and ids[:, -1].eq(1).all()
    keep = labels != -100
    expected = torch.nn.functional.cross_entropy(out.logits[keep].float(), labels[keep])
    torch.testing.assert_close(out.loss, expected)
    counted = model.eval()(**batch, labels=labels, num_items_in_batch=torch.tensor(80)).loss
    mean = model(**batch, labels=labels).loss
    torch.testing.assert_close(counted, mean * keep.sum() / 80)
    model.train()
    out.loss.backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


def test_checkpointed_gradients_are_the_same():
    model, batch = plain_ofa(dropout=0.0), ofa_batch()
    grads = []
    for _ in range(2):
        model.zero_grad()
        model.train()(**batch, labels=targets()).loss.backward()
        grads.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        model.activation_checkpointing_enable()
    assert all(layer.gradient_checkpointing for layer in [*model.encoder.layers, *model.decoder.layers])
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], msg=name)


def test_training_statistics_are_of_pictures_that_are_there():
    model, batch = plain_ofa().train(), ofa_batch()
    other = plain_ofa().train()
    kept = batch["patch_masks"]
    model(**batch, labels=targets())
    other(**{k: v[kept] for k, v in batch.items()}, labels=targets()[kept])
    assert torch.equal(model.encoder.embed_images.bn1.running_mean, other.encoder.embed_images.bn1.running_mean)


def test_drop_path_leaves_rows_out_and_makes_up_for_it():
    x = torch.ones(1000, 2, 3)
    torch.manual_seed(0)
    dropped = drop_path(x, 0.25, training=True)
    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    assert (dropped == dropped[:, :1, :1]).all() and 0.2 < (dropped[:, 0, 0] == 0).float().mean() < 0.3
    assert drop_path(x, 0.25, training=False) is x
    model = plain_ofa(enc=3, dec=2, encoder_drop_path_rate=0.2, decoder_drop_path_rate=0.1)
    assert [layer.drop_path for layer in model.encoder.layers] == pytest.approx([0, 0.1, 0.2])
    assert [layer.drop_path for layer in model.decoder.layers] == pytest.approx([0, 0.1])


def test_stem_sizes_and_names():
    stem = OFAStem(OFAConfig(stem_widths=[4, 8, 12, 16], stem_depths=[1, 2, 1]))
    for size, grid in (((64, 64), (4, 4)), ((75, 101), (5, 7)), ((16, 33), (1, 3))):
        assert stem(torch.zeros(2, 3, *size)).shape == (2, 16, *grid)
    names = {n.rsplit(".", 1)[0] for n, _ in stem.named_parameters()}
    assert {"conv1", "bn1", "layer1.0.downsample.0", "layer2.1.conv3", "layer3.0.bn2"} <= names
    assert "layer2.1.downsample.0" not in names
    assert stem.layer2[0].conv2.stride == (2, 2) and stem.layer2[0].conv1.stride == (1, 1)
    frozen = OFAStem(OFAConfig(stem_widths=[4, 8, 12, 16], stem_depths=[1, 2, 1], freeze_resnet=True))
    assert set(stem.state_dict()) - set(frozen.state_dict()) == {n for n in stem.state_dict() if "batches" in n}
    frozen.load_state_dict(stem.state_dict())
    x = torch.randn(2, 3, 40, 40)
    torch.testing.assert_close(frozen(x), stem.eval()(x), rtol=1e-4, atol=1e-5)


def test_presets_have_the_published_sizes():
    for name, millions in (("tiny", 33), ("medium", 93), ("base", 180), ("large", 470), ("huge", 930)):
        config = OFAConfig.preset(name)
        with torch.device("meta"):
            model = OFAForConditionalGeneration(config)
        assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.02), name
    assert OFAConfig.preset("tiny", vocab_size=100).vocab_size == 100


def test_configuration_errors_name_the_field():
    for values, message in (
        ({"d_model": 30, "encoder_attention_heads": 4}, "encoder_attention_heads"),
        ({"resnet_type": "ViT-B/16"}, "resnet_type"),
        ({"stem_widths": [1, 2]}, "stem_widths"),
        ({"stem_layer_type": "dense"}, "stem_layer_type"),
        ({"decoder_normalize_before": False}, "decoder_normalize_before"),
        ({"freeze_resnet": True, "batch_norm_eps": 1e-3}, "batch_norm_eps"),
    ):
        with pytest.raises(ValueError, match=message):
            OFAConfig(**values)
    with pytest.raises(ValueError, match="preset"):
        OFAConfig.preset("giant")


def test_input_errors_name_the_field():
    model, batch, ids = plain_ofa(), ofa_batch(), targets()
    for change, message in (
        ({"input_ids": None}, "input_ids"),
        ({"input_ids": torch.ones(4, 65, dtype=torch.long), "attention_mask": None}, "max_position_embeddings"),
        ({"patch_images": torch.zeros(3, 3, 16, 16)}, "patch_images"),
        ({"patch_images": torch.zeros(4, 3, 16, 112), "patch_masks": None}, "image_bucket_size"),
        ({"patch_masks": torch.ones(3)}, "patch_masks"),
        ({"decoder_input_ids": torch.ones(4, 65, dtype=torch.long)}, "max_position_embeddings"),
        ({"decoder_input_ids": None}, "decoder_input_ids"),
    ):
        values = {**batch, "decoder_input_ids": ids, **change}
        values = {k: v.double() if k == "patch_images" else v for k, v in values.items()}
        with pytest.raises(ValueError, match=message):
            model(**values)


def test_saving_and_loading(tmp_path):
    model, batch, ids = plain_ofa(dtype=torch.float32), ofa_batch(dtype=torch.float32), targets()
    model.save_pretrained(tmp_path)
    loaded, info = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, output_loading_info=True)
    assert type(loaded) is OFAForConditionalGeneration and not any(info.values())
    assert torch.equal(loaded(**batch, decoder_input_ids=ids).logits, model(**batch, decoder_input_ids=ids).logits)
    config = AutoConfig.from_pretrained(tmp_path)
    assert config.to_diff_dict() == model.config.to_diff_dict() and config.stem_widths == SMALL["stem_widths"]
    tables = [loaded.encoder.embed_tokens, loaded.decoder.embed_tokens, loaded.decoder.output_projection]
    assert len({t.weight.data_ptr() for t in tables}) == 1


def test_fresh_weights_and_growing_the_vocabulary():
    model = OFAForConditionalGeneration(OFAConfig(**SMALL, encoder_layers=2, decoder_layers=2, scale_resids=True))
    state = model.state_dict()
    assert all(not v.any() for k, v in state.items() if "rel_pos_table" in k)
    assert all(
        (v == 1).all() for k, v in state.items() if "c_attn" in k or "w_resid" in k or k.endswith("norm.weight")
    )
    assert 0.015 < state["decoder.layers.0.fc1.weight"].std() < 0.025
    model.resize_token_embeddings(VOCAB + 3)
    assert (
        model(input_ids=torch.tensor([[VOCAB + 2, 2]]), decoder_input_ids=torch.tensor([[0]])).logits.shape[-1]
        == VOCAB + 3
    )
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
