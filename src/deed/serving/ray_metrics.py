"""`GET /metrics` of `deed serve --ray`: what all replicas count, on one page, each number with the replica that it is of.

Replicas report every few seconds to one small process, which the ingress asks; one that has not done so for a while is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families

MISSED = 4  # reports after which a replica is taken to be gone


class Collector:
    """Keeps the last report of every replica. Deployed by `deed.serving.ray`.

    Args:
        every_s: seconds between two reports of a replica.
    """

    def __init__(self, every_s: float) -> None:
        self.every_s = every_s
        self._reports: dict[str, tuple[float, dict[str, str]]] = {}

    async def report(self, replica: str, texts: dict[str, str]) -> None:
        """Take a replica's report.

        Args:
            replica: its name.
            texts: of its models, what their own `/metrics` says.
        """
        self._reports[replica] = (time.monotonic(), texts)

    async def text(self) -> str:
        """The page."""
        oldest = time.monotonic() - MISSED * self.every_s
        self._reports = {name: report for name, report in self._reports.items() if report[0] >= oldest}
        return merged({name: texts for name, (_, texts) in self._reports.items()})


class Reporter:
    """Reports what the applications of a replica's models say.

    Args:
        collector: handle of the deployed `Collector`.
        replica: name of the replica.
        every_s: seconds between two reports.
    """

    def __init__(self, collector: Any, replica: str, every_s: float) -> None:
        self.collector, self.replica, self.every_s = collector, replica, every_s
        self._apps: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
        self._task = asyncio.get_running_loop().create_task(self._run())

    def add(self, name: str, app: Any) -> None:
        """Report of one more model, as long as its application lives.

        Args:
            name: of the model.
            app: `create_app`'s; another tells nothing.
        """
        if hasattr(app, "state"):
            self._apps[name] = app

    async def _run(self) -> None:
        while True:
            texts = {name: app.state.server.metrics.text().decode() for name, app in list(self._apps.items())}
            with contextlib.suppress(Exception):  # the collector may be about to be replaced
                await self.collector.report.remote(self.replica, texts)
            await asyncio.sleep(self.every_s)


def merged(reports: Mapping[str, Mapping[str, str]]) -> str:
    """Several pages as one, samples with a label `replica`, and a label `model` where they have none.

    Args:
        reports: by replica and model, what `/metrics` says there.
    """
    families: dict[str, Any] = {}
    for replica, texts in reports.items():
        for model, text in texts.items():
            for family in text_string_to_metric_families(text):
                samples, family.samples = family.samples, []
                kept = families.setdefault(family.name, family)
                for sample in samples:
                    kept.samples.append(sample._replace(labels={"model": model, **sample.labels, "replica": replica}))

    class Pages:
        def collect(self) -> Iterator[Any]:
            yield GaugeMetricFamily("deed_replicas", "Replicas that report.", value=len(reports))
            yield from families.values()

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Pages())  # type: ignore[arg-type]
    return generate_latest(registry).decode()
