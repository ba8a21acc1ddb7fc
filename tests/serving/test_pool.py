"""Models side by side: loaded when named, dropped when idle and in the way, computing in turns."""

import gc
import threading
import weakref

import pytest
from serving_cases import alone, request_of

from conftest import deed_model
from deed.errors import QueueFull, RequestTooLarge, SchedulerClosed
from deed.serving.pool import ModelPool

WAIT = 120
KINDS = {"a": "t5_tied", "b": "bart", "c": "t5_untied_gated"}


def pool_of(times, cache=200_000, **options):
    """A pool of three models with a budget for so many of the largest."""
    made = []

    def load(kind):
        model = deed_model(kind)
        made.append(weakref.ref(model))
        return model

    size = max(sum(x.nbytes for x in [*m.parameters(), *m.buffers()]) for m in map(deed_model, KINDS.values()))
    loaders = {name: lambda kind=kind: load(kind) for name, kind in KINDS.items()}
    budget = None if times is None else times * (size + cache)
    return ModelPool(loaders, bytes_budget=budget, cache_bytes=cache, **options), made


def ask(pool, name, number=1):
    with pool.use(name) as served:
        return served.scheduler.submit(request_of(KINDS[name], number)).result(WAIT), served.model


def test_models_answer_side_by_side():
    pool, _ = pool_of(None)
    found = {}
    with pool:
        threads = [
            threading.Thread(target=lambda n=name, i=i: found.update({(n, i): ask(pool, n, i)}))
            for name in KINDS
            for i in (1, 2, 3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT)
        assert set(pool.loaded) == set(KINDS)
        for (name, number), (end, model) in found.items():
            assert (end.tokens, end.depths) == alone(model, KINDS[name], number)
    assert len(found) == 9


def test_what_was_idle_longest_makes_room():
    pool, made = pool_of(2)
    with pool:
        for name in ("a", "b", "a", "c"):
            ask(pool, name)
        assert list(pool.loaded) == ["a", "c"] and pool.evictions == 1
        assert pool.bytes_in_use <= pool.bytes_budget
        gc.collect()
        assert [ref() is None for ref in made] == [False, True, False], "its memory is given back"
        ask(pool, "b")
        assert list(pool.loaded) == ["c", "b"]


def test_what_is_held_stays():
    pool, _ = pool_of(1)
    with pool:
        with pool.use("a"), pytest.raises(QueueFull), pool.use("b"):
            pass
        with pool.use("b"):
            assert list(pool.loaded) == ["b"]


def test_what_is_told():
    pool, _ = pool_of(1, cache=1000)
    with pytest.raises(KeyError, match="no model 'z'"), pool.use("z"):
        pass
    pool.bytes_budget = 2000
    with pytest.raises(RequestTooLarge, match="bytes_budget"), pool.use("a"):
        pass
    assert pool.drain(WAIT)
    with pytest.raises(SchedulerClosed), pool.use("a"):
        pass
    pool.close()
