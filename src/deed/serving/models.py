"""Which models are served: loading them, and finding the one that a request is for."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .api_errors import ApiError
from .drift_watch import start_watch
from .served import ServedModel
from .settings import ServeSettings
from .wire import ModelInfo


class Models:
    """The models of one server, the first of each kind being the usual one.

    Args:
        settings: which there are, and where they run.
    """

    def __init__(self, settings: ServeSettings) -> None:
        self.settings = settings
        self._served: dict[str, ServedModel] = {}
        self._turns: Any = None
        self.ready = False

    def load(self) -> None:
        """Load all of them and start their schedulers; takes its time.

        Raises:
            DeedLoadError: a folder without a model, or a damaged one.
        """
        import torch
        from transformers.utils import logging

        logging.set_verbosity_error()  # requests say max_new_tokens where a model has a max_length of its own
        logging.disable_progress_bar()
        if self.settings.threads is not None:
            torch.set_num_threads(self.settings.threads)
        for name, folder in self.settings.models:
            self.add(self._load(name, Path(folder)))
        self.ready = True

    def _load(self, name: str, folder: Path) -> ServedModel:
        from deed.models.whisper import is_ctranslate2_whisper
        from deed.tasks.loading import load_saved
        from deed.utils.saved_model import read_saved_model

        from .scheduler import Scheduler
        from .turns import Turns

        self._turns = self._turns or Turns()  # one device, one model at a time
        has_exits = not is_ctranslate2_whisper(folder) and read_saved_model(folder).has_exits
        with warnings.catch_warnings():
            if not has_exits:
                warnings.filterwarnings("ignore", message=".*untrained.*")
            model, processor = load_saved(folder)
        model.eval()
        if self.settings.device is not None:
            model.to(self.settings.device)
        if self.settings.int8:
            from deed.modeling.quantization import quantize

            quantize(model, parts=("encoder", "decoder", "head"))
        limits = self.settings.limits
        scheduler = Scheduler(model, cache_bytes=limits.cache_bytes, queue_limit=limits.queue, turns=self._turns)
        served = ServedModel(name, model, processor, scheduler, limits, has_exits)
        if self.settings.drift:
            served.drift = start_watch(served, self.settings.drift, self.settings.drift_rise)
        return served

    def add(self, served: ServedModel) -> None:
        """Serve one more model."""
        self._served[served.name] = served

    def all(self) -> list[ServedModel]:
        """Those that are loaded."""
        return list(self._served.values())

    def find(self, name: str | None, tasks: Sequence[str]) -> ServedModel:
        """The model of a name, or the first that can do one of the tasks.

        Args:
            name: as clients say it; None: any.
            tasks: names of pipelines; none: any.

        Raises:
            ApiError: there is none.
        """
        able = [served for served in self.all() if not tasks or set(tasks) & set(served.tasks)]
        if name is not None:
            served = self._served.get(name)
            if served is None:
                raise ApiError(404, f"there is no model {name!r:.80}; GET /models lists those there are", "model")
            if served not in able:
                raise ApiError(400, f"model {name} does not do this; it is for {', '.join(served.tasks)}", "model")
            return served
        if not able:
            raise ApiError(
                404, f"no model here is for {' or '.join(tasks)}; GET /models lists those there are", "model"
            )
        return able[0]

    def infos(self) -> list[ModelInfo]:
        """What clients are told of the models."""
        found = []
        for served in self.all():
            config: Any = served.model.deed_config
            found.append(
                ModelInfo(
                    id=served.name,
                    type=served.model.config.model_type,
                    tasks=list(served.tasks),
                    layers=served.layers,
                    threshold=config.threshold,
                    calibrated=config.answer_calibration is not None,
                )
            )
        return found

    @property
    def busy(self) -> bool:
        """Whether any request is unanswered."""
        return any(served.scheduler.busy for served in self.all())

    def close(self) -> None:
        """End all schedulers."""
        self.ready = False
        for served in self.all():
            if served.drift is not None:
                served.drift.close()
            served.scheduler.close()
