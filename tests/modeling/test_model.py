"""The contract of `get_deed_model`, `forward` and `generate()` beyond tokens and depths."""

import copy
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from transformers import (
    BartForConditionalGeneration,
    BertConfig,
    BertModel,
    DynamicCache,
    EncoderDecoderCache,
    GenerationConfig,
    MT5Config,
    MT5ForConditionalGeneration,
    T5ForConditionalGeneration,
)

import deed
from conftest import batch, deed_model, plain_model
from deed import DeedConfig, DeedConfigError, FixedSchedule, MaxProb, StaircaseCache, ThresholdPolicy, get_deed_model
from deed.modeling.outputs import DeedGenerateBeamOutput, DeedGenerateOutput


def test_the_class_stays(kind):
    plain = plain_model(kind)
    names = set(plain.state_dict())
    model = get_deed_model(plain)
    assert model is plain
    assert isinstance(model, BartForConditionalGeneration if kind == "bart" else T5ForConditionalGeneration)
    assert type(model).__name__ == type(plain_model(kind)).__name__
    assert {n for n in model.state_dict() if not n.startswith("deed_exits.")} == names
    assert model.deed_config.exit_layers == [1, 2, 3, 4, 5]


def test_forward_without_labels_is_the_base_models(kind):
    base, model = plain_model(kind), deed_model(kind)
    ids = torch.tensor([[0, 5, 6]] * 4)
    expected = base(**batch(), decoder_input_ids=ids)
    got = model(**batch(), decoder_input_ids=ids)
    assert torch.equal(got.logits, expected.logits)
    assert torch.equal(model(batch()["input_ids"], batch()["attention_mask"], ids).logits, expected.logits)


def test_return_dict_false_and_hidden_states(kind):
    model = deed_model(kind)
    labels = torch.tensor([[5, 6, 2]] * 4)
    out = model(**batch(), labels=labels, return_dict=False)
    assert isinstance(out, tuple) and out[0].ndim == 0
    assert model(**batch(), labels=labels).decoder_hidden_states is None
    assert len(model(**batch(), labels=labels, output_hidden_states=True).decoder_hidden_states) == 6


def test_generate_output_has_exit_layers_as_a_field(kind):
    model = deed_model(kind)
    for mode, cls in (({}, DeedGenerateOutput), ({"num_beams": 2}, DeedGenerateBeamOutput)):
        g = model.generate(**batch(), max_new_tokens=4, exit_threshold=0.5, return_dict_in_generate=True, **mode)
        assert isinstance(g, cls) and g["exit_layers"] is g.exit_layers
        assert any(x is g.exit_layers for x in g.to_tuple())
        assert g.exit_layers.dtype == torch.long
        assert g.exit_layers.shape == (4, g.sequences.shape[1] - 1)
    assert isinstance(model.generate(**batch(), max_new_tokens=4), torch.Tensor)


def test_threshold_comes_from_the_live_configuration(kind):
    model = deed_model(kind, DeedConfig(threshold=0.0))
    g = model.generate(**batch(), max_new_tokens=3, return_dict_in_generate=True)
    assert set(g.exit_layers.flatten().tolist()) <= {0, 1}
    model.deed_config.threshold = 2.0
    g = model.generate(**batch(), max_new_tokens=3, return_dict_in_generate=True)
    assert set(g.exit_layers.flatten().tolist()) <= {0, 5}


def test_scores_and_raw_logits_come_from_the_exit(kind):
    model = deed_model(kind)
    g = model.generate(
        **batch(),
        max_new_tokens=4,
        min_new_tokens=4,
        exit_policy=FixedSchedule([2]),
        output_logits=True,
        output_scores=True,
        return_dict_in_generate=True,
    )
    z = model.exit_logits(**batch(), decoder_input_ids=g.sequences[:, :-1])[1]
    torch.testing.assert_close(torch.stack(g.logits, 1).double(), z, rtol=1e-5, atol=1e-5)
    assert len(g.scores) == 4


