"""Folders: round trip, plain loading, and every way one can be broken."""

import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSeq2SeqLM

import deed
from conftest import batch, deed_model, plain_model
from deed import DeedConfig, DeedLoadError


@pytest.fixture
def folder(kind, tmp_path):
    model = deed_model(
        kind, DeedConfig(exit_layers=[1, 3], threshold=[0.4, 0.7], confidence="margin"), enc=5, dtype=torch.float32
    )
    model.deed_config.calibration = {"risk": 0.01, "tested": [{"threshold": 0.9}]}
    model.save_pretrained(tmp_path / "m")
    return model, tmp_path / "m"


def test_round_trip(folder):
    model, path = folder
    loaded = deed.from_pretrained(path)
    assert type(loaded) is type(model) and loaded.deed_config == model.deed_config
    for (name, a), (other, b) in zip(model.state_dict().items(), loaded.state_dict().items(), strict=True):
        assert name == other and torch.equal(a, b)
    a = model.generate(**batch(), max_new_tokens=6, return_dict_in_generate=True)
    b = loaded.generate(**batch(), max_new_tokens=6, return_dict_in_generate=True)
    assert torch.equal(a.sequences, b.sequences) and torch.equal(a.exit_layers, b.exit_layers)
    assert not loaded.training


def test_the_folder_loads_as_the_plain_model_without_a_word(folder, kind, caplog, tmp_path):
    model, path = folder
    plain_model(kind).save_pretrained(tmp_path / "plain")
    with caplog.at_level(logging.WARNING, logger="transformers"):
        AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "plain")
        usual = [r.getMessage() for r in caplog.records]  # 5.23 warns of any untied T5
        caplog.clear()
        plain, info = AutoModelForSeq2SeqLM.from_pretrained(path, output_loading_info=True)
    assert [r.getMessage() for r in caplog.records] == usual and (not usual or kind == "t5_untied_gated")
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert type(plain) is model.deed_base
    expected = model.generate(**batch(), max_new_tokens=6, exit_threshold=2.0)
    assert torch.equal(plain.generate(**batch(), max_new_tokens=6), expected)


def test_what_is_in_the_folder(folder):
    model, path = folder
    config = json.loads((path / "config.json").read_text())
    assert config["architectures"] == [type(model).__name__]
    assert config["deed_config"]["exit_layers"] == [1, 3, 5] and config["deed_config"]["calibration"]["risk"] == 0.01
    assert set(load_file(path / "deed_exits.safetensors")) == {
        f"{d}.linear.{w}" for d in (1, 3) for w in ("weight", "bias")
    }
    assert not any(k.startswith("deed") for k in load_file(path / "model.safetensors"))
    assert not list(path.glob("*.tmp"))


def test_dtype_is_passed_on(folder):
    _, path = folder
    loaded = deed.from_pretrained(path, dtype=torch.bfloat16)
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}


def test_push_to_hub_uploads_the_exits_too(folder, tmp_path, monkeypatch):
    model, _ = folder
    seen = {}

    def push(repo_id, **options):
        model.save_pretrained(tmp_path / "upload")
        seen[repo_id] = {p.name for p in (tmp_path / "upload").iterdir()}

    monkeypatch.setattr(model, "push_to_hub", push, raising=False)
    model.save_pretrained(tmp_path / "again", push_to_hub=True, repo_id="me/model")
    assert "deed_exits.safetensors" in seen["me/model"] and "model.safetensors" in seen["me/model"]


def edit_config(path, change):
    values = json.loads((path / "config.json").read_text())
    change(values)
    (path / "config.json").write_text(json.dumps(values))


def truncate(file):
    file.write_bytes(file.read_bytes()[:-100])


BREAKS = {
    "no exits file": (lambda p: (p / "deed_exits.safetensors").unlink(), "deed_exits.safetensors is missing"),
    "exits cut short": (lambda p: truncate(p / "deed_exits.safetensors"), "deed_exits.safetensors is damaged"),
    "exits garbage": (lambda p: (p / "deed_exits.safetensors").write_bytes(b"x" * 99), "is damaged"),
    "exits of another model": (
        lambda p: save_file({"1.linear.weight": torch.zeros(2, 2)}, p / "deed_exits.safetensors"),
        "does not fit deed_config: missing",
    ),
    "exits of another width": (
        lambda p: save_file(
            {f"{d}.linear.{w}": torch.zeros(3) for d in (1, 3) for w in ("weight", "bias")},
            p / "deed_exits.safetensors",
        ),
        r"is \[3\], the model needs \[32",
    ),
    "weights cut short": (lambda p: truncate(p / "model.safetensors"), "cannot be loaded"),
    "weights missing": (lambda p: (p / "model.safetensors").unlink(), "cannot be loaded"),
    "config not json": (lambda p: (p / "config.json").write_text("{"), "cannot be read as JSON"),
    "config missing": (lambda p: (p / "config.json").unlink(), "has no config.json"),
    "no deed_config": (lambda p: edit_config(p, lambda c: c.pop("deed_config")), "has no deed_config"),
    "unknown field": (lambda p: edit_config(p, lambda c: c["deed_config"].update(depth=3)), "unknown fields"),
    "bad field": (lambda p: edit_config(p, lambda c: c["deed_config"].update(adapter="x")), "adapter must be one of"),
    "wrong type": (lambda p: edit_config(p, lambda c: c.update(deed_config=[1])), "must be a mapping"),
    "too deep": (lambda p: edit_config(p, lambda c: c["deed_config"].update(exit_layers=[1, 9])), "has 5 layers"),
    "unknown architecture": (lambda p: edit_config(p, lambda c: c.update(architectures=["Nope"])), "'Nope'"),
}


