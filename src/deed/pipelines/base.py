"""What every pipeline does: inputs to pieces, pieces to batches of like length, tokens to results; and streaming."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from deed.modeling.answer_confidence import confidence_problem
from deed.modeling.answering import batches, check_batch_size
from deed.utils.progress import Progress, shown

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Generated:
    """What one piece of an input became.

    Attributes:
        tokens: new ones, up to and with the end token.
        depths: the exit depth of each; empty where the model's own `generate()` does not tell (Whisper).
        more: what a task keeps beside them.
        confidence: that it is right; None where that was not asked for.
    """

    tokens: list[int]
    depths: list[int]
    more: Any = None
    confidence: float | None = None


@dataclass(frozen=True)
class Answered:
    """What an input became, or why it did not.

    Attributes:
        text: the answer; empty where there is an error.
        depths: the exit depth of each token, of all pieces; empty where they are not known.
        confidence: that the answer is right; None where answers are not calibrated for these options, or of several pieces.
        error: why there is no answer; empty where there is one.
    """

    text: str = ""
    depths: list[int] = field(default_factory=list)
    confidence: float | None = None
    error: str = ""


class Pipeline:
    """A model at work on one task; called with one input or a list of them.

    Args:
        model: with early exit.
        processor: its processor or tokenizer.
        threshold: exit threshold of every call; None: the model's own.
        exact: full-depth tokens by verified drafts, see `generate(exact=True)`.
        batch_size: pieces generated at once.
        options: of `generate()`, for every call.

    Attributes:
        call_options: names of options of a call that are the task's own; all others go to `generate()`.
    """

    call_options: tuple[str, ...] = ()
    key = "generated_text"  # of the text in a result
    what = "answering"  # said by the progress bar

    def __init__(
        self,
        model: Any,
        processor: Any,
        threshold: Any = None,
        exact: bool = False,
        batch_size: int = 8,
        **options: Any,
    ) -> None:
        self.model, self.processor = model, processor
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.batch_size = check_batch_size(batch_size)
        self.options = dict(options)
        if threshold is not None:
            self.options["exit_threshold"] = threshold
        if exact:
            self.options["exact"] = True

    # -- what a task fills in -------------------------------------------------------------------------------------

    def task_options(self, call: Mapping[str, Any]) -> dict[str, Any]:
        """Options of `generate()` that the task sets where the caller says nothing else."""
        return {}

    def pieces(self, item: Any, call: Mapping[str, Any]) -> list[Row]:
        """An input as one or more rows of model inputs, tensors without batch axis.

        Raises:
            TypeError: an input of another kind.
            ValueError: one that cannot be answered.
        """
        raise NotImplementedError

    def collate(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        """Rows to a padded batch; by default whatever a tokenizer made."""
        names = [name for name in ("input_ids", "attention_mask") if name in rows[0]]
        padded = self.tokenizer.pad([{name: row[name] for name in names} for row in rows], return_tensors="pt")
        others = {name: torch.stack([row[name] for row in rows]) for name in rows[0] if name not in names}
        return {**padded, **others}

    def result(self, item: Any, found: Sequence[Generated], call: Mapping[str, Any]) -> dict[str, Any]:
        """What the caller gets for an input.

        Args:
            item: the input.
            found: what its pieces became, in order.
            call: options of the task's own.
        """
        raise NotImplementedError

    # -- calling ----------------------------------------------------------------------------------------------------

    def __call__(self, inputs: Any, *, progress: Progress | None = None, **call: Any) -> Any:
        """Results for one input or for a list of them.

        Args:
            inputs: of the task's kind; a list gives a list.
            progress: shows how far it is; None: bars on a terminal, where there is more than one batch.
            call: the task's own options (`call_options`) and those of `generate()`.

        Returns:
            A dictionary per input, `"depth"` the mean exit depth of its tokens in it where it is known.
        """
        many = isinstance(inputs, list | tuple)
        items = list(inputs) if many else [inputs]
        mine, options = self._split(call)
        cut = [self.pieces(item, mine) for item in items]
        rows = [row for pieces in cut for row in pieces]
        if len(rows) > self.batch_size:
            with shown(progress) as bars, bars.bar(self.what, total=len(rows)) as bar:
                found = self.generate(rows, options, bar.advance)
        else:
            found = self.generate(rows, options)
        results, at = [], 0
        for item, pieces in zip(items, cut, strict=True):
            part = found[at : at + len(pieces)]
            at += len(pieces)
            results.append(with_depth(self.result(item, part, mine), part))
        return results if many else results[0]

    def answer_each(self, items: Sequence[Any], **call: Any) -> list[Answered]:
        """The inputs one by one: one that cannot be read or answered gets an error, and the others their answers.

        Args:
            items: inputs of the task's kind.
            call: as for a call.

        Raises:
            Exception: of the first input, where there are several and none of those that can be read can be answered: then it
                is the options or the model, not the inputs.
        """
        mine, options = self._split(call)
        if not confidence_problem(self.model, options):
            options["answer_confidence"] = True
        results = [Answered() for _ in items]
        rows, owners = [], []
        for i, item in enumerate(items):
            try:
                cut = self.pieces(item, mine)
            except Exception as error:  # damaged files make libraries raise all sorts
                results[i] = Answered(error=_told(error))
                continue
            rows += cut
            owners += [i] * len(cut)
        found: list[Any] = [None] * len(rows)
        failed: dict[int, Exception] = {}
        for part in batches(rows, self.batch_size):
            self._generate_or_halve(rows, part, options, found, failed)
        if failed and len(rows) > 1 and len(failed) == len(rows):
            raise failed[min(failed)]
        for row in failed:
            results[owners[row]] = Answered(error=_told(failed[row]))
        for i, item in enumerate(items):
            if results[i].error:
                continue
            mine_found = [one for one, owner in zip(found, owners, strict=True) if owner == i]
            text = str(self.result(item, mine_found, mine)[self.key])
            depths = [depth for one in mine_found for depth in one.depths]
            sure = mine_found[0].confidence if len(mine_found) == 1 else None
            results[i] = replace(results[i], text=text, depths=depths, confidence=sure)
        return results

    def _generate_or_halve(
        self,
        rows: Sequence[Row],
        part: list[int],
        options: Mapping[str, Any],
        found: list[Any],
        failed: dict[int, Any],
    ) -> None:
        """Rows of a batch; where it fails, those of its halves, until the rows that fail are alone."""
        try:
            done = self.generate([rows[i] for i in part], options)
        except Exception as error:
            if len(part) == 1:
                failed[part[0]] = error
                return
            half = len(part) // 2
            for piece in (part[:half], part[half:]):
                self._generate_or_halve(rows, piece, options, found, failed)
            return
        for i, one in zip(part, done, strict=True):
            found[i] = one

    def _split(self, call: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """A call's options: the task's own, and those of `generate()`."""
        mine = {name: value for name, value in call.items() if name in self.call_options}
        given = {**self.options, **{name: value for name, value in call.items() if name not in mine}}
        if "threshold" in given:
            given["exit_threshold"] = given.pop("threshold")
        if not given.get("exact"):
            given.pop("exact", None)
        if given.get("num_return_sequences", 1) != 1:
            raise ValueError("a pipeline gives one result per input; leave num_return_sequences out")
        options = {**self.task_options(mine), **given}
        if options.get("exact") and "num_beams" not in given:
            options["num_beams"] = 1  # whatever the model's own setting is: exact decoding is greedy or sampled
        return mine, options

    @torch.no_grad()
    def generate(self, rows: Sequence[Row], options: Mapping[str, Any], tick: Any = None) -> list[Generated]:
        """What the rows become, in their order.

        Args:
            rows: of `pieces`; those of like length are generated together.
            options: of `generate()`.
            tick: called with the number of rows after each batch.
        """
        found: list[Any] = [None] * len(rows)
        for part in batches(rows, self.batch_size):
            inputs = self.collate([rows[i] for i in part])
            for i, one in zip(part, self.generate_batch(inputs, options), strict=True):
                found[i] = one
            if tick is not None:
                tick(len(part))
        return found

    def generate_batch(self, inputs: Mapping[str, torch.Tensor], options: Mapping[str, Any]) -> list[Generated]:
        """A batch of rows to what they become."""
        inputs = self._on_device(inputs)
        out = self.model.generate(**inputs, **{**options, "return_dict_in_generate": True})
        depths = out.exit_layers
        prompt = out.sequences.shape[1] - depths.shape[1]
        counts = (depths > 0).sum(1).tolist()
        sure = [None] * len(counts) if out.get("confidence") is None else out.confidence.tolist()
        return [
            Generated(tokens[prompt : prompt + count], row[:count], confidence=one)
            for tokens, row, count, one in zip(out.sequences.tolist(), depths.tolist(), counts, sure, strict=True)
        ]

    def _on_device(self, inputs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        device, dtype = self.model.device, self.model.dtype
        return {k: v.to(device, dtype) if v.is_floating_point() else v.to(device) for k, v in inputs.items()}

    def text(self, tokens: Sequence[int]) -> str:
        """Tokens as text, without special ones."""
        return self.tokenizer.decode(list(tokens), skip_special_tokens=True).strip()

    # -- streaming --------------------------------------------------------------------------------------------------

    def stream(self, item: Any, **call: Any) -> Iterator[str]:
        """The answer to one input as it is generated, in pieces of text; joined they are the whole.

        Without beams, which are known at their end only. With `exact=True` only verified tokens are given out. Leaving the
        loop early stops generation.

        Args:
            item: one input.
            call: as for a call.

        Raises:
            ValueError: beams, or an option that needs the whole answer.
        """
        mine, options = self._split(call)
        if {**self.options, **call}.get("num_beams", 1) > 1:
            raise ValueError("beams are known at their end only; leave num_beams out, or call the pipeline")
        options["num_beams"] = 1
        for i, row in enumerate(self.pieces(item, mine)):
            if i:
                yield self.between
            yield from self._stream_row(row, options)

    between = " "  # what stands between the texts of two pieces

    def _stream_row(self, row: Row, options: Mapping[str, Any]) -> Iterator[str]:
        from transformers import TextIteratorStreamer

        streamer = TextIteratorStreamer(self.tokenizer, skip_prompt=True, skip_special_tokens=True)
        stop, failure = threading.Event(), []

        def stopping(input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
            return input_ids.new_full((input_ids.shape[0],), stop.is_set(), dtype=torch.bool)

        def work() -> None:
            try:
                inputs = self._on_device(self.collate([row]))
                criteria = [*options.get("stopping_criteria", ()), stopping]
                self.model.generate(**inputs, **{**options, "streamer": streamer, "stopping_criteria": criteria})
            except BaseException as error:
                failure.append(error)
                streamer.end()

        worker = threading.Thread(target=work, daemon=True)
        worker.start()
        try:
            yield from (text for text in streamer if text)
        finally:
            stop.set()
            worker.join()
        if failure:
            raise failure[0]


def _told(error: Exception) -> str:
    """An error in a line."""
    said = " ".join(str(error).split())
    return said if isinstance(error, ValueError) and said else f"{type(error).__name__}: {said}".rstrip(": ")


def with_depth(result: dict[str, Any], found: Sequence[Generated]) -> dict[str, Any]:
    """A result with the mean exit depth of its tokens, where they are known."""
    depths = [depth for one in found for depth in one.depths]
    return {**result, "depth": sum(depths) / len(depths)} if depths else result