def test_state_lives_on_the_cache_so_threads_do_not_meet(kind):
    model = deed_model(kind)
    settings = [(0.0, 1), (0.5, 2), (0.9, 3), (2.0, 4)]

    def run(threshold, seed):
        return model.generate(
            **batch(seed=seed), max_new_tokens=12, exit_threshold=threshold, return_dict_in_generate=True
        )

    expected = [run(*s) for s in settings]
    results = [None] * len(settings)

    def work(i):
        results[i] = [run(*settings[i]) for _ in range(3)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(settings))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for want, got in zip(expected, results, strict=True):
        assert all(
            torch.equal(g.sequences, want.sequences) and torch.equal(g.exit_layers, want.exit_layers) for g in got
        )


def test_generation_leaves_the_model_and_its_configuration_as_they_were(kind):
    model = deed_model(kind)
    before, config = set(vars(model)), model.generation_config.to_dict()
    model.generate(**batch(), max_new_tokens=4, exit_threshold=0.5, num_beams=2)
    assert set(vars(model)) == before and model.generation_config.to_dict() == config


def test_a_cache_can_be_continued(kind):
    model = deed_model(kind)
    model.generation_config.eos_token_id = None
    whole = model.generate(**batch(), max_new_tokens=8, exit_threshold=0.5, return_dict_in_generate=True)
    first = model.generate(**batch(), max_new_tokens=5, exit_threshold=0.5, return_dict_in_generate=True)
    second = model.generate(
        **batch(),
        decoder_input_ids=first.sequences,
        decoder_attention_mask=torch.ones_like(first.sequences),
        past_key_values=first.past_key_values,
        max_new_tokens=3,
        exit_threshold=0.5,
        return_dict_in_generate=True,
    )
    assert torch.equal(second.sequences, whole.sequences)
    assert torch.equal(torch.cat([first.exit_layers, second.exit_layers], 1), whole.exit_layers)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"past_key_values": DynamicCache()}, TypeError, "DynamicCache, which cannot hold rows of different depth"),
        ({"past_key_values": EncoderDecoderCache(DynamicCache(), DynamicCache())}, TypeError, "EncoderDecoderCache"),
        ({"cache_implementation": "static"}, ValueError, "cache_implementation='static'"),
        ({"generation_config": GenerationConfig(cache_implementation="static")}, ValueError, "cache_implementation"),
        ({"output_hidden_states": True}, ValueError, "output_hidden_states"),
        ({"output_attentions": True}, ValueError, "output_attentions"),
        ({"prefill_chunk_size": 2}, ValueError, "prefill_chunk_size"),
        ({"prompt_lookup_num_tokens": 2}, ValueError, "assisted decoding"),
        ({"exit_threshold": 0.5, "exit_policy": FixedSchedule([1])}, ValueError, "not both"),
        ({"exit_policy": 3}, TypeError, "leaves"),
        ({"exit_threshold": [0.5]}, ValueError, "one per exit before the last is 4"),
        ({"exit_threshold": torch.zeros(3)}, ValueError, "3 values, but 4 rows"),
        ({"exit_threshold": float("nan")}, ValueError, "exit_threshold"),
        ({"exit_policy": FixedSchedule([[1], [2]])}, ValueError, "has 2 rows, but 4 rows"),
        ({"confidence_over": "some"}, ValueError, "confidence_over"),
        ({"decoder_inputs_embeds": torch.zeros(4, 1, 32)}, ValueError, "decoder_inputs_embeds"),
        ({"exit_treshold": 0.5}, ValueError, "exit_treshold"),
        ({"exit_threshold": "0.9"}, ValueError, "exit_threshold must be a number"),
        ({"exit_threshold": -0.5}, ValueError, "at least 0"),
        ({"exit_policy": FixedSchedule([1, 9])}, ValueError, "asks for depth 9, but the decoder has 5 layers"),
        ({"assistant_early_exit": 2}, ValueError, "assistant_early_exit .* use exit_threshold"),
    ],
)
def test_what_cannot_work_says_so(arguments, error, message):
    with pytest.raises(error, match=message):
        deed_model("t5_tied").generate(**batch(), max_new_tokens=3, **arguments)


