"""What the load of `deed bench serve` asks for: a model folder that every server can load, and requests to it.

Random weights never end an answer nor leave early by themselves. So their requests carry a length (`max_new_tokens`) and the
depths of the answer's tokens (`exit_schedule`, which only deed heeds), both recorded from real answers; the length of the
text that is sent is recorded as well. The shipped g2p model decides all that itself.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from deed.config import DeedConfig
from deed.exits.learned import Learned
from deed.utils.files import read_json, write_json
from deed.utils.shipped import CHECKPOINTS

from .random_weights import FIRST_WORD
from .schedules import replayed
from .serve_answers import recorded
from .shapes import NotAvailable, shape_of, twin

SHAPES = ("t5-small", "t5-base", "g2p", "tiny-t5")
EXIT_CHECK = "gate"  # of random weights: in a batch some row passes most exits, and a gate costs next to nothing there
END = 0  # the padding's id: random weights practically never say it, so that the length asked for is the length given


@dataclass(frozen=True)
class Request:
    """What one client asks for.

    Attributes:
        text: the source, as it is sent.
        max_new_tokens: None: as the model's own settings say.
        exit_schedule: depth of each token; None: by the model's own threshold.
    """

    text: str
    max_new_tokens: int | None = None
    exit_schedule: tuple[int, ...] | None = None

    def body(self, scheduled: bool) -> dict[str, Any]:
        """The JSON body; `scheduled`: for a server that knows early exit."""
        values: dict[str, Any] = {"text": self.text}
        if self.max_new_tokens is not None:
            values["max_new_tokens"] = self.max_new_tokens
        if scheduled and self.exit_schedule is not None:
            values["exit_schedule"] = list(self.exit_schedule)
        return values


@dataclass(frozen=True)
class Work:
    """A model and requests, on disk.

    Attributes:
        folder: of this work; answers of reference and converted models are kept there.
        model: a saved model with its tokenizer, early exit included; plain classes load it as well.
        requests: in the order in which clients send them, over and over.
    """

    shape: str
    answers: str
    folder: Path
    model: Path
    requests: tuple[Request, ...]


def make_work(shape: str, answers: str, count: int, folder: Path, seed: int = 0) -> Work:
    """The model, saved, and `count` requests to it; what is in the folder already is used again.

    Args:
        shape: of `SHAPES`.
        answers: whose recorded lengths and depths, of `serve_answers.TASKS`; g2p has its own.
        count: of different requests.
        folder: where works are kept; this one gets a folder of its own in it.
        seed: of the draw of requests and of the words in them.

    Raises:
        ValueError: no such shape or task.
        NotAvailable: a dictionary that is not installed.
    """
    if shape not in SHAPES:
        raise ValueError(f"--shape must be one of {', '.join(SHAPES)}, got {shape!r}")
    real = shape == "g2p"
    answers = "g2p" if real else answers
    recorded(answers)
    own = folder / f"{shape}-{answers}-{count}-{seed}-{EXIT_CHECK}"
    path = own / "requests.json"
    if not path.exists():
        own.mkdir(parents=True, exist_ok=True)
        requests = words(count, seed) if real else drawn(shape, answers, count, own / "model", seed)
        write_json(path, {"requests": [asdict(r) for r in requests]}, indent=None)  # last: the folder is whole
    found = read_json(path)["requests"]
    model = CHECKPOINTS / "g2p" if real else own / "model"
    return Work(shape, answers, own, model, tuple(read_request(values) for values in found))


def read_request(values: dict[str, Any]) -> Request:
    """A request from its JSON form."""
    depths = values["exit_schedule"]
    return Request(values["text"], values["max_new_tokens"], None if depths is None else tuple(depths))


def words(count: int, seed: int) -> list[Request]:
    """Words of CMUdict's validation split.

    Raises:
        NotAvailable: the dictionary is not installed.
    """
    from deed.tasks.g2p import G2pTask

    try:
        found = [example.question for example in G2pTask().examples("validation")]
    except ValueError as error:  # DataError: the dictionary's wheel is not installed
        raise NotAvailable(str(error)) from None
    return [Request(word) for word in random.Random(seed).sample(found, count)]


def drawn(shape: str, answers: str, count: int, folder: Path, seed: int) -> list[Request]:
    """Requests of random words with the lengths and depths of recorded answers; the model is saved beside them.

    Args:
        shape, answers, count, seed: as for `make_work`.
        folder: for the model.
    """
    base = shape_of(shape).build()
    for config in (base.config, base.generation_config):
        config.eos_token_id = END
    model = twin(base, DeedConfig(exit_check=EXIT_CHECK))
    exits, width = len(model.deed_config.exit_layers) - 1, model.deed_family.d_model(model)
    model.deed_exits["gate"] = Learned(weight=torch.zeros(exits, width), bias=torch.zeros(exits))  # depths are forced
    model.save_pretrained(folder)
    save_tokenizer(folder, base.config)
    layers, vocab = len(model.deed_family.layers(model)), base.config.vocab_size
    known, of = recorded(answers)
    draw = random.Random(seed)
    chosen = [known[i % len(known)] for i in draw.sample(range(max(count, len(known))), count)]
    requests = []
    for answer in chosen:
        text = " ".join(f"t{i}" for i in draw.choices(range(FIRST_WORD, vocab), k=answer.source))
        length = len(answer.depths)
        depths = replayed([answer.depths], of, layers, 1, length)[0]
        requests.append(Request(text, length, tuple(depths)))
    return requests


def save_tokenizer(folder: Path, config: Any) -> None:
    """A tokenizer that calls id 7 "t7"; words stand between spaces, and nothing is put at the end. Special tokens have names
    that are no beginning of another's: they are found inside words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = {END: "<end>", 3: "<unk>"}
    ids = {special.get(i, f"t{i}"): i for i in range(config.vocab_size)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"pad_token": special[END], "eos_token": special[END], "unk_token": special[3]}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
