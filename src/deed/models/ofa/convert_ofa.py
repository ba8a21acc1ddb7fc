"""Released OFA weights to a folder that `OFAForConditionalGeneration` loads: `deed convert ofa CHECKPOINT OUT`.

Every tensor of the file is accounted for: it has a place of its shape in the model, or it is an index table that this
model computes (and then it must hold what is computed), or the conversion stops and names it. Weights stay as they are,
bit for bit and in their dtype; `config.json` says float32, which is how they are loaded. `names.to_original` is the way back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from deed.utils.files import swapped_folder

from . import names
from .architecture import config_from_arguments, config_from_port, image_size_of
from .configuration_ofa import OFAConfig
from .modeling_ofa import OFAForConditionalGeneration
from .original import Source, named, read_source
from .processing_ofa import OFAProcessor, build_image_processor
from .tokenization_ofa import N_BINS, N_CODES, has_tokenizer, read_tokenizer

MAX_IMAGE_SIZE = 512  # what the last bin stands for in the released models
STEPS = ("reading", "checking", "writing")


class OFAConversionError(ValueError):
    """A checkpoint that is not an OFA, or not whole; the message names file and tensors."""


def convert(
    checkpoint: str | Path,
    output: str | Path,
    ema: bool = False,
    bpe: str | Path | None = None,
    image_size: int | None = None,
    vocab_size: int | None = None,
    tell: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Write a model folder; nothing is left behind where it fails.

    Args:
        checkpoint: a fairseq `.pt` file, or a folder of the Transformers port.
        output: a folder that is not there yet, or empty.
        ema: take the averaged weights (`extra_state`, `ema`), as the original's `--ema-eval`.
        bpe: a folder with the tokenizer's files (`tokenization_ofa.read_tokenizer`); None: that of the port's folder, or
            none.
        image_size: side of the pictures in pixels; None: the checkpoint's, or its released size.
        vocab_size: grow the vocabulary to so many ids; None: as it is.
        tell: called with each of `STEPS` as it begins.

    Returns:
        What was read and written, as plain values; `notes` is for the reader.

    Raises:
        OFAConversionError: the weights do not make up an OFA.
        ValueError: files that are missing, damaged or refused, or `output` is taken.
    """
    tell = tell or (lambda step: None)
    output = Path(output).absolute()
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{output} is there already; give a new folder")
    tell(STEPS[0])
    source = read_source(checkpoint, ema)
    tensors = {names.to_port(name): tensor for name, tensor in source.tensors.items()}
    if len(tensors) != len(source.tensors):
        twice = [
            name for name in source.tensors if names.to_port(name) != name and names.to_port(name) in source.tensors
        ]
        raise OFAConversionError(
            f"{checkpoint}: tensors that are there twice, under these names of the original's and under the port's: "
            f"{named(twice)}; leave one of each pair out"
        )
    config = (
        config_from_port(source.values) if source.form == "port" else config_from_arguments(source.values, tensors)
    )
    tell(STEPS[1])
    state = account(tensors, config, str(checkpoint), source.one_of_tied)
    notes = list(source.notes)
    if source.has_ema and not ema:
        notes.append("the checkpoint also holds averaged weights, which --ema takes instead")
    tokenizer = _tokenizer(source, bpe)
    if tokenizer is None:
        notes.append("no tokenizer: give --bpe with OFA's utils/BPE to have one beside the model")
    wanted = vocab_size or config.vocab_size
    if tokenizer is not None and len(tokenizer) != wanted:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} ids, the model {wanted}; give the tokenizer that belongs to it, or, where "
            "ids were added after the model's, grow it with --vocab-size"
        )
    if wanted != config.vocab_size:
        notes.append(f"vocabulary grown from {config.vocab_size} to {wanted}")
        state[names.SHARED] = grow(state[names.SHARED], wanted)
        config.vocab_size = wanted
    tell(STEPS[2])
    size = image_size or image_size_of(source.values, config)
    processor = None
    if tokenizer is not None:
        pictures = build_image_processor(size, bool(source.values.get("imagenet_default_mean_and_std")))
        reach = source.values.get("max_image_size") or MAX_IMAGE_SIZE
        processor = OFAProcessor(pictures, tokenizer, max_image_size=reach)
    write_folder(output, state, config, processor)
    return {
        "output": str(output),
        "source": str(checkpoint),
        "form": source.form,
        "averaged": ema,
        "tensors": len(source.tensors),
        "parameters": sum(tensor.numel() for name, tensor in state.items() if not name.endswith(names.COUNTER)),
        "dtypes": sorted({str(t.dtype).removeprefix("torch.") for t in state.values() if t.is_floating_point()}),
        "vocab_size": config.vocab_size,
        "encoder_layers": config.encoder_layers,
        "decoder_layers": config.decoder_layers,
        "d_model": config.d_model,
        "image_size": size,
        "tokenizer": tokenizer is not None,
        "notes": notes,
    }