@pytest.mark.parametrize("name", BREAKS)
@pytest.mark.parametrize("kind", ["t5_tied"], indirect=True)
def test_a_broken_folder_gives_one_clear_error(folder, name):
    _, path = folder
    breaking, message = BREAKS[name]
    breaking(path)
    with pytest.raises(DeedLoadError, match=message):
        deed.from_pretrained(path)


def test_not_a_folder(tmp_path):
    with pytest.raises(DeedLoadError, match="not a folder"):
        deed.from_pretrained(tmp_path / "nothing")
    (tmp_path / "file").write_text("")
    with pytest.raises(DeedLoadError, match="is a file"):
        deed_model("t5_tied").save_pretrained(tmp_path / "file")


def test_a_failed_save_leaves_nothing_half_written(tmp_path, monkeypatch):
    import deed.modeling.saving as saving

    model = deed_model("t5_tied")
    model.save_pretrained(tmp_path)
    before = (tmp_path / "deed_exits.safetensors").read_bytes()

    def fail(tensors, name, metadata=None):
        Path(name).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(saving, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        model.save_pretrained(tmp_path)
    assert (tmp_path / "deed_exits.safetensors").read_bytes() == before
    assert not list(tmp_path.glob("*.tmp"))


def two_models():
    """The same shapes, every tensor and the threshold different."""
    old = deed_model("t5_tied", DeedConfig(threshold=0.25), dtype=torch.float32, enc=5)
    new = deed_model("t5_tied", DeedConfig(threshold=0.75), seed=7, dtype=torch.float32, enc=5)
    return old, new


def which(folder, old, new):
    """Whose the model in a folder is, through and through; "refused" where there is none."""
    try:
        got = deed.from_pretrained(folder)
    except DeedLoadError as error:
        assert "deed_exits.safetensors is missing" in str(error)
        return "refused"
    for name, model in (("old", old), ("new", new)):
        if got.deed_config.threshold == model.deed_config.threshold:
            state = model.state_dict()
            assert all(torch.equal(value, state[key]) for key, value in got.state_dict().items()), f"a mixture: {name}"
            return name
    raise AssertionError("neither")


def killed_at(step, save):
    """Run `save()` in a process that ends, without a word, before its file operation number `step`."""
    import os

    import transformers.modeling_utils as transformers_saving

    import deed.modeling.saving as saving

    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] != 0
    done = 0

    def counted(real):
        def operation(*args, **kwargs):
            nonlocal done
            if done == step:
                os._exit(9)
            done += 1
            return real(*args, **kwargs)

        return operation

    saving.os.replace, Path.unlink = counted(os.replace), counted(Path.unlink)
    saving.save_file = counted(saving.save_file)
    transformers_saving.safe_save_file = counted(transformers_saving.safe_save_file)
    try:
        save()
    finally:
        os._exit(0)


@pytest.mark.parametrize("shards", ["one", "to many", "from many"])
def test_killed_at_any_moment_a_folder_is_the_old_model_the_new_or_refused(tmp_path, shards):
    old, new = two_models()
    small = {"max_shard_size": "40KB"}
    found, step = [], 0
    while True:
        folder = tmp_path / str(step)
        old.save_pretrained(folder, **(small if shards == "from many" else {}))
        killed = killed_at(step, lambda to=folder: new.save_pretrained(to, **(small if shards == "to many" else {})))
        found.append(which(folder, old, new))
        new.save_pretrained(folder)  # what the dead process left is no hindrance
        assert which(folder, old, new) == "new" and not list(folder.glob(".deed_saving*"))
        if not killed:
            break
        step += 1
    assert found[0] == "old" and found[-1] == "new" and "refused" in found
    assert found == sorted(found, key=["old", "refused", "new"].index), "in this order"


def test_shards_over_a_whole_file_and_back(tmp_path):
    old, new = two_models()
    old.save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text("mine")
    new.save_pretrained(tmp_path, max_shard_size="40KB")
    assert (tmp_path / "model.safetensors.index.json").is_file() and not (tmp_path / "model.safetensors").exists()
    assert which(tmp_path, old, new) == "new"
    old.save_pretrained(tmp_path)
    assert which(tmp_path, old, new) == "old" and not list(tmp_path.glob("model-*"))
    assert not (tmp_path / "model.safetensors.index.json").exists() and (tmp_path / "README.md").read_text() == "mine"


def test_an_error_of_the_base_leaves_the_old_model(tmp_path, monkeypatch):
    import transformers.modeling_utils as transformers_saving

    old, new = two_models()
    old.save_pretrained(tmp_path)

    def full(tensors, name, metadata=None):
        Path(name).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(transformers_saving, "safe_save_file", full)
    with pytest.raises(OSError, match="disk full"):
        new.save_pretrained(tmp_path)
    assert which(tmp_path, old, new) == "old" and not list(tmp_path.glob(".deed_saving*"))


def test_other_processes_write_nothing(tmp_path):
    old, new = two_models()
    old.save_pretrained(tmp_path)
    new.save_pretrained(tmp_path / "other", is_main_process=False)
    assert (
        not (tmp_path / "other" / "config.json").exists()
        and not (tmp_path / "other" / "deed_exits.safetensors").exists()
    )


def test_files_are_readable_as_others_are(tmp_path):
    (tmp_path / "usual").write_text("")
    usual = (tmp_path / "usual").stat().st_mode
    deed_model("t5_tied").save_pretrained(tmp_path)
    assert {path.stat().st_mode for path in tmp_path.iterdir()} == {usual}


def test_a_wrapped_plain_checkpoint_keeps_its_weights(kind, tmp_path):
    plain = plain_model(kind)
    plain.save_pretrained(tmp_path)
    loaded = deed.get_deed_model(type(plain).from_pretrained(tmp_path))
    for name, value in plain.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
