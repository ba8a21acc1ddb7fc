"""LaTr++: what it reads, that its decoding is exact with early exit, and that it starts from any T5 and ViT."""

import copy
import pickle

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

import deed
from deed import DeedConfig
from deed.models.latr import LatrConfig, LatrForConditionalGeneration
from deed.models.latr.boxes import patch_boxes
from latr import VISION, latr_model, page_batch, plain_latr
from test_decode import compare

MODES = ({}, {"num_beams": 3}, {"do_sample": True, "top_k": 0})
START = torch.zeros(4, 1, dtype=torch.long)


@pytest.mark.parametrize("mode", MODES, ids=("greedy", "beams", "sampling"))
@pytest.mark.parametrize("images", (True, False), ids=("pictures", "words only"))
def test_decoding_equals_the_cache_free_reference(mode, images):
    model = latr_model()
    depths = set()
    for threshold in (0.3, 0.6, 0.9):
        got = compare(model, page_batch(images=images), threshold, min_new_tokens=9, **mode)
        depths |= set(got.exit_layers.flatten().tolist())
    assert len(depths) >= 3


def test_decoding_with_few_exits_and_more_encoder_than_decoder_layers():
    model = latr_model(DeedConfig(exit_layers=[2]), enc=4, dec=3)
    compare(model, page_batch(), 0.5, min_new_tokens=9)
    compare(latr_model(vision=None), page_batch(images=False), 0.5, min_new_tokens=9)


@pytest.mark.parametrize("mode", MODES, ids=("greedy", "beams", "sampling"))
def test_never_leaving_early_gives_the_plain_models_tokens(mode):
    plain, model = plain_latr(), latr_model()
    for m in (plain, model):
        torch.manual_seed(3)
        m.out = m.generate(**page_batch(), max_new_tokens=9, **mode, **({"exit_threshold": 2.0} if m is model else {}))
    assert torch.equal(plain.out, model.out)


def test_a_row_does_not_depend_on_its_batch():
    model, batch = plain_latr(), page_batch()
    together = model(**batch, decoder_input_ids=START).logits
    for r in range(4):
        length = int(batch["attention_mask"][r].sum())
        one = {
            k: v[r : r + 1, :length] if k not in ("pixel_values", "pixel_mask") else v[r : r + 1]
            for k, v in batch.items()
        }
        if r == 1:  # without a picture: as if the batch had none
            del one["pixel_values"], one["pixel_mask"]
        alone = model(**one, decoder_input_ids=START[:1]).logits
        torch.testing.assert_close(alone, together[r : r + 1], rtol=0, atol=1e-10)


@pytest.mark.parametrize("part", ("bbox", "pixel_values", "input_ids"))
def test_words_boxes_and_pictures_all_matter(part):
    model, batch = plain_latr(), page_batch()
    before = model(**batch, decoder_input_ids=START).logits
    other = page_batch(seed=5)[part]
    after = model(**{**batch, part: other}, decoder_input_ids=START).logits
    changed = (before - after).abs().amax((1, 2)) > 1e-6
    # The second row has no picture: whatever its pixels hold, even nothing that is a number, it answers alike.
    assert changed.tolist() == ([True, False, True, True] if part == "pixel_values" else [True] * 4)
    if part == "pixel_values":
        batch["pixel_values"][1] = torch.nan
        torch.testing.assert_close(model(**batch, decoder_input_ids=START).logits[1], before[1])


def test_each_of_the_six_box_tables_matters():
    model, batch = plain_latr(), page_batch()
    before = model(**batch, decoder_input_ids=START).logits
    for name in ("x0", "y0", "x1", "y1", "width", "height"):
        changed = copy.deepcopy(model)
        with torch.no_grad():
            getattr(changed.encoder.box_embeddings, name).weight.add_(torch.randn(1, 32))
        assert not torch.allclose(changed(**batch, decoder_input_ids=START).logits, before)


def test_patches_have_the_boxes_of_their_cells():
    boxes = patch_boxes((16, 32), (8, 8), 1000).tolist()
    assert boxes[0] == [0, 0, 1000, 1000]
    assert boxes[1] == [0, 0, 250, 500] and boxes[4] == [750, 0, 1000, 500] and boxes[5] == [0, 500, 250, 1000]
    assert len(boxes) == 1 + 8


def test_fresh_box_tables_start_small_and_smooth():
    tables = LatrForConditionalGeneration(LatrConfig(vocab_size=9, d_model=32, num_layers=1)).encoder.box_embeddings
    weight = tables.x0.weight
    assert weight.std().item() == pytest.approx(0.2, rel=0.1)
    near, far = (weight[400] - weight[403]).norm(), (weight[400] - weight[800]).norm()
    assert near < 0.5 * far
    assert not torch.allclose(weight, tables.y0.weight)


