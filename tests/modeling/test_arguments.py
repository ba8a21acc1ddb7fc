"""docs/arguments.md: every argument of Transformers' `from_pretrained` and `generate` has a row, and what it says is so."""

import copy
import functools
import inspect
import re
import warnings
from pathlib import Path

import pytest
import torch
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel, StoppingCriteriaList
from transformers.generation import MaxLengthCriteria, TemperatureLogitsWarper
from transformers.generation.streamers import BaseStreamer

from conftest import batch, plain_model
from deed import DeedConfig, StaircaseCache, get_deed_model
from deed.modeling.loading import REFUSED

PAGE = (Path(__file__).parents[2] / "docs" / "arguments.md").read_text(encoding="utf-8")
LOADING, GENERATING = (
    dict(re.findall(r"^\| `(\w+)` \| (works|refused|as the base) \|", part, re.M))
    for part in PAGE.split("## generate\n")
)


def test_every_argument_of_from_pretrained_has_a_row():
    source = inspect.getsource(PreTrainedModel.from_pretrained)
    names = set(inspect.signature(PreTrainedModel.from_pretrained).parameters)
    names -= {"pretrained_model_name_or_path", "model_args", "kwargs"}
    names |= set(re.findall(r'kwargs\.pop\("([a-z]\w*)"', source)) | {"attn_implementation", "experts_implementation"}
    dropped = re.search(r"Not used anymore.*?\[(.*?)\]", source, re.S)
    names |= {name for name in re.findall(r'"(\w+)"', dropped[1]) if not name.startswith("_")}
    assert names == set(LOADING)
    assert {name for name, kind in LOADING.items() if kind == "refused"} == set(REFUSED)  # test_loading.py runs them


def test_every_argument_of_generate_has_a_row():
    names = {n for n in inspect.signature(plain_model("t5_tied").generate).parameters if n != "kwargs"}
    names |= {n for n in GenerationConfig().to_dict() if not n.startswith("_")} - {"transformers_version"}
    assert names - set(GENERATING) == set()
    also = {"past_key_values", "num_beam_groups", "diversity_penalty", "constraints", "force_words_ids", "use_mtp"}
    also |= {"penalty_alpha", "dola_layers", "stop_strings", "low_memory", "prefill_chunk_size"}
    assert set(GENERATING) - names <= also


@functools.cache
def models():
    plain = plain_model("t5_tied", dtype=torch.float32, enc=5)
    return plain, get_deed_model(copy.deepcopy(plain), DeedConfig())


class Streamer(BaseStreamer):
    def put(self, value):
        pass

    def end(self):
        pass


