"""Ways of answering requests in one process, without a server: what peers run behind their front, and what answers alone
are made by (the reference of every served answer).

Run as a module it writes the reference: `python -m deed.bench.serve_engines SUBJECT MODEL REQUESTS OUT`.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from deed.utils.files import read_json, write_json

from .serve_work import Request, read_request

Tell = Callable[[int, int], None]  # row of the batch, token: as they come
LONGEST = 512  # tokens, where neither request nor model says


class Engine(Protocol):
    """Answers batches."""

    def __call__(self, requests: Sequence[Request], tell: Tell | None = None) -> list[list[int]]:
        """Tokens per request, without start and end tokens.

        Args:
            requests: one batch.
            tell: takes every token when it comes.
        """


class TransformersEngine:
    """`generate()` of the plain class on the padded batch; rows that have their length are done, as by an end token."""

    def __init__(self, folder: Path, threads: int) -> None:
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

        torch.set_num_threads(threads)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.model: Any = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()

    @torch.no_grad()
    def __call__(self, requests: Sequence[Request], tell: Tell | None = None) -> list[list[int]]:
        """As `Engine`."""
        inputs = self.tokenizer([r.text for r in requests], return_tensors="pt", padding=True)
        lengths = [r.max_new_tokens or LONGEST for r in requests]
        given = requests[0].max_new_tokens is not None

        def done(ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
            last, step = ids[:, -1].tolist(), ids.shape[1] - 1
            if tell is not None:
                for row, token in enumerate(last):
                    if step <= lengths[row]:
                        tell(row, token)
            return torch.tensor([step >= n for n in lengths])

        options: dict[str, Any] = {"stopping_criteria": [done]} if given or tell is not None else {}
        if given:
            options["max_new_tokens"] = max(lengths)
        out = self.model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            do_sample=False,
            num_beams=1,
            **options,
        )
        end = self.model.generation_config.eos_token_id
        return [ended(row[:n], end) for row, n in zip(out[:, 1:].tolist(), lengths, strict=True)]


class CTranslate2Engine:
    """`Translator.translate_batch`; a callback ends a row that has its length.

    Args:
        folder: of the model as Transformers loads it; converted into `converted` once.
        converted: where to.
        compute_type: "float32" or "int8".
        threads: in all.
        inter: batches at once, each with `threads // inter` threads.
        most: `max_batch_size`.
    """

    def __init__(
        self, folder: Path, converted: Path, compute_type: str, threads: int, inter: int = 1, most: int = 32
    ) -> None:
        import ctranslate2
        from transformers import AutoTokenizer

        if not converted.exists():
            ctranslate2.converters.TransformersConverter(str(folder)).convert(str(converted))
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.translator: Any = ctranslate2.Translator(
            str(converted),
            device="cpu",
            compute_type=compute_type,
            inter_threads=inter,
            intra_threads=max(1, threads // inter),
        )
        self.inter, self.most = inter, most

    def __call__(self, requests: Sequence[Request], tell: Tell | None = None) -> list[list[int]]:
        """As `Engine`."""
        sources = [self.tokenizer.convert_ids_to_tokens(self.tokenizer(r.text).input_ids) for r in requests]
        given = requests[0].max_new_tokens is not None
        lengths = [r.max_new_tokens or LONGEST for r in requests]

        def step(result: Any) -> bool:
            if tell is not None:
                tell(result.batch_id, result.token_id)
            return bool(result.step + 1 >= lengths[result.batch_id])

        results = self.translator.translate_batch(
            sources,
            beam_size=1,
            max_batch_size=self.most,
            max_decoding_length=max(lengths),
            asynchronous=True,
            callback=step if given or tell is not None else None,
        )
        return [self.tokenizer.convert_tokens_to_ids(r.result().hypotheses[0]) for r in results]


class DeedEngine:
    """deed's `generate()`, one request after the other.

    Args:
        folder: of the model.
        threads: torch's.
        int8: quantized as `deed serve --int8` does it.
        full: never leave early.
    """

    def __init__(self, folder: Path, threads: int, int8: bool = False, full: bool = False) -> None:
        from deed.modeling.loading import from_pretrained
        from deed.modeling.quantization import quantize

        torch.set_num_threads(threads)
        from transformers import AutoTokenizer

        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.model: Any = from_pretrained(folder).eval()
        self.full = full
        if int8:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                quantize(self.model, "int8", parts=("encoder", "decoder", "head"))

    @torch.no_grad()
    def __call__(self, requests: Sequence[Request], tell: Tell | None = None) -> list[list[int]]:
        """As `Engine`; `tell` is not called."""
        from deed.constants import NEVER_EXIT
        from deed.policies.policy import FixedSchedule

        answers = []
        for request in requests:
            options: dict[str, Any] = {}
            if self.full:
                options["exit_threshold"] = NEVER_EXIT
            elif request.exit_schedule is not None:
                options["exit_policy"] = FixedSchedule(request.exit_schedule, ask=True)
            if request.max_new_tokens is not None:
                options["max_new_tokens"] = request.max_new_tokens
            ids = self.tokenizer(request.text, return_tensors="pt").input_ids
            out = self.model.generate(input_ids=ids, do_sample=False, num_beams=1, **options)
            answers.append(ended(out[0, 1:].tolist(), self.model.generation_config.eos_token_id))
        return answers


def ended(tokens: list[int], end: int) -> list[int]:
    """The tokens before the first end token."""
    return tokens[: tokens.index(end)] if end in tokens else tokens


def engine(subject: str, model: Path, work: Path, threads: int, inter: int = 1, most: int = 32) -> Any:
    """The engine of a subject ("deed int8", "ctranslate2 fp32" …).

    Args:
        subject: its name; LitServe has Transformers' engine.
        model: the saved model.
        work: folder where converted models are kept.
        threads: in all.
        inter, most: of CTranslate2.
    """
    runtime, precision = subject.split()[:2]
    if runtime == "deed":
        return DeedEngine(model, threads, precision == "int8", "full" in subject)
    if runtime == "ctranslate2":
        kind = {"fp32": "float32", "int8": "int8"}[precision]
        return CTranslate2Engine(model, work / "ctranslate2", kind, threads, inter, most)
    return TransformersEngine(model, threads)


def main(subject: str, model: str, requests: str, out: str, threads: str) -> None:
    """Writes `{"texts", "tokens"}` of every request, answered alone.

    Args:
        subject, model, threads: of `engine`.
        requests: file of a work's requests.
        out: the file written.
    """
    asked = [read_request(values) for values in read_json(requests)["requests"]]
    answering = engine(subject, Path(model), Path(requests).parent, int(threads))
    tokens = [answering([request])[0] for request in asked]
    texts = [answering.tokenizer.decode(row, skip_special_tokens=True) for row in tokens]
    write_json(out, {"subject": subject, "texts": texts, "tokens": tokens}, indent=None)


if __name__ == "__main__":
    main(*sys.argv[1:])
