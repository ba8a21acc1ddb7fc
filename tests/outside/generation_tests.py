"""Transformers' own generation tests, run on deed models: `GenerationTesterMixin` with every supported class wrapped.

    python tests/outside/generation_tests.py ~/transformers             # a source checkout, of the version installed
    python tests/outside/generation_tests.py ~/transformers t5 whisper  # some of its tests/models only
    python tests/outside/generation_tests.py ~/transformers bart -- -k beam -x

The tests are read from the checkout and never copied. A plugin (`plugin.py`) wraps every model of a supported class as it is
made, with exits that change nothing and a threshold that is never reached, and holds every `generate()` in them against the
plain model's. What fails by design is listed in `expected.py`, each with its reason; anything else that fails, or that passes
though it is listed, is an error. The checkout's tests need `pip install parameterized`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def supported_classes() -> set[str]:
    """Names of the classes of Transformers' that deed has a family for."""
    import transformers

    import deed.families.base as families

    return {name for name in families._FAMILIES if hasattr(transformers, name)}


def test_files(checkout: Path, folders: list[str], classes: set[str]) -> list[Path]:
    """The checkout's files with generation tests that name a supported class.

    Args:
        checkout: of Transformers' sources.
        folders: of `tests/models`; none: all.
        classes: names of classes.

    Raises:
        SystemExit: no checkout, or a folder that it does not have.
    """
    models = checkout / "tests" / "models"
    if not (checkout / "tests" / "generation" / "test_utils.py").is_file():
        raise SystemExit(f"{checkout} has no tests/generation/test_utils.py: give a source checkout of Transformers")
    missing = [name for name in folders if not (models / name).is_dir()]
    if missing:
        raise SystemExit(f"{models} has no {', '.join(missing)}")
    found = []
    for path in sorted(models.glob("*/test_modeling_*.py")):
        if folders and path.parent.name not in folders:
            continue
        text = path.read_text(encoding="utf-8")
        if "GenerationTesterMixin" in text and any(name in text for name in classes):
            found.append(path)
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run them; pytest's exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    at = arguments.index("--") if "--" in arguments else len(arguments)
    own, passed_on = arguments[:at], arguments[at + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="a source checkout of Transformers")
    parser.add_argument("folders", nargs="*", help="of its tests/models; none: all that have a supported class")
    parser.add_argument("--list", action="store_true", help="only name the files")
    options = parser.parse_args(own)
    checkout = options.checkout.resolve()
    files = [str(path.relative_to(checkout)) for path in test_files(checkout, options.folders, supported_classes())]
    if options.list or not files:
        print("\n".join(files) or "no generation tests of a supported class")
        return 0 if files else 2
    path = os.pathsep.join([str(HERE), str(checkout), *sys.path[1:]])
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "plugin",
        "-p",
        "no:cacheprovider",
        "-q",
        "-rx",
        "--continue-on-collection-errors",
        *files,
    ]
    return subprocess.run(
        [*command, *passed_on], cwd=checkout, env={**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
