"""What is decoded: models by their shape, and inputs for them.

Weights are random (`random_weights.py`) or those of shipped models; nothing is downloaded. The plain model and the deed model
of a shape hold the same tensors.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from deed.config import DeedConfig
from deed.modeling.exits_file import load_exits_into
from deed.modeling.model import get_deed_model
from deed.modeling.saved_config import read_config, saved_deed_config
from deed.utils.shipped import CHECKPOINTS

from .random_weights import Inputs, bart, latr, random_ids, random_page, t5

SHIPPED = ("g2p", "latr")
SOURCE = 256  # tokens, unless the shape says otherwise


class NotAvailable(Exception):
    """Something that cannot be measured here; the message says why."""


@dataclass(frozen=True)
class Shape:
    """A plain model and inputs for it.

    Attributes:
        build: makes the model, in evaluation mode.
        inputs: `(model, rows, generator)` to encoder inputs `[rows, source]`.
        exits: folder whose exits and `deed_config` the deed model gets; None: fresh ones, every layer an exit.
    """

    name: str
    build: Callable[[], Any]
    inputs: Callable[[Any, int, torch.Generator], Inputs]
    exits: Path | None = None


@dataclass
class Workload:
    """One shape at one batch size, encoded once: every subject decodes from the same states.

    Attributes:
        base: the plain model.
        model: the deed model on the same tensors.
        inputs: encoder inputs, padded at the right.
        encoded: the encoder's output for them.
        mask: `[rows, source]`, 1 where there is something to read.
        new_tokens: every answer is forced to so many.
        workplace: a folder for what other runtimes convert.
        encodes: subjects run the encoder; False: they start from `encoded`.
    """

    shape: str
    base: Any
    model: Any
    inputs: Inputs
    encoded: Any
    mask: torch.Tensor
    new_tokens: int
    workplace: Path
    encodes: bool = True
    made: dict[str, Any] = field(default_factory=dict)  # of the models, once
    references: dict[Any, torch.Tensor] = field(default_factory=dict)  # tokens by the reference without a cache

    @property
    def rows(self) -> int:
        """Batch size."""
        return self.mask.shape[0]

    @property
    def n_layers(self) -> int:
        """Layers of the decoder."""
        return len(self.model.deed_family.layers(self.model))

    @property
    def width(self) -> int:
        """d_model."""
        return self.model.deed_family.d_model(self.model)

    @property
    def vocab(self) -> int:
        """Size of the vocabulary."""
        return self.model.deed_family.vocab_size(self.model)

    @property
    def base_layers(self) -> Any:
        """The plain model's decoder layers."""
        return self.model.deed_family.layers(self.base)

    def decoder_inputs(self, rows: int | None = None, model: Any = None) -> dict[str, Any]:
        """Arguments of `generate()` that leave the encoder out of it.

        Args:
            rows: only the first so many.
            model: whose encoder's states; None: `encoded`.
        """
        states = self.encoded[0][:rows]
        if model is not None:
            states = model.get_encoder()(**{k: v[:rows] for k, v in self.inputs.items()})[0]
        return {"encoder_outputs": type(self.encoded)(last_hidden_state=states), "attention_mask": self.mask[:rows]}


def make_workload(
    shape: str | Shape, rows: int, new_tokens: int, workplace: Path, like: Workload | None = None
) -> Workload:
    """A shape's models and inputs, encoded.

    Args:
        shape: one of your own, or the name of one of `SHAPES`.
        like: a workload with the same models, which are used again, and so is what was made of them.

    Raises:
        ValueError: no such shape.
        NotAvailable: real inputs that cannot be had here.
    """
    chosen = shape_of(shape) if isinstance(shape, str) else shape
    base, model = (like.base, like.model) if like is not None else build(chosen)
    inputs = chosen.inputs(base, rows, torch.Generator().manual_seed(0))
    with torch.no_grad():
        encoded = base.get_encoder()(**inputs)
    mask = getattr(encoded, "attention_mask", None)
    mask = inputs["attention_mask"] if mask is None else mask
    made = {} if like is None else like.made
    return Workload(chosen.name, base, model, inputs, encoded, mask, new_tokens, workplace, made=made)


