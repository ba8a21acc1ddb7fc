"""`deed convert`: a checkpoint in, a folder that loads out; bad input ends with exit code 2 and one clear line."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoProcessor

from deed import cli
from deed.models import ofa

sys.path.append(str(Path(__file__).parents[1] / "models"))
from ofa_files import original_state, small_config, write_bpe, write_checkpoint


@pytest.fixture
def checkpoint(tmp_path):
    config = small_config()
    return write_checkpoint(tmp_path / "ofa.pt", config, original_state(config))


@pytest.fixture
def deed(monkeypatch, capsys):
    """The command, in this process: exit code, and what it printed."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["deed", *map(str, arguments)])
        with pytest.raises(SystemExit) as done:
            cli.main()
        return done.value.code or 0, *capsys.readouterr()

    return run


def test_help_has_an_example(deed):
    code, out, _ = deed("convert", "--help")
    assert code == 0 and "deed convert ofa ofa_base.pt" in " ".join(out.split())


def test_a_model_with_its_tokenizer(deed, checkpoint, tmp_path):
    (tmp_path / "BPE").mkdir()
    encode = write_bpe(tmp_path / "BPE")
    code, out, _ = deed("convert", "ofa", checkpoint, tmp_path / "out", "--bpe", tmp_path / "BPE", "--json")
    report = json.loads(out)
    assert code == 0 and report["form"] == "cfg" and report["tokenizer"] and report["notes"] == []
    model = ofa.OFAForConditionalGeneration.from_pretrained(tmp_path / "out").eval()
    assert report["parameters"] == sum(p.numel() for p in model.parameters()) + sum(
        b.numel() for name, b in model.named_buffers() if name.endswith(("running_mean", "running_var"))
    )
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    inputs = processor.vqa(None, "what is the dog?")
    assert inputs["input_ids"].tolist() == [[0, *encode(" what is the dog?"), 2]]
    with torch.no_grad():
        answers = processor.answers(model.generate(**inputs, max_new_tokens=3))
    assert len(answers) == 1


def test_said_in_words(deed, checkpoint, tmp_path):
    code, out, _ = deed("convert", "ofa", checkpoint, tmp_path / "out", "--image-size", 64, "--vocab-size", 430)
    assert code == 0 and "1 encoder and 2 decoder layers" in out
    assert "Note: no tokenizer: give --bpe" in out and "Note: vocabulary grown from 425 to 430" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["t5", "CHECKPOINT", "OUT"], "the family must be ofa"),
        (["ofa", "nowhere.pt", "OUT"], "nowhere.pt: no such file or folder"),
        (["ofa", "CHECKPOINT", "OUT", "--ema"], "no averaged weights"),
        (["ofa", "BROKEN", "OUT"], "missing: decoder.layer_norm.bias"),
        (["ofa", "EVIL", "OUT"], "mkdir, which weights have no need of; refused"),
        (["ofa", "CHECKPOINT", "OUT", "--bpe", "nowhere"], "nowhere: no tokenizer there"),
        (["ofa", "CHECKPOINT", "CHECKPOINT"], "is not a folder that you may write to"),
        (["ofa", "CHECKPOINT", "TAKEN"], "is there already"),
        (["ofa", "CHECKPOINT", "OUT", "--vocab-size", "9"], "can only grow"),
    ],
)
def test_bad_input(deed, checkpoint, tmp_path, arguments, message):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    config = small_config()
    state = original_state(config)
    del state["decoder.layer_norm.bias"]
    write_checkpoint(tmp_path / "broken.pt", config, state)
    torch.save({"model": Evil()}, tmp_path / "evil.pt")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine").touch()
    before = sorted(os.listdir(tmp_path))
    names = {"CHECKPOINT": "ofa.pt", "OUT": "out", "BROKEN": "broken.pt", "EVIL": "evil.pt", "TAKEN": "taken"}
    code, _, err = deed("convert", *[str(tmp_path / names[a]) if a in names else a for a in arguments], "--json")
    assert code == 2 and message in err and len(err.strip().splitlines()) == 1
    assert sorted(os.listdir(tmp_path)) == before and os.listdir(tmp_path / "taken") == ["mine"]
