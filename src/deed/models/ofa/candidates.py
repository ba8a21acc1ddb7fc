"""A closed list of answers: as a trie that constrains `generate()`, and scored one by one.

OFA answers VQA from the answers seen in training, two ways: *all candidates*, where each is scored by its summed
log-probability, a token's taken among the tokens that go on to some candidate; and *beam*, where generation is held to the
trie. Both work with any encoder-decoder of Transformers. With early exit, `confidence_over="allowed"` asks how sure an exit
is among the tokens that the trie leaves open; where there is one only, it is certain.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from deed.constants import IGNORE_INDEX
from deed.errors import DataError
from deed.utils import unpickle

AllowedTokens = Callable[[int, torch.Tensor], list[int]]


class Trie:
    """A prefix tree over lists of token ids."""

    def __init__(self, sequences: Iterable[Sequence[int]] = ()) -> None:
        self.root: dict[int, Any] = {}
        for ids in sequences:
            self.add(ids)

    def add(self, ids: Sequence[int]) -> None:
        """Add a sequence; again is harmless."""
        node = self.root
        for i in ids:
            node = node.setdefault(i, {})

    def children(self, prefix: Sequence[int]) -> list[int]:
        """The ids that may follow `prefix`; none after the end of a sequence, or off the tree."""
        node = self.root
        for i in prefix:
            if i not in node:
                return []
            node = node[i]
        return list(node)


class Candidates:
    """Answers to choose from.

    Args:
        answers: as text.
        ids: their tokens, all ending in the same end token, which occurs nowhere else.

    Raises:
        ValueError: no answers, or token lists that do not fit them.
    """

    def __init__(self, answers: Sequence[str], ids: Sequence[Sequence[int]]) -> None:
        if not answers or len(answers) != len(ids):
            raise ValueError(
                f"candidates need one answer or more and the ids of each, got {len(answers)} and {len(ids)}"
            )
        self.answers, self.ids = list(answers), [list(row) for row in ids]
        self.eos = self.ids[0][-1] if self.ids[0] else -1
        for answer, row in zip(self.answers, self.ids, strict=True):
            if self.eos not in row or row.index(self.eos) != len(row) - 1:
                raise ValueError(
                    f"the ids of candidate {answer!r} must end in {self.eos} and have it nowhere else: {row}"
                )
        self.trie = Trie(self.ids)

    def __len__(self) -> int:
        return len(self.answers)

    def prefix_allowed_tokens_fn(
        self, start: int = 1, prompts: Sequence[Sequence[int]] | None = None
    ) -> AllowedTokens:
        """For `generate()`, with any number of beams: answers are candidates.

        Args:
            start: ids at the front that were told to the decoder: its start token, or the length of `decoder_input_ids`.
            prompts: instead, what the decoder is to be told, per row of the batch and of any length, start token first
                (`OFAProcessor.decoder_prompts`). They are forced token by token, as the original does, so that rows with
                prompts of different lengths can be generated together, from the start token alone. One per row that
                `generate()` has: with `num_return_sequences` and sampling, that many times.

        Raises:
            ValueError: a prompt with the end token, which would end the row.
        """
        if prompts is None:
            return lambda _, ids: self.trie.children(ids[start:].tolist()) or [self.eos]
        for prompt in prompts:
            if self.eos in prompt or not prompt:
                raise ValueError(
                    f"a prompt must have one token or more and not the end token {self.eos}: {list(prompt)}"
                )

        def allowed(row: int, ids: torch.Tensor) -> list[int]:
            if row >= len(prompts):
                raise ValueError(f"prompts for {len(prompts)} rows, but generate() has more; give one per row")
            prompt = prompts[row]
            if len(ids) < len(prompt):
                return [prompt[len(ids)]]
            return self.trie.children(ids[len(prompt) :].tolist()) or [self.eos]

        return allowed

    def best(self, scores: torch.Tensor) -> list[str]:
        """The answer with the highest score in each row of `[rows, candidates]`; the first of several."""
        return [self.answers[i] for i in scores.argmax(-1).tolist()]


def allowed_tokens(labels: torch.Tensor, tries: Trie | Sequence[Trie | None]) -> torch.Tensor:
    """For the training loss of an early-exit model, `model(…, labels=labels, allowed_tokens=…)`: from which tokens each
    label is chosen, as the original masks its loss for closed lists of answers.

    Args:
        labels: `[batch, length]` long, -100 where nothing counts (a prompt told to the decoder); the rest of a row is an
            answer, end token and all.
        tries: of all rows, or per row; None where any token may follow.

    Returns:
        `[batch, length, most]` long, ids filled up with -1; none where all are allowed. As large as the widest choice, not
        as the vocabulary.

    Raises:
        ValueError: not a trie per row, or an answer that is not in its trie.
    """
    rows = labels.tolist()
    each = [tries] * len(rows) if isinstance(tries, Trie) else list(tries)
    if len(each) != len(rows):
        raise ValueError(f"labels of {len(rows)} rows, but tries for {len(each)}")
    found: list[torch.Tensor] = []
    nothing = torch.empty(0, dtype=torch.long)
    for row, trie in zip(rows, each, strict=True):
        answer: list[int] = []
        for label in row:
            if label == IGNORE_INDEX or trie is None:
                found.append(nothing)
                continue
            children = trie.children(answer)
            if label not in children:
                raise ValueError(f"the answer {[*answer, label]} … is not in the trie of its row")
            found.append(torch.tensor(children))
            answer.append(label)
    padded = torch.nn.utils.rnn.pad_sequence(found, batch_first=True, padding_value=-1)
    return padded.view(*labels.shape, padded.shape[-1])


def build_candidates(answers: Iterable[str], processor: Any) -> Candidates:
    """Candidates from texts, in their order and each once, encoded as `OFAProcessor.encode_answers` does targets."""
    texts = list(dict.fromkeys(answers))
    return Candidates(texts, processor.encode_answers(texts, cut=False))


def read_ans2label(path: str | Path) -> list[str]:
    """The answers of OFA's `trainval_ans2label.pkl`, a pickled dict of answers and their numbers, in its order.

    Raises:
        DataError: no such file, another content, or a pickle that refers to anything but plain values.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            value = unpickle.load(file)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    except Exception as error:  # a broken pickle can fail in any way
        raise DataError(
            f"{path}: cannot be read as a pickled dict of answers: {' '.join(str(error).split())}"
        ) from None
    if not isinstance(value, dict) or not value or not all(isinstance(answer, str) for answer in value):
        raise DataError(f"{path}: expected a dict of answers and their numbers, got {type(value).__name__}")
    return list(value)