def test_fresh_weights_have_t5s_sizes():
    """Transformers initialises classes of other packages differently, and then nothing is learned."""
    sizes = {"vocab_size": 50, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_heads": 4, "num_layers": 2}
    torch.manual_seed(0)
    ours = dict(LatrForConditionalGeneration(LatrConfig(**sizes, vision_config=VISION)).named_parameters())
    for name, theirs in T5ForConditionalGeneration(T5Config(**sizes)).named_parameters():
        if theirs.ndim > 1 and "relative" not in name:
            assert ours[name].std().item() == pytest.approx(theirs.std().item(), rel=0.15), name
    assert ours["encoder.vit.layers.0.mlp.fc1.weight"].std() < 0.05


@pytest.mark.parametrize(
    "change, message",
    [
        ({"bbox": torch.zeros(4, 3, 4).long()}, "bbox must be"),
        ({"bbox": torch.full((4, 9, 4), 1001)}, "bbox must lie on 0..1000"),
        ({"bbox": torch.full((4, 9, 4), -1)}, "bbox must lie on 0..1000"),
        ({"inputs_embeds": torch.zeros(4, 9, 32)}, "one of them"),
    ],
)
def test_bad_pages_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        plain_latr()(**{**page_batch(), **change}, decoder_input_ids=START)


def test_pictures_need_a_vit():
    with pytest.raises(ValueError, match="no ViT"):
        plain_latr(vision=None)(**page_batch(), decoder_input_ids=START)


def test_encoder_outputs_can_be_reused():
    model, batch = latr_model(), page_batch()
    encoded = model.get_encoder()(**batch)
    assert encoded.attention_mask.shape == encoded.last_hidden_state.shape[:2] == (4, 5 + 9)
    expected = model.generate(**batch, max_new_tokens=6, exit_threshold=0.5)
    assert torch.equal(model.generate(encoder_outputs=encoded, max_new_tokens=6, exit_threshold=0.5), expected)


def test_saves_and_loads_with_the_auto_classes(tmp_path):
    model = latr_model(DeedConfig(threshold=0.6), dtype=torch.float32)
    batch = {k: v.float() if k == "pixel_values" else v for k, v in page_batch().items()}
    model.save_pretrained(tmp_path)
    expected = model.generate(**batch, max_new_tokens=6)
    assert AutoConfig.from_pretrained(tmp_path).vision_config.patch_size == 8
    plain = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert type(plain) is LatrForConditionalGeneration
    full = model.generate(**batch, max_new_tokens=6, exit_threshold=2.0)
    assert torch.equal(plain.generate(**batch, max_new_tokens=6), full)
    again = deed.from_pretrained(tmp_path)
    assert isinstance(again, LatrForConditionalGeneration)
    assert torch.equal(again.generate(**batch, max_new_tokens=6), expected)
    assert torch.equal(pickle.loads(pickle.dumps(again)).generate(**batch, max_new_tokens=6), expected)


def test_deep_supervision_reaches_boxes_and_eyes():
    model = latr_model(dtype=torch.float32).train()
    batch = {k: v.float() if k == "pixel_values" else v for k, v in page_batch().items()}
    out = model(**batch, labels=torch.randint(3, 40, (4, 5)))
    assert out.exit_losses.shape == (5,)
    out.loss.backward()
    assert model.encoder.box_embeddings.width.weight.grad.abs().sum() > 0
    assert model.encoder.vit.layers[0].mlp.fc1.weight.grad.abs().sum() > 0
    frozen = latr_model(dtype=torch.float32, freeze_vision=True).train()
    frozen(**batch, labels=torch.randint(3, 40, (4, 5))).loss.backward()
    assert frozen.encoder.vit.layers[0].mlp.fc1.weight.grad is None
    assert frozen.encoder.visual_projection.weight.grad.abs().sum() > 0


def folders(path, gated=False, enc=2, dec=3):
    """A T5 and a ViT as Transformers saves them."""
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=40,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_heads=4,
        num_layers=enc,
        num_decoder_layers=dec,
        feed_forward_proj="gated-gelu" if gated else "relu",
        tie_word_embeddings=not gated,
        decoder_start_token_id=0,
    )
    t5 = T5ForConditionalGeneration(config)
    t5.save_pretrained(path / "t5")
    ViTForImageClassification(ViTConfig(**VISION)).save_pretrained(path / "vit")
    return path / "t5", path / "vit"


@pytest.mark.parametrize("gated", (False, True))
def test_starts_from_any_t5_and_vit(tmp_path, gated):
    t5_folder, vit_folder = folders(tmp_path, gated)
    model = LatrForConditionalGeneration.from_t5_vit_pretrained(t5_folder, vit_folder)
    t5 = T5ForConditionalGeneration.from_pretrained(t5_folder)
    own = model.state_dict()
    assert all(torch.equal(own[name], value) for name, value in t5.state_dict().items())
    vit = ViTModel.from_pretrained(vit_folder, add_pooling_layer=False).state_dict()
    assert all(torch.equal(own[f"encoder.vit.{name}"], value) for name, value in vit.items())
    assert model.config.scale_decoder_outputs is t5.config.scale_decoder_outputs is not gated
    assert model.config.num_decoder_layers == 3 and model.config.freeze_vision
    # Boxes start as a whisper: the fresh model answers much like the T5 it came from.
    ids = torch.randint(3, 40, (2, 7))
    ours, theirs = (m.eval()(input_ids=ids, decoder_input_ids=START[:2]).logits for m in (model, t5))
    assert torch.nn.functional.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0) > 0.99
    model.save_pretrained(tmp_path / "latr")
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "latr")
    assert again.config.scale_decoder_outputs is not gated
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True)
    )


def test_starts_without_eyes_and_refuses_other_checkpoints(tmp_path):
    t5, vit = folders(tmp_path)
    model = LatrForConditionalGeneration.from_t5_vit_pretrained(t5)
    assert model.config.vision_config is None
    with pytest.raises(ValueError, match="not a t5 one"):
        LatrForConditionalGeneration.from_t5_vit_pretrained(vit, vit)
    with pytest.raises(ValueError, match="not a vit one"):
        LatrForConditionalGeneration.from_t5_vit_pretrained(t5, t5)
    with pytest.raises((OSError, ValueError)):
        LatrForConditionalGeneration.from_t5_vit_pretrained(tmp_path / "nothing", vit)