def test_models_that_cannot_be_wrapped():
    with pytest.raises(TypeError, match="no decoder family for BertModel"):
        get_deed_model(BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=9)))
    with pytest.raises(TypeError, match=r"load it first .* or use deed.from_pretrained\('t5-small'\)"):
        get_deed_model("t5-small")
    with pytest.raises(TypeError, match="already"):
        get_deed_model(deed_model("bart"))
    model = plain_model("t5_tied")
    with pytest.raises(DeedConfigError, match="depth 6"):
        get_deed_model(model, DeedConfig(exit_layers=[6]))
    assert type(model) is T5ForConditionalGeneration, "nothing half done"


def test_a_model_under_accelerates_hooks_is_refused():
    from accelerate.hooks import ModelHook, add_hook_to_module

    model = plain_model("bart")
    add_hook_to_module(model, ModelHook())
    with pytest.raises(TypeError, match="one device"):
        get_deed_model(model)


def test_a_policy_of_the_callers_own_can_be_used_again():
    model, policy = deed_model("t5_tied"), ThresholdPolicy(MaxProb(), torch.tensor([0.2, 0.4, 0.6, 0.8]))
    first = model.generate(**batch(), max_new_tokens=4, exit_policy=policy)
    model.generate(**batch(), max_new_tokens=4, exit_policy=policy, num_beams=3)
    assert torch.equal(model.generate(**batch(), max_new_tokens=4, exit_policy=policy), first)


def test_use_cache_false_changes_nothing(kind):
    model = deed_model(kind)
    expected = model.generate(**batch(), max_new_tokens=5, exit_threshold=0.5)
    assert torch.equal(model.generate(**batch(), max_new_tokens=5, exit_threshold=0.5, use_cache=False), expected)


@pytest.mark.parametrize("how", ["argument", "configuration"])
def test_a_dynamic_cache_is_what_it_is(kind, how):
    model = deed_model(kind)
    options = {"max_new_tokens": 5, "exit_threshold": 0.5}
    expected = model.generate(**batch(), **options)
    if how == "argument":
        options["cache_implementation"] = "dynamic"
    else:
        model.generation_config.cache_implementation = "dynamic"
    assert torch.equal(model.generate(**batch(), **options), expected)


def test_gradient_checkpointing_in_training_mode(kind):
    model = deed_model(kind)
    expected = model.generate(**batch(), max_new_tokens=5, exit_threshold=0.5, num_beams=2)
    model.activation_checkpointing_enable()
    assert torch.equal(model.generate(**batch(), max_new_tokens=5, exit_threshold=0.5, num_beams=2), expected)
    model.train()
    with pytest.raises(ValueError, match=r"call model.eval\(\) before generate"):
        model.generate(**batch(), max_new_tokens=5)
    model.freeze_backbone()  # which stays in evaluation mode
    assert torch.equal(model.generate(**batch(), max_new_tokens=5, exit_threshold=0.5, num_beams=2), expected)


def test_a_cache_continued_without_a_mask_knows_what_is_new(kind):
    model = deed_model(kind)
    model.generation_config.eos_token_id = None
    options = {"exit_threshold": 0.5, "return_dict_in_generate": True}
    for mode in ({}, {"do_sample": True, "top_k": 1}):
        whole = model.generate(**batch(), max_new_tokens=8, **options, **mode)
        first = model.generate(**batch(), max_new_tokens=5, **options, **mode)
        again = model.generate(
            **batch(),
            decoder_input_ids=first.sequences,
            past_key_values=first.past_key_values,
            max_new_tokens=3,
            **options,
            **mode,
        )
        assert torch.equal(again.sequences, whole.sequences)
        assert torch.equal(torch.cat([first.exit_layers, again.exit_layers], 1), whole.exit_layers)
        assert again.past_key_values.get_seq_length() == whole.past_key_values.get_seq_length() == 8
    with pytest.raises(ValueError, match="pass the whole sequence so far, or a decoder_attention_mask"):
        model.generate(
            **batch(), decoder_input_ids=first.sequences[:, -1:], past_key_values=first.past_key_values, **options
        )