@torch.no_grad()
def score_candidates(
    model: Any,
    inputs: dict[str, Any],
    candidates: Candidates,
    batch: int = 20,
    exit: int | None = None,
    prompts: Sequence[Sequence[int]] | None = None,
) -> torch.Tensor:
    """Summed log-probability of every candidate, each token's among those that go on to some candidate.

    Args:
        model: an encoder-decoder in evaluation mode.
        inputs: what its encoder takes (`input_ids`, `attention_mask`, `patch_images` …), or `encoder_outputs` and
            `attention_mask`.
        candidates: to score; the encoder runs once, the decoder on `batch` of them per row at a time.
        exit: depth of the exit to score with, for a deed model; None: the last.
        prompts: what the decoder is told first, per row, start token first; None: the start token.

    Returns:
        `[rows, candidates]`.

    Raises:
        ValueError: an exit that the model does not have, or not a prompt per row.
    """
    if exit is not None:
        config = getattr(model, "deed_config", None)
        exits = [] if config is None else config.exit_layers
        if exit not in exits:
            raise ValueError(
                f"exit must be one of the model's exits, {exits or 'and this is no deed model'}, got {exit}"
            )
    encoded, mask = _encode(model, inputs)
    rows = encoded[0].shape[0]
    told = [[model.config.decoder_start_token_id]] * rows if prompts is None else prompts
    if len(told) != rows:
        raise ValueError(f"{rows} rows, but prompts for {len(told)}")
    scores = []
    for first in range(0, len(candidates), batch):
        some = candidates.ids[first : first + batch]
        # Row by row, its candidates side by side.
        decoder_ids, at = _decoder_rows(told, some, model.config.pad_token_id or 0)
        states = {
            "encoder_outputs": _repeat(encoded, len(some)),
            "attention_mask": None if mask is None else mask.repeat_interleave(len(some), 0),
            "decoder_input_ids": decoder_ids.to(encoded[0].device),
        }
        logits = _logits(model, states, exit)
        picked = logits[torch.arange(len(at), device=logits.device)[:, None], at.to(logits.device)]
        scores.append(_sum_of_logs(picked.unflatten(0, (rows, len(some))), some, candidates.trie))
    return torch.cat(scores, dim=1)


