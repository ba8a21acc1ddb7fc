"""Requests for tiny models, and what `generate()` alone answers them."""

import torch
from ofa_models import ofa_batch, ofa_model

from conftest import VOCAB, deed_model
from deed import FixedSchedule
from deed.serving.request import GenerationRequest
from deed.serving.ticket import Failed
from latr import latr_model, page_batch

MODELS = ("t5_tied", "t5_untied_gated", "bart", "ofa", "latr")


def model_of(kind):
    if kind == "ofa":
        return ofa_model()
    return latr_model() if kind == "latr" else deed_model(kind)


class Allowed:
    """Constrains to tokens by the prefix; a function of its arguments alone."""

    def __call__(self, batch_id, ids):
        assert batch_id == 0
        return [t for t in range(VOCAB) if (t + len(ids)) % 3]


class Stateful(torch.nn.Module):
    """A logits processor that remembers how often it was asked."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __call__(self, ids, scores):
        self.count += 1
        scores[:, self.count % VOCAB] += 2.0
        return scores


class Odd:
    """Ends a row whose newest tokens are both odd."""

    def __call__(self, ids, scores, **kwargs):
        return (ids[:, -2:] % 2 == 1).all(-1) & torch.tensor(ids.shape[1] > 3)


def options_of(number):
    """Options that differ from request to request; processors and policies made anew by every call."""
    from transformers import LogitsProcessorList, StoppingCriteriaList

    variants = [
        {},
        {"exit_threshold": 0.35},
        {"exit_threshold": 2.0},
        {"do_sample": True, "temperature": 0.8, "exit_threshold": 0.6},
        {"exit_policy": FixedSchedule([1 + (number + t) % 5 for t in range(3)])},
        {"repetition_penalty": 1.4, "no_repeat_ngram_size": 2},
        {"exit_threshold": [0.5, 0.7, 0.4, 0.9]},
        {"prefix_allowed_tokens_fn": Allowed(), "exit_threshold": 0.6, "confidence_over": "allowed"},
        {"do_sample": True, "top_k": 7, "top_p": 0.9},
        {"logits_processor": LogitsProcessorList([Stateful()]), "exit_threshold": 0.5},
        {"stopping_criteria": StoppingCriteriaList([Odd()])},
        {"exit_check": {"name": "screen"}, "exit_threshold": 0.5},
        {"min_new_tokens": 4, "suppress_tokens": [5, 6], "forced_eos_token_id": 7},
        {"decoder_input_ids": torch.tensor([[0, 4, 5 + number % 7]]), "exit_threshold": 0.7},
    ]
    return {"max_new_tokens": 3 + number * 5 % 11, **variants[number % len(variants)]}


def inputs_of(kind, number):
    """Encoder inputs of one row."""
    rows, r = 4, number % 4
    if kind == "ofa":
        whole = ofa_batch(rows=rows, seed=number // 4, images=number % 3 > 0, size=((48, 40), (40, 64))[number % 2])
    elif kind == "latr":
        whole = page_batch(rows=rows, seed=number // 4)
    else:
        length = 3 + number * 3 % 9
        ids = torch.randint(3, VOCAB, (rows, length), generator=torch.Generator().manual_seed(number))
        mask = torch.ones_like(ids)
        mask[:, length - number % 2 :] = 0
        whole = {"input_ids": ids, "attention_mask": mask}
        if number % 5 == 4:
            del whole["attention_mask"]
    return {name: value[r : r + 1] for name, value in whole.items()}


def request_of(kind, number, **more):
    return GenerationRequest(inputs_of(kind, number), options_of(number), seed=number, **more)


def alone(model, kind, number, exact=False):
    """New tokens and depths of `generate()` alone."""
    torch.manual_seed(number)
    options = options_of(number)
    out = model.generate(**inputs_of(kind, number), **options, exact=exact, return_dict_in_generate=True)
    tokens = out.sequences[0].tolist()
    return tokens[len(tokens) - out.exit_layers.shape[1] :], out.exit_layers[0].tolist()


def check(model, kind, numbers, ends):
    for number, end in zip(numbers, ends, strict=True):
        assert not isinstance(end, Failed), end
        tokens, depths = alone(model, kind, number)
        assert end.tokens == tokens, (kind, number)
        assert end.depths == depths, (kind, number)