def test_labels_of_a_class_that_shifts_them_itself(kind, monkeypatch):
    model, labels = deed_model(kind), torch.tensor([[5, 6, -100]] * 4)
    expected = model(**batch(), labels=labels)
    base = type(model).deed_base
    if hasattr(base, "prepare_decoder_input_ids_from_labels"):
        monkeypatch.delattr(base, "prepare_decoder_input_ids_from_labels")
    assert not hasattr(model, "prepare_decoder_input_ids_from_labels")
    got = model(**batch(), labels=labels)
    torch.testing.assert_close(got.exit_losses, expected.exit_losses)
    torch.testing.assert_close(got.loss, expected.loss)


def test_a_layer_that_reads_the_length_inside_a_block_gets_what_lies_before_it(kind, monkeypatch):
    model, seen = deed_model(kind), []
    monkeypatch.setattr(type(model.deed_family), "parts", lambda self, model: None)
    for index, layer in enumerate(model.deed_family.layers(model)):

        def heard(module, args, kwargs, index=index):
            cache = next(x for x in (*args, *kwargs.values()) if isinstance(x, StaircaseCache))
            hidden = args[0]
            seen.append((index, cache.get_seq_length(index), hidden.shape[1], cache.get_mask_sizes(1, index)[0]))

        layer.register_forward_pre_hook(heard, with_kwargs=True)
    g = model.generate(
        **{k: v[:1] for k, v in batch().items()},
        max_new_tokens=4,
        min_new_tokens=4,
        exit_policy=FixedSchedule([1, 1, 5]),
        return_dict_in_generate=True,
    )
    # Two tokens left at once; the third takes everything down: three positions are new to the layers above the first.
    assert seen[:3] == [(0, 0, 1, 1), (0, 1, 1, 2), (0, 2, 1, 3)]
    assert seen[3:7] == [(layer, 0, 3, 3) for layer in range(1, 5)]
    assert g.past_key_values.get_seq_length() == 4


# -- back to the plain class ------------------------------------------------------------------------------------------


def test_unwrap_gives_the_plain_model_back(kind, tmp_path):
    plain = plain_model(kind, enc=5)
    weights, names, config = plain.state_dict(), set(vars(plain)), plain.config.to_dict()
    storage = {name: weight.data_ptr() for name, weight in weights.items()}
    expected = plain.generate(**batch(), max_new_tokens=6)
    model = get_deed_model(plain)
    model.generate(**batch(), max_new_tokens=3, exit_threshold=0.5, exit_check="screen")
    model.save_pretrained(tmp_path)
    assert "deed_config" in vars(model.config)
    back = deed.unwrap(model)
    assert back is plain and type(back) is (
        BartForConditionalGeneration if kind == "bart" else T5ForConditionalGeneration
    )
    assert not hasattr(back, "exit_logits") and set(vars(back)) == names
    assert {name: weight.data_ptr() for name, weight in back.state_dict().items()} == storage
    saved = ("architectures", "dtype")  # what save_pretrained itself writes into a configuration
    after, before = ({k: v for k, v in c.items() if k not in saved} for c in (back.config.to_dict(), config))
    assert after == before
    assert "exit_losses" not in (back.config.keys_to_ignore_at_inference or [])
    assert torch.equal(back.generate(**batch(), max_new_tokens=6), expected)
    assert get_deed_model(back).deed_config.exit_layers == [1, 2, 3, 4, 5], "and it can be wrapped again"


def test_unwrap_trains_what_trained_before(kind):
    plain = plain_model(kind)
    frozen = next(iter(dict(plain.named_parameters())))
    plain.get_parameter(frozen).requires_grad_(False)
    before = {n: p.requires_grad for n, p in plain.named_parameters()}
    model = get_deed_model(plain).train()
    model.freeze_backbone()
    model.freeze_backbone()
    back = deed.unwrap(model)
    assert {n: p.requires_grad for n, p in back.named_parameters()} == before
    assert all(module.training for module in back.modules())


def test_unwrap_keeps_keys_of_the_models_own():
    plain = plain_model("bart")
    plain.config.keys_to_ignore_at_inference = ["mine"]
    assert deed.unwrap(get_deed_model(plain)).config.keys_to_ignore_at_inference == ["mine"]


def test_only_what_is_wrapped_can_be_unwrapped(kind):
    for other in (plain_model(kind), "t5-small", None):
        with pytest.raises(TypeError, match="has no early exit to take off"):
            deed.unwrap(other)


