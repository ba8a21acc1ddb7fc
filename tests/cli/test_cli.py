"""The command as users meet it: help with an example, JSON, and exit code 2 with one clear line on bad input."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from deed import DeedConfig, get_deed_model
from deed.cli.demo import CHECKPOINT
from deed.cli.train import recipe_of
from deed.models import small_g2p
from deed.recipes.scenes import ScenesRecipe

VERBS = ["demo", "ask", "train", "tune", "calibrate", "evaluate", "bench", "convert"]


def deed(*arguments, **environment):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "80", "NO_COLOR": "1", **environment}
    return subprocess.run([sys.executable, "-m", "deed", *arguments], capture_output=True, text=True, env=env)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    torch.manual_seed(0)
    tokenizer = small_g2p.build_tokenizer()
    model = get_deed_model(
        small_g2p.build_model(tokenizer, n_layers=2, d_model=32, d_ff=32), DeedConfig(threshold=0.05)
    )
    path = tmp_path_factory.mktemp("cli") / "model"
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def test_help_lists_the_verbs():
    done = deed("--help")
    assert done.returncode == 0 and all(verb in done.stdout for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_an_example(verb):
    done = deed(verb, "--help")
    assert done.returncode == 0 and f"deed {verb}" in done.stdout.split("Example:")[1]


def test_evaluate(model_folder):
    done = deed("evaluate", str(model_folder), "--split", "validation", "--count", "20", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    full, early = report["results"]
    assert report["examples"] == 20 and full["mean_depth"] == 2.0 and 1.0 <= early["mean_depth"] <= 2.0


def test_calibrate_is_saved(tmp_path):
    folder = shutil.copytree(CHECKPOINT, tmp_path / "model")
    arguments = ["--risk", "0.2", "--confidence", "0.9", "--count", "40", "--json"]
    done = deed("calibrate", str(folder), *arguments)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    saved = json.loads((folder / "config.json").read_text())["deed_config"]
    assert saved["calibration"] == report and saved["threshold"] == report["threshold"] <= 1
    assert report["examples"] == 40 and report["full_depth_score"] > 0.3


def test_a_recorded_recipe_is_followed(tmp_path):
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(asdict(ScenesRecipe(steps=7, naming_share=0.05, start="elsewhere"))))
    given = {"recipe": path, "steps": 9, "start": Path("here")}
    assert recipe_of(ScenesRecipe, "scenes", given) == ScenesRecipe(steps=9, naming_share=0.05, start="here")
    for text, message in (
        ("[1]", "a JSON object is needed"),
        ('{"steps": "many"}', "steps cannot be 'many'"),
        ('{"seed": true}', "seed cannot be True"),
        ('{"seed": false}', "seed cannot be False"),
        ('{"conventional": 1}', "conventional cannot be 1"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            recipe_of(ScenesRecipe, "scenes", {"recipe": path})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "/nowhere/at/all"], "is not a folder with a saved model"),
        (["evaluate", "nosuch"], "nosuch is not a folder with a saved model"),
        (["calibrate", "nosuch"], "nosuch is not a folder with a saved model"),
        (["bench", "curve", "nosuch"], "nosuch is not a folder with a saved model"),
        (["bench", "curve", "EMPTY"], "it has no config.json"),
        (["demo", "--task", "g2p", "--model", "EMPTY", "--output", "OUT"], "it has no config.json"),
        (["evaluate", "MODEL", "--split", "dev"], "split must be one of"),
        (["evaluate", "MODEL", "--task", "vqa"], "--task must be one of g2p, pages, docvqa"),
        (["evaluate", "MODEL", "--task", "pages"], "--task pages needs a LaTr++; "),
        (["calibrate", "MODEL", "--task", "g2p", "--task", "pages"], "--task pages needs a LaTr++; "),
        (["train", "--task", "vqa", "--output", "OUT"], "--task must be one of g2p, pages, scenes, docvqa"),
        (["train", "--task", "pages", "--output", "OUT", "--dropout", "0.1"], "--task pages takes no --dropout"),
        (["train", "--task", "pages", "--output", "OUT", "--from", "MODEL"], "is not a LaTr++"),
        (["train", "--task", "docvqa", "--base", "x", "--output", "OUT", "--from", "MODEL"], "docvqa takes no --from"),
        (["train", "--output", "OUT", "--base", "MODEL"], "--task g2p takes no --base"),
        (["train", "--task", "docvqa", "--output", "OUT"], "starts from a T5 checkpoint: give --base"),
        (["train", "--task", "docvqa", "--base", "x", "--data", "/none", "--output", "OUT"], "/none"),
        (["calibrate", "MODEL", "--risk", "0.01", "--count", "20"], "needs at least 299 examples"),
        (["calibrate", "MODEL", "--risk", "2"], "risk must lie between 0 and 1"),
        (["train", "--output", "OUT", "--data", "/no/file"], "/no/file: no such file"),
        (["train", "--output", "OUT", "--d-model", "40"], "multiple of 32"),
        (["train", "--output", "OUT", "--adapter", "lora", "--limit", "5"], "adapter must be one of"),
        (["train", "--output", "OUT", "--recipe", "/none.json"], "--recipe /none.json cannot be read"),
        (
            ["train", "--task", "pages", "--output", "OUT", "--recipe", "MODEL/config.json"],
            "no recipe of --task pages",
        ),
        (["tune", "/nowhere", "--output", "OUT"], "is not a folder with a saved model"),
        (["tune", "MODEL", "--output", "OUT", "--adapter", "none"], "needs an exit before the last and an adapter"),
        (["train"], "--output"),
        (["evaluate"], "{model}"),
    ],
)
def test_bad_input(model_folder, tmp_path, arguments, message):
    (tmp_path / "empty").mkdir()
    places = {"MODEL": str(model_folder), "OUT": str(tmp_path / "out"), "EMPTY": str(tmp_path / "empty")}
    done = deed(*[places.get(a, a).replace("MODEL/", f"{model_folder}/") for a in arguments])
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
    if "--output" not in message and message != "{model}":  # those two are Typer's own, in a box
        assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists(), "nothing half-written"
