"""The reference everything that decodes is compared with: no cache, `exit_logits` on the growing prefix, first
confident exit. It shares no decoding code with the engine: Transformers' own `generate()` runs the plain model's class,
whose forward is replaced, with `use_cache=False`."""

import copy
import math

import torch
from transformers.modeling_outputs import Seq2SeqLMOutput


def max_prob(logits, hidden):
    return logits.softmax(-1).amax(-1)


def margin(logits, hidden):
    top = logits.softmax(-1).sort(-1, descending=True).values
    return top[..., 0] - top[..., 1]


def entropy(logits, hidden):
    p = logits.softmax(-1)
    return 1 + (p * p.clamp(min=1e-300).log()).sum(-1) / math.log(p.shape[-1])


def ordered(first, count, within):
    def measure(logits, hidden):
        p = logits.softmax(-1)
        out = p.amax(-1)
        for place in torch.cartesian_prod(*map(torch.arange, p.shape[:-1])).view(-1, p.ndim - 1).tolist():
            row = p[tuple(place)]
            best = int(row.argmax())
            if first <= best < first + count:
                out[tuple(place)] = row[max(first, best - within) : min(first + count, best + within + 1)].sum()
        return out

    return measure


def state_similarity(logits, hidden):
    """hidden: [n_layers + 1, rows, d], entry l is layer l's output."""
    lower, upper = hidden[:-1], hidden[1:]
    cosine = (lower * upper).sum(-1) / (lower.norm(dim=-1) * upper.norm(dim=-1))
    cosine[0] = 0  # starts at the second layer
    return cosine


def patience(k):
    def measure(logits, hidden):
        token = logits.argmax(-1)
        out = torch.zeros(token.shape, dtype=logits.dtype)
        for e in range(token.shape[0]):
            for r in range(token.shape[1]):
                run = 0
                while run < e and token[e - run - 1, r] == token[e, r]:
                    run += 1
                out[e, r] = min(1.0, run / k)
        return out

    return measure


class Oracle:
    """`generate` as a deed model's, by brute force.

    Args:
        model: a deed model (only its `exit_logits` and `deed_config` are used).
        threshold: number, list per exit, or tensor [rows]; or `depths(step) -> [rows]` of forced depths.
    """

    def __init__(self, model, threshold=None, measure=max_prob, depths=None, allowed=None):
        self.model, self.threshold, self.measure, self.depths, self.allowed = (
            model,
            threshold,
            measure,
            depths,
            allowed,
        )
        self.trace = []

    def choose(self, inputs, ids):
        """Logits and depth of every row for the next token after `ids`."""
        m = self.model
        # Copied each time: MoonshineStreaming adds positions to the encoder's states in place.
        z = m.exit_logits(**copy.deepcopy(inputs), decoder_input_ids=ids)[:, :, -1]  # [exits, rows, vocab]
        layers = m.deed_config.exit_layers
        step = len(self.trace)
        rows = torch.arange(z.shape[1])
        if self.depths is not None:
            want = self.depths(step, z.shape[1])
            index = torch.tensor([next(i for i, d in enumerate(layers) if d >= w) for w in want])
        else:
            at_exits = None
            if self.measure is state_similarity:
                hidden = m.deed_base.forward(
                    m, **copy.deepcopy(inputs), decoder_input_ids=ids, output_hidden_states=True, use_cache=False
                ).decoder_hidden_states
                at_exits = torch.stack([h[:, -1] for h in hidden])
            seen = z if self.allowed is None else z.masked_fill(~self.allowed(ids), -math.inf)
            confidence = self.measure(seen, at_exits)
            if self.measure is state_similarity:
                # The last entry of hidden_states is after the final norm; the last exit always answers anyway.
                confidence = confidence[[d - 1 for d in layers]]
            limit = torch.as_tensor(self.threshold, dtype=torch.float64)
            if isinstance(self.threshold, list):
                limit = torch.cat([limit, torch.zeros(len(layers) - len(limit))])[:, None]
            sure = confidence >= limit
            sure[-1] = True
            index = sure.to(torch.int).argmax(0)
        self.trace.append(torch.tensor(layers)[index])
        return z[index, rows]

    def generate(self, encoder_inputs, **kwargs):
        """Returns the generate output and the trace of depths [steps, rows]."""
        oracle, model = self, self.model
        self.trace = []
        base = model.deed_base

        def forward(self, encoder_outputs=None, attention_mask=None, decoder_input_ids=None, **ignored):
            inputs = {"encoder_outputs": encoder_outputs, "attention_mask": attention_mask}
            for name in ("decoder_attention_mask", "decoder_position_ids"):
                if ignored.get(name) is not None:
                    inputs[name] = ignored[name]
            return Seq2SeqLMOutput(logits=oracle.choose(inputs, decoder_input_ids)[:, None])

        import inspect

        forward.__signature__ = inspect.signature(base.forward)
        reference = type(base.__name__, (base,), {"forward": forward})
        plain = base.__new__(reference)
        plain.__dict__ = model.__dict__
        out = reference.generate(plain, **encoder_inputs, **kwargs, use_cache=False, return_dict_in_generate=True)
        return out, torch.stack(self.trace)


def expected_exit_layers(out, trace, prompt: int, eos: int | None):
    """`exit_layers` as SPEC has it, from the oracle's trace."""
    if getattr(out, "beam_indices", None) is not None:
        rows = out.beam_indices.long()
        depths = torch.zeros_like(rows)
        for s in range(rows.shape[0]):
            for t in range(rows.shape[1]):
                depths[s, t] = trace[t, rows[s, t]] if rows[s, t] >= 0 else 0
        return depths
    new = out.sequences[:, prompt:]
    depths = trace.T.clone()
    for s in range(new.shape[0]):
        ends = (new[s] == eos).nonzero() if eos is not None else []
        if len(ends):
            depths[s, ends[0, 0] + 1 :] = 0
    return depths
