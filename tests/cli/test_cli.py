"""The command as users meet it: help with an example, JSON, and exit code 2 with one clear line on bad input."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import asdict

import pytest
import torch

import deed as deed_package
from deed import DeedConfig, __version__, get_deed_model
from deed.cli.demo import CHECKPOINT
from deed.cli.train import recipe_of
from deed.models import small_g2p
from deed.recipes.page_batches import PagesRecipe
from deed.recipes.scene_batches import ScenesRecipe
from deed.utils.files import read_json

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


def test_version():
    done = deed("--version")
    assert done.returncode == 0 and done.stdout.strip() == f"deed {__version__}"


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], [], ["evaluate", "--help"], ["bench", "speed", "--help"]]
)
def test_help_starts_without_torch(arguments):
    """Loading PyTorch and Transformers takes seconds; help and version must not wait for them."""
    program = (
        "import atexit, sys; import deed.cli; sys.argv = ['deed', *sys.argv[1:]]\n"
        "heavy = ('torch', 'transformers', 'numpy', 'PIL', 'matplotlib', 'tokenizers')\n"
        "atexit.register(lambda: print('loaded', [name for name in heavy if name in sys.modules]))\n"
        "deed.cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)
    assert done.stdout.strip().splitlines()[-1] == "loaded []", done.stdout + done.stderr


@pytest.mark.parametrize("verb", ["speed", "scaling"])
def test_where_a_result_goes_is_called_output_everywhere(verb):
    shown = deed("bench", verb, "--help").stdout
    assert "--output" in shown and "--out " in shown, "the former name still works"


def test_public_names_are_listed_and_found():
    assert dir(deed_package) == sorted(deed_package.__all__)
    assert all(hasattr(deed_package, name) for name in deed_package.__all__)


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
    options = ["--steps", "9", "--from", "here"]
    expected = ScenesRecipe(steps=9, naming_share=0.05, start="here")
    assert recipe_of(ScenesRecipe, "scenes", options, read_json(path, ValueError)) == expected
    for text, message in (
        ("[1]", "expected a JSON object, got list"),
        ("{", "cannot be read"),
        ('{"steps": "many"}', "steps: Expected `int`, got `str`: 'many'"),
        ('{"steps": 0}', "steps: Expected `int` >= 1: 0"),
        ('{"seed": true}', "seed: Expected `int`, got `bool`"),
        ('{"learning_rate": NaN}', "learning_rate: Expected `float` >= 0.0: nan"),
        ('{"conventional": 1}', "conventional: Expected `bool`, got `int`"),
        ('{"start": ["x"]}', "start: Expected `str | null`, got `array`"),
        ('{"unheard_of": 1}', "ScenesRecipe has no field unheard_of"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=re.escape(message)):
            recipe_of(ScenesRecipe, "scenes", [], read_json(path, ValueError))
    path.write_text('{"mastery": 0.3, "note": "what happened", "base": null}')  # as older versions wrote them
    assert recipe_of(PagesRecipe, "pages", [], read_json(path, ValueError)).curriculum_loss == 0.3


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("g2p", ["--layers", "--d-model", "--dropout-start", "--from", "--no-bf16", "--conventional"]),
        ("pages", ["--layers", "--d-model", "--picture-share", "--from", "--seed"]),
        ("scenes", ["--layers", "--d-model", "--stem-steps", "--from"]),
        ("docvqa", ["--base", "--vit", "--train-vit", "--objective", "--ocr"]),
        ("refcoco", ["--from", "--adapter", "--loss", "--save-every", "--warmup-steps"]),
    ],
)
def test_help_lists_the_options_of_a_recipe(task, options):
    done = deed("train", "--task", task, "--help")
    assert done.returncode == 0 and all(f"{option}" in done.stdout for option in [*options, "--steps", "--output"])
    assert "Example: deed train" in done.stdout and "optimizer steps" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["evaluate", "nosuch"],
        ["calibrate", "nosuch"],
        ["calibrate", "MODEL", "--risk", "2"],
        ["bench", "curve", "nosuch"],
        ["tune", "nosuch", "--output", "OUT"],
        ["demo", "--task", "g2p", "--model", "nosuch", "--output", "OUT"],
        ["demo", "--model", "nosuch", "--output", "OUT"],
        ["convert", "ofa", "nosuch", "OUT"],
    ],
    ids=" ".join,
)
def test_a_wrong_folder_is_refused_before_torch_is_imported(tmp_path, arguments):
    """One line, and nothing but that line: no bar was opened."""
    places = {"MODEL": str(tmp_path), "OUT": str(tmp_path / "out")}
    code = (
        "import sys\nfrom deed.cli import main\ntry:\n    main()\nexcept SystemExit as end:\n"
        "    print(end.code, 'torch' in sys.modules)\n"
    )
    command = [sys.executable, "-c", code, *[places.get(a, a) for a in arguments]]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.strip() == "2 False"
    assert done.stderr.startswith("deed: ") and done.stderr.count("\n") == 1 and done.stderr.endswith("\n")
    assert ("risk" if "--risk" in arguments else "nosuch") in done.stderr
    assert not (tmp_path / "out").exists()


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
        (["train", "--task", "vqa", "--output", "OUT"], "--task must be one of "),
        (["train", "--task", "pages", "--output", "OUT", "--dropout", "0.1"], "--task pages takes no --dropout"),
        (["train", "--task", "pages", "--output", "OUT", "--from", "MODEL"], "is not a LaTr++"),
        (["train", "--task", "docvqa", "--base", "x", "--output", "OUT", "--from", "MODEL"], "docvqa takes no --from"),
        (["train", "--output", "OUT", "--base", "MODEL"], "--task g2p takes no --base"),
        (["train", "--task", "docvqa", "--output", "OUT"], "starts from a T5 checkpoint: give --base"),
        (["train", "--task", "docvqa", "--base", "x", "--data", "/none", "--output", "OUT"], "/none"),
        (["calibrate", "MODEL", "--risk", "0.01", "--count", "20"], "needs at least 299 examples"),
        (["calibrate", "MODEL", "--risk", "2"], "risk must lie between 0 and 1, got 2.0"),
        (["train", "--output", "OUT", "--data", "/no/file"], "/no/file: no such file"),
        (["train", "--output", "OUT", "--d-model", "40"], "multiple of 32"),
        (["train", "--output", "OUT", "--adapter", "lora", "--limit", "5"], "adapter must be one of"),
        (["train", "--output", "OUT", "--recipe", "/none.json"], "/none.json cannot be read"),
        (
            ["train", "--task", "pages", "--output", "OUT", "--recipe", "MODEL/config.json"],
            "PagesRecipe has no field",
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
