"""Which models are served: finding the one that a request is for, and holding it while it is answered.

They lie in folders, and a `ModelPool` loads them: all at the start, or under a budget of bytes those that fit, and the others
when they are asked for.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from deed.errors import QueueFull, RequestTooLarge
from deed.utils.shipped import DOCUMENTS, PAPERWORK, shipped

from .api_errors import ApiError
from .drift_watch import start_watch
from .folders import ServedFolder, served_folder
from .pool import ModelPool, Served
from .served import ServedModel
from .settings import ServeSettings
from .wire import ModelInfo

log = logging.getLogger(__name__)
INT8_SHARE = 3  # a model in int8 takes about so much less than its file, which is in float32
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")


class Models:
    """The models of one server, the first of each kind being the usual one.

    Args:
        settings: which there are, and where they run.

    Attributes:
        pool: loads and drops them; None before `load()`.
        ready: they may be asked for.
    """

    def __init__(self, settings: ServeSettings) -> None:
        self.settings = settings
        self.pool: ModelPool | None = None
        self.ready = False
        self._folders: dict[str, ServedFolder] = {}
        self._added: dict[str, ServedModel] = {}
        self._raised: dict[str, Any] = {}  # thresholds that drift has raised, of models that were dropped

    def load(self) -> None:
        """Look at all of them, and load those that fit; takes its time.

        Raises:
            DeedLoadError: a folder without a model, or a damaged one.
            RequestTooLarge: a model that is larger than the budget.
        """
        import torch
        from transformers.utils import logging as transformers_logging

        transformers_logging.set_verbosity_error()  # requests say max_new_tokens where a model has a max_length of its own
        transformers_logging.disable_progress_bar()
        if self.settings.threads is not None:
            torch.set_num_threads(self.settings.threads)
        limits = self.settings.limits
        self._folders = {name: served_folder(name, folder) for name, folder in self.settings.models}
        self.pool = pool = ModelPool(
            {name: partial(self._load, name, Path(folder)) for name, folder in self.settings.models},
            bytes_budget=self.settings.memory,
            cache_bytes=limits.cache_bytes,
            sizes={name: expected_bytes(Path(folder), self.settings.int8) for name, folder in self.settings.models},
            opened=self._opened,
            dropping=self._dropping,
            queue_limit=limits.queue,
        )
        try:
            for name in self._folders:
                pool.check_size(name)
            for name in self._folders:
                if pool.fits(name):
                    pool.release(pool.hold(name))
        except RequestTooLarge as error:
            raise self._too_large(error) from None
        self.ready = True

    def _load(self, name: str, folder: Path) -> ServedModel:
        from deed.modeling.exits_folder import SHIPPED
        from deed.tasks.loading import load_saved

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*untrained.*")  # then answers are exact
            model, processor = load_saved(folder, exits=dict(self.settings.exits).get(name, SHIPPED))
        model.eval()
        if self.settings.device is not None:
            model.to(self.settings.device)
        if self.settings.int8:
            from deed.modeling.quantization import quantize

            quantize(model, parts=("encoder", "decoder", "head"))
        return ServedModel(name, model, processor, None, self.settings.limits, model.deed_exits_from is not None)

    def _opened(self, held: Served) -> None:
        served: ServedModel = held.loaded
        served.scheduler = held.scheduler
        if held.name in self._raised:
            served.model.deed_config.threshold = self._raised[held.name]
        if self.settings.drift:
            served.drift = start_watch(served, self.settings.drift, self.settings.drift_rise)

    def _dropping(self, held: Served) -> None:
        served: ServedModel = held.loaded
        if served.drift is not None:
            served.drift.close()
            self._raised[held.name] = served.model.deed_config.threshold

    def _too_large(self, error: RequestTooLarge) -> RequestTooLarge:
        told = str(error).replace("(bytes_budget)", "(--memory)").replace("cache_bytes", "--limit cache_bytes")
        return RequestTooLarge(told)

    def add(self, served: ServedModel) -> None:
        """Serve one more model, which is loaded already and stays."""
        self._added[served.name] = served

    def all(self) -> list[ServedModel]:
        """Those that are loaded, in the order in which they were named."""
        loaded = self.pool.loaded if self.pool is not None else {}
        return [*(loaded[name].loaded for name in self._folders if name in loaded), *self._added.values()]

    @property
    def suits_pages(self) -> bool:
        """Whether both shipped models for documents are served, so that a page may choose its own."""
        given = dict(self.settings.models)
        return all(given.get(name) == str(shipped(name)) for name in (DOCUMENTS, PAPERWORK))

    @property
    def names(self) -> list[str]:
        """Of all models, loaded or not."""
        return [*self._folders, *self._added]

    def choose(self, name: str | None, tasks: Sequence[str]) -> str:
        """The name of the model that is asked for, or of the first that can do one of the tasks; loaded or not.

        Args:
            name: as clients say it; None: any.
            tasks: names of pipelines; none: any.

        Raises:
            ApiError: there is none.
        """
        can = {known: folder.tasks for known, folder in self._folders.items()}
        can |= {known: served.tasks for known, served in self._added.items()}
        able = [known for known in can if not tasks or set(tasks) & set(can[known])]
        if name is not None:
            if name not in can:
                raise ApiError(404, f"there is no model {name!r:.80}; GET /models lists those there are", "model")
            if name not in able:
                raise ApiError(400, f"model {name} does not do this; it is for {', '.join(can[name])}", "model")
            return name
        if not able:
            raise ApiError(
                404, f"no model here is for {' or '.join(tasks)}; GET /models lists those there are", "model"
            )
        return able[0]

    def find(self, name: str | None, tasks: Sequence[str]) -> ServedModel:
        """As `choose`, the model itself, loaded where it was not; not held.

        Args:
            name, tasks: as of `choose`.

        Raises:
            ApiError: as `choose` and `hold`.
        """
        hold = self.hold(self.choose(name, tasks))
        hold.release()
        return hold.served

    def hold_loaded(self, name: str) -> Hold | None:
        """As `hold`, at once; None of a model that is not loaded.

        Raises:
            SchedulerClosed: the server is about to end.
        """
        if name in self._added:
            return Hold(self._added[name])
        assert self.pool is not None
        held = self.pool.hold_loaded(name)
        return None if held is None else Hold(held.loaded, partial(self.pool.release, held))

    def hold(self, name: str) -> Hold:
        """Keep a model from being dropped, loading it first where it is not there, which takes its time.

        Raises:
            ApiError: there is no room for it now, or ever, or it cannot be loaded.
            SchedulerClosed: the server is about to end.
        """
        if (found := self.hold_loaded(name)) is not None:
            return found
        assert self.pool is not None
        try:
            held = self.pool.hold(name)
        except QueueFull as error:
            told = f"model {name} has no room in memory beside those that are answering now; try again"
            raise ApiError(503, told, "model", error.retry_after_s) from None
        except RequestTooLarge as error:
            raise ApiError(503, str(self._too_large(error)), "model") from None
        except (ValueError, OSError) as error:
            log.error("model %r cannot be loaded: %s", name, error)
            raise ApiError(503, f"model {name} cannot be loaded; the server's log says why", "model") from None
        return Hold(held.loaded, partial(self.pool.release, held))

    def infos(self) -> list[ModelInfo]:
        """What clients are told of the models."""
        loaded = {served.name: served for served in self.all()}
        return [
            info_of(loaded[name])
            if name in loaded
            else ModelInfo.model_validate({**self._folders[name].told(), "loaded": False})
            for name in self.names
        ]

    @property
    def busy(self) -> bool:
        """Whether any request is unanswered."""
        return any(served.scheduler.busy for served in self.all())

    def close(self) -> None:
        """End all schedulers."""
        self.ready = False
        if self.pool is not None:
            self.pool.close()
        for served in self._added.values():
            served.scheduler.close()


class Hold:
    """A model that somebody uses.

    Args:
        served: the model.
        release: what is called, once, when they do no longer; None: nothing.
    """

    def __init__(self, served: ServedModel, release: Any = None) -> None:
        self.served, self._release = served, release

    def release(self) -> None:
        """Use it no longer."""
        release, self._release = self._release, None
        if release is not None:
            release()


def info_of(served: ServedModel) -> ModelInfo:
    """What clients are told of a model that is loaded."""
    config: Any = served.model.deed_config
    return ModelInfo(
        id=served.name,
        type=served.model.config.model_type,
        tasks=list(served.tasks),
        layers=served.layers,
        threshold=config.threshold,
        calibrated=config.answer_calibration is not None,
    )


def expected_bytes(folder: Path, int8: bool) -> int:
    """Bytes that a model will take, by the size of its files.

    Args:
        folder: of a saved model.
        int8: it will be quantized.
    """
    kept = sum(path.stat().st_size for path in folder.iterdir() if path.suffix in WEIGHTS)
    return kept // INT8_SHARE if int8 else kept