def account(
    tensors: Mapping[str, torch.Tensor], config: OFAConfig, where: str, one_of_tied: bool = False
) -> dict[str, torch.Tensor]:
    """The tensors that the model's file has, each once, after every tensor of the checkpoint was found a place.

    Args:
        tensors: by the port's names.
        where: the checkpoint, for errors.
        one_of_tied: whether one of the three tied tensors may stand for all.

    Raises:
        OFAConversionError: tensors missing, extra, of another shape, not numbers, not tied, or index tables that are not
            those this model computes; names them.
    """
    with torch.device("meta"):
        model = OFAForConditionalGeneration(config)
    places = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    state = dict(tensors)
    tables = {name: state.pop(name) for name in names.BUFFERS if name in state}
    counters = {name for name in places if name.endswith(names.COUNTER)}
    if not any(name.endswith(names.COUNTER) for name in state):
        # Frozen batch norms count nothing, and what is counted is used nowhere.
        state |= {name: torch.tensor(0) for name in counters}
    elif not counters:
        state = {name: tensor for name, tensor in state.items() if not name.endswith(names.COUNTER)}
    tied = (names.SHARED, *names.TIED)
    there = [name for name in tied if name in state]
    if one_of_tied and there:
        state |= {name: state[there[0]] for name in tied if name not in state}

    missing, extra = places.keys() - state.keys(), state.keys() - places.keys()
    shared = sorted(places.keys() & state.keys())
    wrong = [
        f"{name} is {_shape(state[name].shape)}, not {_shape(places[name])}"
        for name in shared
        if tuple(state[name].shape) != places[name]
    ]
    kinds = [name for name in shared if not _is_plain(state[name], name in counters)]
    faults = [
        *([f"missing: {named(missing)}"] if missing else []),
        *([f"not of this model: {named(extra)}"] if extra else []),
        *([f"of another shape: {named(wrong)}"] if wrong else []),
        *([f"no plain floating-point numbers: {named(kinds)}"] if kinds else []),
    ]
    if not faults:
        loose = [name for name in names.TIED if not torch.equal(state[name], state[names.SHARED])]
        faults += [f"different from {names.SHARED}, with which they are one here: {named(loose)}"] if loose else []
        other = [name for name, table in tables.items() if not same_table(name, table, config)]
        faults += [f"index tables that this model computes otherwise: {named(other)}"] if other else []
    if faults:
        raise OFAConversionError(f"{where}: {'; '.join(faults)}")
    return {name: tensor for name, tensor in state.items() if name not in names.TIED}


def same_table(name: str, table: torch.Tensor, config: OFAConfig) -> bool:
    """Whether an index table of a checkpoint is the one that this model computes. Of the code positions only those of the
    grid count (the rest, which the original and the port pad differently, stands for no code); a version says nothing.

    Args:
        name: of the table, as the port has it.
        table: as the checkpoint has it.
        config: of the model.
    """
    if name.endswith(".version"):
        return True
    own = names.index_buffer(name, config)
    if name.endswith("image_position_idx"):
        grid = 1 + (config.code_image_size // 8) ** 2
        return table.ndim == 1 and len(table) >= grid and torch.equal(table[:grid].long(), own[:grid])
    return table.shape == own.shape and torch.equal(table.long(), own)


def grow(embedding: torch.Tensor, rows: int, seed: int = 0) -> torch.Tensor:
    """More rows after those of `[rows, width]`, drawn as the original's loader draws them: normal, deviation width^-0.5.
    In the model one tensor is both embeddings and the head.

    Args:
        embedding: `[rows, width]`, of any floating-point dtype, which the result keeps.
        rows: how many there are to be.
        seed: of what is drawn.

    Raises:
        ValueError: fewer rows than there are.
    """
    have, width = embedding.shape
    if rows < have:
        raise ValueError(f"the vocabulary has {have} ids and can only grow, got {rows}")
    new = torch.randn(rows - have, width, generator=torch.Generator().manual_seed(seed)) * width**-0.5
    return torch.cat([embedding, new.to(embedding.dtype)])


def write_folder(output: Path, state: Mapping[str, torch.Tensor], config: OFAConfig, processor: Any = None) -> None:
    """Configuration, weights, generation settings and the processor, under a temporary name first.

    Args:
        output: a folder that is not there, or is empty.
        state: the weights, by this model's names.
        config: of the model.
        processor: saved beside it where there is one.
    """
    from safetensors.torch import save_file
    from transformers import GenerationConfig

    with swapped_folder(output) as temporary:
        # Weights of a checkpoint may be views of one another's memory, which a file cannot have.
        save_file(
            {k: v.detach().clone().contiguous() for k, v in state.items()},
            temporary / "model.safetensors",
            {"format": "pt"},
        )
        config.save_pretrained(temporary)
        ids = ("bos_token_id", "pad_token_id", "eos_token_id", "decoder_start_token_id")
        GenerationConfig(**{name: getattr(config, name) for name in ids}).save_pretrained(temporary)
        if processor is not None:
            processor.save_pretrained(temporary)


def _tokenizer(source: Source, bpe: str | Path | None) -> Any:
    folder = source.folder if bpe is None else Path(bpe)
    if bpe is None and (source.form != "port" or not has_tokenizer(folder)):
        return None
    counts = [source.values.get(name, known) for name, known in (("code_dict_size", N_CODES), ("num_bins", N_BINS))]
    return read_tokenizer(folder, *(int(count) for count in counts))


def _is_plain(tensor: torch.Tensor, counts: bool) -> bool:
    """Whether a tensor holds its numbers one after another, in memory: whole ones where it counts, else floating-point."""
    plain = tensor.layout is torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    return plain and (counts or tensor.is_floating_point())


def _shape(shape: Any) -> str:
    return " x ".join(map(str, shape)) or "a number"


__all__ = ["OFAConversionError", "account", "convert", "grow", "write_folder"]
