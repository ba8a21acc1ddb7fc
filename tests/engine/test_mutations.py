"""Do the tests bite? Each mutation breaks one piece of bookkeeping; the comparison with the cache-free reference has to
notice it (and to pass without it)."""

from types import SimpleNamespace

import pytest

import deed.engine.attention as attention_module
import deed.engine.cache as cache_module
import deed.engine.masks as masks_module
import deed.engine.staircase as staircase_module
from conftest import batch, deed_model
from deed import FixedSchedule
from test_decode import MODES, compare

TABLE = [[1 + (r * 3 + t * 2) % 5 for t in range(7)] for r in range(12)]


def check(kind, mode):
    rows = 12 if mode == "beam" else 4
    for seed in range(3):  # tokens are coarse: what is slightly wrong does not change each model's
        compare(
            deed_model(kind, seed=seed),
            batch(seed=seed),
            depths=lambda t, n: [TABLE[r][t % 7] for r in range(n)],
            policy=FixedSchedule(TABLE[:rows]),
            min_new_tokens=9,
            **MODES[mode],
        )


def pending_states_not_reordered(patch):
    select = staircase_module.Staircase.select

    def mutant(self, indices):
        hidden = self.hidden.clone()
        select(self, indices)
        self.hidden = hidden

    patch.setattr(staircase_module.Staircase, "select", mutant)


def stairs_not_reordered(patch):
    select = staircase_module.Staircase.select

    def mutant(self, indices):
        filled = [list(stairs) for stairs in self.filled]
        select(self, indices)
        self.filled = filled

    patch.setattr(staircase_module.Staircase, "select", mutant)


def cross_rows_not_selected(patch):
    def first_rows(self, layer_idx):
        block = self.cache.block
        n = len(block.rows)  # the first n rows, whoever is in work
        return SimpleNamespace(
            keys=self.cache.cross_keys[layer_idx][:n], values=self.cache.cross_values[layer_idx][:n]
        )

    def runs_from_the_first_row(self, q, scale):
        self.block.__dict__["runs"] = [(0, len(self.block.rows), 0)]
        return attend(self, q, scale)

    attend = attention_module.BlockAttention.attend_cross
    patch.setattr(cache_module._CrossAttentionSide, "__getitem__", first_rows)
    patch.setattr(attention_module.BlockAttention, "attend_cross", runs_from_the_first_row)


def own_rows_not_selected(patch):
    put = staircase_module.Staircase.put

    def mutant(self, block, keys, values):
        found = put(self, block, keys, values)
        if len(block.rows) < self.n_rows:
            found = tuple(x.roll(1, 0) for x in found)
        return found

    patch.setattr(staircase_module.Staircase, "put", mutant)


def cross_ready_for_all_once_ready_for_some(patch):
    fill_cross = cache_module.StaircaseCache.fill_cross

    def mutant(self, block, layer):
        fill_cross(self, block, layer)
        self.cross_ready[block.layer] = [True] * self.stairs.n_rows

    patch.setattr(cache_module.StaircaseCache, "fill_cross", mutant)


def cross_mask_rows_not_selected(patch):
    mask_for = masks_module.mask_for

    def mutant(*arguments, **options):
        mask = mask_for(*arguments, **options)
        return mask[:1].expand_as(mask) if mask.shape[0] > 1 else mask

    patch.setattr(masks_module, "mask_for", mutant)


def no_catch_up_mask(patch):
    separate = masks_module.separate

    def folded(state, stairs, block, decoder_mask):
        return state.plan.family.position_bias(state.model, block.start, block.stop)

    patch.setattr(masks_module, "separate", lambda *arguments: (None, separate(*arguments)[1]))
    patch.setattr(masks_module, "folded", folded)


def padding_cells_written(patch):
    block = staircase_module.Staircase.block

    def mutant(self, layer, rows, span_worth, align):
        made = block(self, layer, rows)
        made.__dict__["spans"] = [(i, j, row, made.start, made.stop) for i, j, row in made.runs]
        return made

    patch.setattr(staircase_module.Staircase, "block", mutant)


def catch_up_leaves_a_position_behind(patch):
    widen = staircase_module.Staircase.widen

    def mutant(self, block, output):
        kept = self.hidden[:, block.start].clone()
        widen(self, block, output)
        if block.stop - block.start > 1:
            self.hidden[:, block.start] = kept

    patch.setattr(staircase_module.Staircase, "widen", mutant)


# mutation: (mode in which it must be noticed)
MUTATIONS = {
    pending_states_not_reordered: "beam",
    stairs_not_reordered: "beam",
    cross_rows_not_selected: "greedy",
    own_rows_not_selected: "greedy",
    cross_ready_for_all_once_ready_for_some: "greedy",
    cross_mask_rows_not_selected: "greedy",
    no_catch_up_mask: "greedy",
    padding_cells_written: "greedy",
    catch_up_leaves_a_position_behind: "greedy",
}


@pytest.mark.parametrize("path", ["parts", "layers"])
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda f: f.__name__)
def test_mutation_is_noticed(kind, mutation, path, monkeypatch):
    if path == "layers":  # each layer by its own forward
        monkeypatch.setattr(type(deed_model(kind).deed_family), "parts", lambda self, model: None)
    check(kind, MUTATIONS[mutation])
    mutation(monkeypatch)
    with pytest.raises((AssertionError, RuntimeError, IndexError)):
        check(kind, MUTATIONS[mutation])