BEAMS, SAMPLED = {"num_beams": 2}, {"do_sample": True}
# What else goes with an argument, and its value; those not named here get a value of their default's kind.
VALUES = {
    "assistant_early_exit": 2,
    "assistant_model": plain_model("t5_tied"),
    "bad_words_ids": [[5]],
    "begin_suppress_tokens": [4],
    "bos_token_id": 1,
    "cache_config": {},
    "cache_implementation": "dynamic",
    "custom_generate": lambda model, **kwargs: None,
    "decoder_start_token_id": 1,
    "disable_compile": True,
    "diversity_penalty": 0.5,
    "dola_layers": "low",
    "early_stopping": True,
    "encoder_no_repeat_ngram_size": 2,
    "eos_token_id": 1,
    "exponential_decay_length_penalty": (2, 1.5),
    "force_words_ids": [[5]],
    "forced_bos_token_id": 3,
    "forced_eos_token_id": 1,
    "generation_config": GenerationConfig(num_beams=2, max_new_tokens=5, decoder_start_token_id=0, pad_token_id=0),
    "guidance_scale": 1.5,
    "is_assistant": True,
    "logits_processor": LogitsProcessorList([TemperatureLogitsWarper(0.5)]),
    "low_memory": True,
    "max_length": 5,
    "max_new_tokens": 5,
    "max_time": 100.0,
    "min_length": 3,
    "min_new_tokens": 3,
    "negative_prompt_ids": torch.ones(4, 2, dtype=torch.long),
    "negative_prompt_attention_mask": torch.ones(4, 2, dtype=torch.long),
    "no_repeat_ngram_size": 2,
    "num_assistant_tokens": 3,
    "num_assistant_tokens_schedule": "constant",
    "num_beam_groups": 2,
    "num_beams": 3,
    "num_return_sequences": 2,
    "pad_token_id": 0,
    "penalty_alpha": 0.5,
    "prefill_chunk_size": 2,
    "prefix_allowed_tokens_fn": lambda _, ids: list(range(1, 20)),
    "prompt_lookup_num_tokens": 2,
    "sequence_bias": [[[5], -10.0]],
    "stopping_criteria": StoppingCriteriaList([MaxLengthCriteria(4)]),
    "suppress_tokens": [4],
    "top_k": 3,
    "use_cache": False,
    "watermarking_config": {"greenlist_ratio": 0.3, "bias": 2.0},
}
FLAGS = ("do_sample", "output_attentions", "output_hidden_states", "output_logits", "output_scores")
VALUES |= dict.fromkeys(
    (*FLAGS, "remove_invalid_values", "renormalize_logits", "return_dict_in_generate", "use_mtp"), True
)
NUMBERS = (
    "temperature",
    "top_p",
    "min_p",
    "top_h",
    "typical_p",
    "epsilon_cutoff",
    "eta_cutoff",
    "assistant_confidence_threshold",
)
VALUES |= dict.fromkeys((*NUMBERS, "assistant_confidence_threshold"), 0.5)
VALUES |= {"epsilon_cutoff": 0.01, "eta_cutoff": 0.01}
VALUES |= dict.fromkeys(("repetition_penalty", "encoder_repetition_penalty", "length_penalty"), 1.5)
WITH = dict.fromkeys(NUMBERS, SAMPLED) | {"top_k": SAMPLED, "early_stopping": BEAMS, "length_penalty": BEAMS}
WITH |= {
    "num_return_sequences": BEAMS,
    "force_words_ids": BEAMS,
    "num_beam_groups": {"num_beams": 2, "diversity_penalty": 0.5},
}
WITH |= {"diversity_penalty": {"num_beams": 2, "num_beam_groups": 2}, "penalty_alpha": {"top_k": 4}}
WITH |= {name: {"return_dict_in_generate": True} for name in FLAGS[1:]}
# Not run: `inputs` is what everybody passes; the cache's and `stop_strings`' own tests are elsewhere; no value but None.
LEFT_OUT = {"inputs", "stop_strings", "past_key_values"}


def run(model, name, **more):
    """Tokens, or the error."""
    torch.manual_seed(0)
    options = {"max_new_tokens": None if name in ("max_length", "generation_config") else 6}
    value = Streamer() if name == "streamer" else VALUES.get(name)
    inputs = {k: v[:1] for k, v in batch().items()} if name in ("streamer", "assistant_model") else batch()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            out = model.generate(**inputs, **{**options, name: value, **WITH.get(name, {})}, **more)
    except Exception as error:
        return error
    return out if isinstance(out, torch.Tensor) else out.sequences


@pytest.mark.parametrize("name", sorted(set(GENERATING) - LEFT_OUT))
def test_what_the_table_says_of_generate(name):
    plain, model = models()
    kind, theirs, ours = GENERATING[name], run(plain, name), run(model, name, exit_threshold=2.0)
    if kind == "refused":
        assert isinstance(ours, ValueError), ours
        words = "assisted" if name in ("assistant_model", "prompt_lookup_num_tokens") else name
        assert words in str(ours), ours
    elif kind == "works":
        assert name in VALUES or name in ("streamer", "synced_gpus"), "a row that works needs a value to try"
        assert isinstance(theirs, torch.Tensor) and isinstance(ours, torch.Tensor), (theirs, ours)
        assert torch.equal(theirs, ours)
    elif isinstance(theirs, Exception):
        assert type(ours) is type(theirs)
    else:
        assert torch.equal(theirs, ours)


def test_values_of_the_table_have_an_effect():
    """Else a row could say anything: most values change the tokens of the plain model."""
    usual = run(models()[0], "synced_gpus")
    changed = [
        n for n, kind in GENERATING.items() if kind == "works" and n in VALUES and not same(run(models()[0], n), usual)
    ]
    assert len(changed) >= 20


def same(a, b):
    return a.shape == b.shape and torch.equal(a, b)


def test_a_cache_of_another_kind_is_refused():
    from transformers import DynamicCache

    model = models()[1]
    with pytest.raises(TypeError, match="cannot hold rows of different depth"):
        model.generate(**batch(), past_key_values=DynamicCache(), max_new_tokens=2)
    first = model.generate(**batch(), max_new_tokens=2, return_dict_in_generate=True)
    assert isinstance(first.past_key_values, StaircaseCache)
