"""Everything that needs a GPU, in one command: ``python tests/gpu/drive.py --out build/gpu``.

Probes every GPU engine, holds all engines against torch on the CPU on tiny models, then times a
DLRM at serving size and SASRec in fp32, fp16 and bf16 and writes rows and a report. Engines that
can't run here are told of with their reason. ``--minutes`` bounds it: what there was no time for
has skipped rows. ``--device cpu --small`` takes the same way on tiny models and CPU engines.

The exit code is 0, 1 when an engine gave other scores than torch or anything failed, and 2 when
packages are missing.
"""

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[2]
NEEDED = {
    **{name: name for name in ("filelock", "jinja2", "matplotlib", "numpy", "onnx", "onnxscript")},
    **{name: name for name in ("pandas", "platformdirs", "polars", "pyarrow", "pydantic", "rich")},
    **{name: name for name in ("ruamel.yaml", "safetensors", "scipy", "torch", "psutil")},
    "sklearn": "scikit-learn",
}
"""Modules without which nothing goes, and the packages they come from."""


def missing() -> list[str]:
    """Packages to install; nothing is imported to find out."""
    return [package for module, package in NEEDED.items() if not _found(module)]


def _found(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of a dotted name, whose parent isn't there
        return False


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("build/gpu"), help="rows and report")
    parser.add_argument("--minutes", type=float, default=6.0, help="about how long it may take")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny models in place of the large")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run it all; the exit code."""
    asked = arguments(argv)
    lacking = missing()
    if lacking:
        print(f"missing packages: {', '.join(lacking)}; pip install {' '.join(lacking)}")
        return 2
    for folder in (ROOT, Path(__file__).parent):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    import gpu_flow

    return gpu_flow.run(asked.out, device=asked.device, small=asked.small, minutes=asked.minutes)


if __name__ == "__main__":
    raise SystemExit(main())
