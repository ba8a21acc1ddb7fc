"""Which of several models a request is for, told from folders and fields alone: no model is loaded for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from deed.errors import DataError
from deed.utils.files import read_json
from deed.utils.saved_model import read_saved_model

from .kinds import SPEECH, TEXT_TASKS, tasks_of_kind

Kind = Literal["text", "seen", "speech"]


@dataclass(frozen=True)
class ServedFolder:
    """A model that can be loaded.

    Attributes:
        name: for clients.
        folder: where it lies, on every machine.
        kind: what it reads.
        model_type, config: as its `config.json` has them; of the latter, what early exit keeps there.
    """

    name: str
    folder: str
    kind: Kind
    model_type: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Pipelines that it can be asked through, the usual one first."""
        return tasks_of_kind(self.model_type, self.kind == "speech")

    def told(self) -> dict[str, Any]:
        """What `GET /models` says of it."""
        return {
            "id": self.name,
            "object": "model",
            "created": 0,
            "owned_by": "deed",
            "type": self.model_type,
            "tasks": list(self.tasks),
            "layers": max(self.config.get("exit_layers") or [0]) or None,
            "threshold": self.config.get("threshold"),
            "calibrated": self.config.get("answer_calibration") is not None,
        }


def served_folder(name: str, folder: str) -> ServedFolder:
    """Look at a model's folder.

    Args:
        name: for clients.
        folder: of a saved model.

    Raises:
        DeedLoadError: there is no model.
    """
    model_type = read_saved_model(Path(folder)).model_type
    tasks = tasks_of_kind(model_type, hears(Path(folder)))
    kind: Kind = "speech" if tasks == (SPEECH,) else "text" if tasks == TEXT_TASKS else "seen"
    config = read_json(Path(folder) / "config.json").get("deed_config") or {}
    kept = {name: config.get(name) for name in ("exit_layers", "threshold")}
    calibrated = config.get("answer_calibration") and {}
    return ServedFolder(name, folder, kind, model_type, {**kept, "answer_calibration": calibrated})


def hears(folder: Path) -> bool:
    """Whether the folder's feature extractor takes sound."""
    try:
        return "sampling_rate" in read_json(folder / "preprocessor_config.json")
    except DataError:
        return False


def choose(models: Sequence[ServedFolder], path: str, fields: Mapping[str, Any]) -> str | None:
    """The name of the model that a request is for: the one it names, else the first that can read what it brings.

    Args:
        models: that there are.
        path: of the request.
        fields: of its body.

    Returns:
        None where a model is named that there is not, or none reads such input.
    """
    named = fields.get("model")
    if isinstance(named, str) and named and not _is_openais(named, models):
        return next((model.name for model in models if model.name == named), None)
    wanted: Kind | None = None
    if "/audio/" in path or "audio" in fields:
        wanted = "speech"
    elif path == "/ask" or "image" in fields or "document" in fields:
        wanted = "seen"
    elif path in ("/translate", "/detect", "/languages") or "text" in fields:
        wanted = "text"
    return next((model.name for model in models if wanted in (None, model.kind)), None)


def _is_openais(name: str, models: Sequence[ServedFolder]) -> bool:
    """Whether it is the name that OpenAI's clients send by themselves, and no model here has it."""
    return name.startswith(("whisper-", "gpt-4o")) and all(model.name != name for model in models)
