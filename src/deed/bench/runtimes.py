"""Other runtimes, each in a process of its own; CTranslate2, by its own converter, loop and kernels."""

from __future__ import annotations

import multiprocessing
import time
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from deed.utils.files import read_json, write_json

from .shapes import NotAvailable, Workload
from .subjects import Subject, Timing, check_baseline

Answer = tuple[list[float], list[list[int]]]  # ms from the question to each token, tokens

REST = (
    0.25  # seconds: OpenMP's threads spin for 0.2 s after their last work, and would do so in the next subject's turn
)

INSTALL = 'pip install "deed-transformers[bench]"'


def ctranslate2(workload: Workload, compute_type: str) -> Subject:
    """CTranslate2, converted by its own converter; quantised when it is loaded. Tokens are timed as they come."""
    try:
        import ctranslate2 as ct2
    except ImportError:
        raise NotAvailable(f"not installed: {INSTALL}") from None
    folder = workload.workplace / "ctranslate2"
    if not folder.exists():
        converter = ct2.converters.TransformersConverter(str(plain_folder(workload)))
        try:
            converter.convert(str(folder))
        except ValueError as error:  # it lists all it knows in brackets
            raise NotAvailable(str(error).split(" (")[0]) from None
    source = [[f"t{i}" for i in row] for row in unpadded(workload)]
    end = f"t{workload.base.config.pad_token_id}"  # what the minimal length forbids: nothing a model says
    answer = Apart(_ctranslate2, str(folder), compute_type, torch.get_num_threads(), source, end, workload.new_tokens)
    size = {"float32": 4, "int8": 1}[compute_type]
    name = f"ctranslate2 {'int8' if size == 1 else 'fp32'}"
    check = partial(check_baseline, workload)
    return Subject(name, answer, check, weight_bytes=size, head_bytes=size)


def _ctranslate2(
    folder: str, compute_type: str, threads: int, source: list[list[str]], end: str, n: int
) -> Callable[[], Answer]:
    import ctranslate2 as ct2

    translator = ct2.Translator(
        folder, device="cpu", compute_type=compute_type, inter_threads=1, intra_threads=threads
    )

    def run() -> Answer:
        stamps: dict[int, float] = {}

        def note(result: Any) -> bool:
            stamps[result.step] = time.perf_counter()
            return False

        start = time.perf_counter()
        results = translator.translate_batch(
            source, beam_size=1, max_decoding_length=n, min_decoding_length=n, end_token=end, callback=note
        )
        tokens = [[int(token[1:]) for token in r.hypotheses[0]] for r in results]
        return [(stamps[step] - start) * 1e3 for step in sorted(stamps)], tokens

    return run


class Apart:
    """A runtime in a process of its own, which sleeps between its turns: CTranslate2's OpenMP beside PyTorch's makes int8
    products of the latter take twice as long once both have run in one process.

    Args:
        make: a function of this module: from `arguments`, in the other process, to what answers once.
    """

    def __init__(self, make: Callable[..., Callable[[], Answer]], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, make, arguments), daemon=True)
        self.process.start()
        theirs.close()
        weakref.finalize(self, self.process.kill)

    def __call__(self) -> Timing:
        """Raises:
        NotAvailable: with what went wrong over there.
        """
        try:
            self.pipe.send(None)
            answer = self.pipe.recv()
        except (EOFError, OSError):
            raise NotAvailable("its process died") from None
        if isinstance(answer, str):
            raise NotAvailable(answer)
        stamps, tokens = answer
        return Timing(stamps, torch.tensor(tokens))


def _serve(pipe: Any, make: Callable[..., Callable[[], Answer]], arguments: tuple[Any, ...]) -> None:
    try:
        run = make(*arguments)
        while True:
            pipe.recv()
            answer = run()
            time.sleep(REST)
            pipe.send(answer)
    except EOFError:
        pass
    except Exception as error:  # whatever it is, it is that library's
        pipe.send(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


def plain_folder(workload: Workload) -> Path:
    """The plain model saved as converters want it: with a tokenizer, which calls id 7 "t7", and attention in the open."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    folder = workload.workplace / "plain"
    if folder.exists():
        return folder
    workload.base.save_pretrained(folder)
    config = workload.base.config
    ids = {f"t{i}": i for i in range(config.vocab_size)}
    special = {
        f"{kind}_token": f"t{getattr(config, f'{kind}_token_id')}"
        for kind in ("bos", "eos", "pad")
        if getattr(config, f"{kind}_token_id", None) is not None
    }
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="t3"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="t3", **special).save_pretrained(folder)
    path = folder / "config.json"
    # onnxruntime's exporter cannot write sdpa; CTranslate2 asks BART for a field that Transformers 5 has dropped.
    extra = {"attn_implementation": "eager", "normalize_before": False}
    # Its loop forbids the end token up to the length asked for; so use a token id that the model never generates.
    ends = {"eos_token_id": config.pad_token_id}
    write_json(path, {**extra, **read_json(path), **ends})
    return folder


def unpadded(workload: Workload) -> list[list[int]]:
    """The ids of every row without their padding."""
    ids, mask = workload.inputs["input_ids"], workload.inputs["attention_mask"]
    return [row[: int(keep.sum())].tolist() for row, keep in zip(ids, mask, strict=True)]