TYPED = """
from typing_extensions import assert_type
from transformers import BartForConditionalGeneration, T5ForConditionalGeneration
import torch
import deed

def check(t5: T5ForConditionalGeneration, bart: BartForConditionalGeneration) -> None:
    model = deed.get_deed_model(t5, deed.DeedConfig(threshold=0.5))
    as_before: T5ForConditionalGeneration = model
    assert_type(model.exit_logits(), torch.Tensor)
    assert_type(model.deed_config, deed.DeedConfig)
    assert_type(deed.unwrap(model), T5ForConditionalGeneration)
    assert_type(deed.unwrap(deed.get_deed_model(bart)), BartForConditionalGeneration)
"""


def test_type_checkers_know_both_sides(tmp_path):
    pytest.importorskip("mypy")
    file, root = tmp_path / "typed.py", Path(deed.__file__).parents[2]
    file.write_text(TYPED)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", str(root / "pyproject.toml"), str(file)],
        capture_output=True,
        text=True,
        cwd=root,
        env={**os.environ, "MYPYPATH": str(root / "src")},
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_copies_and_pickles(kind):
    model = deed_model(kind)
    expected = model.generate(**batch(), max_new_tokens=5, exit_threshold=0.5)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(twin) is type(model)
        assert torch.equal(twin.generate(**batch(), max_new_tokens=5, exit_threshold=0.5), expected)


def test_half_precision_runs():
    for dtype in (torch.bfloat16, torch.float16):
        model = deed_model("bart", dtype=dtype)
        g = model.generate(**batch(), max_new_tokens=5, exit_threshold=0.5, return_dict_in_generate=True)
        assert g.exit_layers.shape[0] == 4


def test_fp32_agrees_with_float64_within_tolerance(kind):
    ids = torch.tensor([[0, 5, 6, 7, 8]] * 4)
    low, high = deed_model(kind, dtype=torch.float32), deed_model(kind)
    schedule = FixedSchedule([2])
    for model in (low, high):
        cache = StaircaseCache(5, schedule)
        encoded = model.get_encoder()(**batch())
        for t in range(5):
            cache.policy = FixedSchedule([5 if t == 4 else 1 + t % 2])
            out = model(
                encoder_outputs=encoded,
                attention_mask=batch()["attention_mask"],
                decoder_input_ids=ids[:, t : t + 1],
                past_key_values=cache,
            )
        z = model.exit_logits(**batch(), decoder_input_ids=ids)[-1, :, -1]
        scale = z.abs().max()
        tolerance = 1e-4 if model is low else 1e-10
        torch.testing.assert_close(out.logits[:, 0] / scale, z / scale, rtol=tolerance, atol=tolerance)


def test_mt5_goes_through_the_t5_family():
    torch.manual_seed(0)
    config = MT5Config(
        vocab_size=40,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_heads=4,
        num_layers=3,
        num_decoder_layers=3,
        decoder_start_token_id=0,
    )
    base = MT5ForConditionalGeneration(config).double().eval()
    expected = base.generate(**batch(), max_new_tokens=6)
    model = get_deed_model(base)
    assert torch.equal(model.generate(**batch(), max_new_tokens=6, exit_threshold=2.0), expected)
    schedule = FixedSchedule([1, 3, 2])
    g = model.generate(
        **batch(),
        max_new_tokens=6,
        min_new_tokens=6,
        exit_policy=schedule,
        output_logits=True,
        return_dict_in_generate=True,
    )
    z = model.exit_logits(**batch(), decoder_input_ids=g.sequences[:, :-1])
    for t, depth in enumerate([1, 3, 2, 1, 3, 2]):
        torch.testing.assert_close(g.logits[t].double(), z[depth - 1, :, t], rtol=1e-5, atol=1e-5)


def test_encoder_embeddings_and_ready_encoder_outputs(kind):
    model, inputs = deed_model(kind), batch()
    expected = model.generate(**inputs, max_new_tokens=5, exit_threshold=0.5)
    mask = inputs["attention_mask"]
    embeddings = model.get_input_embeddings()(inputs["input_ids"])
    encoded = model.get_encoder()(**inputs)
    options = {"attention_mask": mask, "max_new_tokens": 5, "exit_threshold": 0.5}
    assert torch.equal(model.generate(inputs_embeds=embeddings, **options), expected)
    assert torch.equal(model.generate(encoder_outputs=encoded, **options), expected)


