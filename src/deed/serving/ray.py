"""`deed serve --ray`: the same server on a Ray cluster, with replicas that come and go with the load.

    deed serve documents texts=my-t5 --ray --replicas 1:8 --num-cpus 4
    serve run deed.serving.ray:app models=texts=my-t5,documents=my-latr max_replicas=8

Ray Serve's proxy receives, an ingress finds the model and passes the request on (`ray_ingress.py`), replicas answer with the
scheduler and the HTTP application of a single machine (`ray_replica.py`). `serve.multiplexed` loads models where they are
asked for, and sends requests to replicas that hold theirs.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from deed.utils.optional import need

from .ray_cluster import INSTALL, connect

NAME = "deed"  # of Serve's application


@dataclass(frozen=True)
class RayOptions:
    """How a server is spread.

    Attributes:
        min_replicas, max_replicas: how many replicas there are at least and at most.
        num_cpus, num_gpus: that each of them takes, also shares.
        models_each: models that a replica holds at once.
        target: requests, running and waiting, that a replica is meant to have; where there are more, replicas are added.
        most: requests that a replica has at most; others wait for one.
        ingresses: processes that receive requests.
    """

    min_replicas: int = 1
    max_replicas: int = 4
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    models_each: int = 1
    target: float = 8.0
    most: int = 64
    ingresses: int = 1

    def __post_init__(self) -> None:
        for name in ("min_replicas", "max_replicas", "models_each", "most", "ingresses"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas ({self.max_replicas}) is less than min_replicas ({self.min_replicas})")
        for name in ("num_cpus", "num_gpus", "target"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or value < 0 or (name == "target" and not value):
                raise ValueError(f"{name} must be a number of at least 0, got {value!r}")


def run(settings: Any, options: RayOptions | None = None, *, wait: bool = True) -> None:
    """Serve on the cluster that this process belongs to, or that `RAY_ADDRESS` names, else on one that it starts here.

    Args:
        settings: `ServeSettings`: models, address, keys and limits.
        options: how it is spread.
        wait: until SIGTERM or SIGINT, and then end: requests that run are answered, others refused. False: return at once,
            and leave it to `ray.serve.shutdown()`.

    Raises:
        DataError: Ray is not installed.
        DeedLoadError: a folder without a model.
    """
    application = build(settings, options or RayOptions())
    connect()
    serve = need("ray.serve", INSTALL)
    serve.start(http_options={"host": settings.host, "port": settings.port})
    serve.run(application, name=NAME, route_prefix="/")
    if wait:
        over = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: over.set())
        over.wait()
        serve.shutdown()


def build(settings: Any, options: RayOptions, make: Any = None) -> Any:
    """The application as `serve.run` takes it.

    Args:
        settings: `ServeSettings`.
        options: how it is spread.
        make: `make(name)` gives a model's ASGI application and a function that ends it; None: deed's own.

    Raises:
        DataError: Ray is not installed.
        DeedLoadError: a folder without a model.
    """
    serve = need("ray.serve", INSTALL)
    from .folders import served_folder
    from .ray_ingress import Ingress
    from .ray_replica import replica_class

    folders = [served_folder(name, folder) for name, folder in settings.models]
    if settings.threads is None:
        settings = replace(settings, threads=max(1, int(options.num_cpus)))
    replicas = serve.deployment(
        replica_class(options.models_each),
        name="Replica",
        max_ongoing_requests=options.most,
        max_queued_requests=settings.limits.queue,  # of each ingress; more get status 429
        autoscaling_config={
            "min_replicas": options.min_replicas,
            "max_replicas": options.max_replicas,
            "target_ongoing_requests": options.target,
        },
        ray_actor_options={"num_cpus": options.num_cpus, "num_gpus": options.num_gpus},
        graceful_shutdown_timeout_s=settings.drain_s,
    ).bind(make or partial(make_app, settings.to_dict()), [folder.name for folder in folders[: options.models_each]])
    ingress = serve.deployment(
        Ingress,
        name="Ingress",
        num_replicas=options.ingresses,
        max_ongoing_requests=options.most * options.max_replicas * 2,
        ray_actor_options={"num_cpus": 0},
        graceful_shutdown_timeout_s=settings.drain_s,
    )
    return ingress.bind(replicas, folders, settings.to_dict())


def make_app(settings: Mapping[str, Any], name: str) -> tuple[Any, Any]:
    """A model's HTTP application, in a replica's process; and what ends it.

    Args:
        settings: `ServeSettings.to_dict()`.
        name: of the model.
    """
    from .app import create_app
    from .models import Models
    from .settings import ServeSettings, choose_kernels_alike

    whole = ServeSettings.from_dict(dict(settings))
    one = replace(whole, models=tuple(pair for pair in whole.models if pair[0] == name))
    choose_kernels_alike()
    models = Models(one)
    models.load()
    return create_app(one, models), models.close


def app(arguments: dict[str, str]) -> Any:
    """What `serve run deed.serving.ray:app models=NAME=FOLDER,… key=value …` builds.

    Args:
        arguments: `models`, fields of `RayOptions`, and `api_key_file`.

    Raises:
        ValueError: an unknown argument, or no models.
    """
    from .security import read_keys
    from .settings import ServeSettings

    given = dict(arguments)
    pairs = [text.partition("=")[::2] for text in given.pop("models", "").split(",") if text]
    if not pairs or not all(folder for _, folder in pairs):
        raise ValueError("models=NAME=FOLDER,… says which models are served")
    file = given.pop("api_key_file", None)
    known = {name: type(value) for name, value in vars(RayOptions()).items()}
    if strange := sorted(set(given) - set(known)):
        raise ValueError(f"unknown argument {', '.join(strange)}; known: models, api_key_file, {', '.join(known)}")
    options = RayOptions(**{name: known[name](value) for name, value in given.items()})
    from pathlib import Path

    keys = read_keys(None, Path(file)) if file else ()
    return build(ServeSettings(models=tuple(pairs), keys=keys), options)