def shape_of(name: str) -> Shape:
    """Raises:
    ValueError: no such shape.
    """
    if name not in SHAPES:
        raise ValueError(f"--shape must be one of {', '.join(SHAPES)}, got {name!r}")
    return SHAPES[name]


def build(shape: Shape) -> tuple[Any, Any]:
    """`(plain model, deed model on the same tensors)`."""
    base = shape.build()
    config = None
    if shape.exits is not None:
        path = shape.exits / "config.json"
        config = saved_deed_config(read_config(path), str(path))
    model = twin(base, config)
    if shape.exits is not None:
        load_exits_into(model, shape.exits)
    return base, model


def twin(base: Any, config: DeedConfig | None = None) -> Any:
    """A deed model of the same tensors; `base` stays the plain model it is."""
    return get_deed_model(copied(base), config).eval()


def copied(model: Any) -> Any:
    """A copy with modules of its own and the same tensors."""
    return copy.deepcopy(model, {id(t): t for t in [*model.parameters(), *model.buffers()]})


# -- shipped models and real inputs -----------------------------------------------------------------------------------


def shipped(name: str) -> Any:
    """The plain model of a checkpoint that comes with the package."""
    from transformers import AutoModelForSeq2SeqLM

    return AutoModelForSeq2SeqLM.from_pretrained(CHECKPOINTS / name).eval()


def real_words(model: Any, rows: int, generator: torch.Generator) -> Inputs:
    """Words of CMUdict's test split.

    Args:
        model, rows, generator: as for `Shape.inputs`; the words do not depend on the first and last.

    Raises:
        NotAvailable: the dictionary is not installed.
    """
    from transformers import AutoTokenizer

    from deed.data.readers import cmudict

    try:
        words = [word for word, _ in cmudict.load_split("test")]
    except ValueError as error:  # DataError: the dictionary's wheel is not installed
        raise NotAvailable(str(error)) from None
    random.Random(0).shuffle(words)
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINTS / "g2p")
    return dict(tokenizer(words[:rows], return_tensors="pt", padding=True))


def real_pages(model: Any, rows: int, generator: torch.Generator) -> Inputs:
    """The question for all main fields (long answers) of pages of the test split, with the picture and the words as OCR
    might read them: no OCR engine needed.

    Args:
        model, rows, generator: as for `Shape.inputs`; the pages do not depend on the first and last.

    Raises:
        NotAvailable: fonts or libraries are missing.
    """
    from dataclasses import replace

    from deed.tasks import documents as document_run
    from deed.tasks.loading import load_processor

    try:
        from deed.data.synthetic import pages
        from deed.data.synthetic.pages.simulate import ocr_words

        processor = load_processor(CHECKPOINTS / "latr")
        encoded = []
        for index in range(rows):
            words = ocr_words(pages.page_of("test", index), random.Random(index))
            asked = pages.examples_of("test", index, words)
            longest = next((e for e in asked if e.kind == "all"), asked[-1])
            encoded.append(document_run.encode(processor, replace(longest, image=pages.image_of("test", index))))
    except (ImportError, ValueError, OSError) as error:  # fonts or libraries of the extra "documents" are missing
        raise NotAvailable(" ".join(str(error).split())) from None
    return document_run.inputs_of(processor, encoded)


SHAPES: dict[str, Shape] = {
    shape.name: shape
    for shape in (
        Shape("t5-small", lambda: t5(6, 512, 2048, 8), random_ids(SOURCE)),
        Shape("t5-base", lambda: t5(12, 768, 3072, 12), random_ids(SOURCE)),
        Shape("bart-base", lambda: bart(6, 768, 3072, 12), random_ids(SOURCE)),
        Shape("latr-base", lambda: latr(12, 768, 3072, 12), random_page(512)),
        Shape("g2p", lambda: shipped("g2p"), real_words, CHECKPOINTS / "g2p"),
        Shape("latr", lambda: shipped("latr"), real_pages, CHECKPOINTS / "latr"),
        # For trying things out.
        Shape("tiny-t5", lambda: t5(4, 32, 64, 4, vocab=100, head_width=8), random_ids(12)),
        Shape("tiny-bart", lambda: bart(4, 32, 64, 4, vocab=100), random_ids(12)),
        Shape("tiny-latr", lambda: latr(4, 32, 64, 4, vocab=100, head_width=8), random_page(12)),
    )
}
