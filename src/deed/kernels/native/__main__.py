"""`python -m deed.kernels.native`: builds the native kernels beside their sources and says which instruction sets run."""

from __future__ import annotations

import sys

from . import instruction_set, load
from .build import BuildError, build


def main() -> int:
    """Build, load, report; 1 where there is no compiler or it fails."""
    try:
        print(f"built {build()}")
    except BuildError as error:
        print(f"not built: {error}", file=sys.stderr)
        return 1
    load.cache_clear()
    print(f"runs: {instruction_set() or 'nothing (DEED_NATIVE=off)'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