def _encode(model: Any, inputs: dict[str, Any]) -> tuple[Any, torch.Tensor | None]:
    """The encoder's output and the mask that the decoder needs of it."""
    encoded = inputs.get("encoder_outputs")
    if encoded is None:
        encoder = model.get_encoder()
        takes = inspect.signature(encoder.forward).parameters
        encoded = encoder(**{k: v for k, v in inputs.items() if k in takes})
    mask = getattr(encoded, "attention_mask", None)
    return encoded, inputs.get("attention_mask") if mask is None else mask


def _repeat(encoded: Any, times: int) -> Any:
    def grown(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.stride(0) == 0:  # the same for every row, and as large as the states
            return tensor[:1].expand(len(tensor) * times, *tensor.shape[1:])
        return tensor.repeat_interleave(times, 0)

    return type(encoded)(**{k: grown(v) for k, v in encoded.items() if isinstance(v, torch.Tensor)})


def _decoder_rows(
    prompts: Sequence[Sequence[int]], some: Sequence[Sequence[int]], pad: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Decoder inputs `[rows * some, length]`, padded at the right, and where in them each token of an answer is predicted,
    `[rows * some, longest answer]` (the last such place again where an answer is shorter)."""
    told = [[*prompt, *ids[:-1]] for prompt in prompts for ids in some]
    length, longest = max(map(len, told)), max(map(len, some))
    padded = torch.tensor([row + [pad] * (length - len(row)) for row in told])
    start = torch.tensor([len(prompt) - 1 for prompt in prompts for _ in some])
    steps = torch.tensor([[min(i, len(ids) - 1) for i in range(longest)] for _ in prompts for ids in some])
    return padded, start[:, None] + steps


def _logits(model: Any, states: dict[str, Any], exit: int | None) -> torch.Tensor:
    if exit is None or exit == model.deed_config.exit_layers[-1]:
        return model(**states, use_cache=False).logits
    # Not exit_logits(): it would make every exit's logits over the whole vocabulary.
    out = model(**states, use_cache=False, output_hidden_states=True)
    return model.exit_head(exit, out.decoder_hidden_states[exit])


def _sum_of_logs(logits: torch.Tensor, some: Sequence[Sequence[int]], trie: Trie) -> torch.Tensor:
    """`[rows, some]` from logits `[rows, some, longest, vocab]`: log-softmax over a place's allowed ids, at the answer's."""
    allowed = [[trie.children(ids[:i]) for i in range(len(ids))] for ids in some]
    column = {i: n for n, i in enumerate(sorted({i for steps in allowed for step in steps for i in step}))}
    shape = len(some), logits.shape[2]
    open_ids = torch.zeros(*shape, len(column), dtype=torch.bool)
    target, there = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.bool)
    for c, (ids, steps) in enumerate(zip(some, allowed, strict=True)):
        for i, (token, step) in enumerate(zip(ids, steps, strict=True)):
            open_ids[c, i, [column[s] for s in step]] = True
            target[c, i], there[c, i] = column[token], True
    open_ids, target, there = (x.to(logits.device) for x in (open_ids, target, there))
    small = logits[..., list(column)]
    small = small.float() if small.dtype in (torch.float16, torch.bfloat16) else small
    logs = small.masked_fill(~open_ids, -torch.inf).log_softmax(-1)
    found = logs.gather(-1, target.expand(*logs.shape[:-1])[..., None])[..., 0]
    return found.masked_fill(~there, 0.0).sum(-1)


__all__ = ["Candidates", "Trie", "allowed_tokens", "build_candidates", "read_ans2label", "score_candidates"]