def test_exits_can_be_weighted_by_hand(kind):
    model = deed_model(kind)
    out = model(**batch(), labels=torch.tensor([[5, 6, 2]] * 4))
    (out.exit_losses * torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0])).sum().backward()
    assert model.deed_exits["2"].linear.weight.grad.abs().sum() > 0
    assert not model.deed_exits["3"].linear.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("mode", [{}, {"num_beams": 3}, {"do_sample": True}, {"output_scores": True}])
def test_without_a_cache_nothing_is_kept_and_nothing_differs(kind, mode):
    """`use_cache=False`: every step decodes the whole prefix anew, to the same tokens and depths."""
    model = deed_model(kind)
    options = {
        "max_new_tokens": 7,
        "min_new_tokens": 7,
        "exit_threshold": 0.6,
        "return_dict_in_generate": True,
        **mode,
    }
    torch.manual_seed(0)
    kept = model.generate(**batch(), **options)
    lengths = []
    first = model.deed_family.layers(model)[0]
    first.register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1]))  # so it runs by itself
    torch.manual_seed(0)
    anew = model.generate(**batch(), **options, use_cache=False)
    assert torch.equal(kept.sequences, anew.sequences) and torch.equal(kept.exit_layers, anew.exit_layers)
    assert kept.past_key_values is not None and anew.past_key_values is None
    assert lengths == [1, 2, 3, 4, 5, 6, 7]


def test_options_of_a_configuration_count_like_arguments(kind):
    """Given by a configuration object, or by the model's own where that leaves them open."""
    from transformers import GenerationConfig

    model = deed_model(kind)
    own = GenerationConfig(max_new_tokens=3, decoder_start_token_id=model.config.decoder_start_token_id)
    for name, value in (("cache_implementation", "static"), ("output_attentions", True), ("prefill_chunk_size", 2)):
        given = GenerationConfig(max_new_tokens=3, **{name: value})
        with pytest.raises(ValueError, match=name):
            model.generate(**batch(), generation_config=given)
        setattr(model.generation_config, name, value)
        with pytest.raises(ValueError, match=name):
            model.generate(**batch(), generation_config=own)
        setattr(model.generation_config, name, None)
    model.generate(**batch(), generation_config=own)
    given = GenerationConfig(max_new_tokens=3, use_cache=False, return_dict_in_generate=True)
    assert model.generate(**batch(), generation_config=given).past_key_values is None


def test_a_class_whose_output_has_fields_of_its_own_keeps_them():
    """LED's global attentions are no field of `Seq2SeqLMOutput`."""
    from transformers import LEDConfig, LEDForConditionalGeneration

    config = LEDConfig(
        vocab_size=40,
        d_model=16,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        attention_window=4,
        max_encoder_position_embeddings=32,
        max_decoder_position_embeddings=32,
    )
    torch.manual_seed(0)
    model = get_deed_model(LEDForConditionalGeneration(config).eval())
    model.set_attn_implementation("eager")
    inputs = {**batch(2, 8), "labels": torch.randint(3, 40, (2, 5))}
    inputs["global_attention_mask"] = torch.eye(8, dtype=torch.long)[:2]
    out = model(**inputs, output_attentions=True)
    assert out.exit_losses.shape == (2,) and out["exit_losses"] is out.exit_losses
    assert out.encoder_global_attentions is not None and torch.isfinite(out.loss)


def test_a_step_has_no_attentions(kind):
    model = deed_model(kind)
    first = model.generate(**batch(), max_new_tokens=2, return_dict_in_generate=True)
    encoded = model.get_encoder()(**batch())
    for name in ("output_attentions", "output_hidden_states"):
        with pytest.raises(ValueError, match=f"leaves layers out: {name} needs forward"):
            model(
                encoder_outputs=encoded,
                decoder_input_ids=first.sequences[:, -1:],
                past_key_values=first.past_key_values,
                **{name: True},
            )
