"""What penstock costs, each question beside the standard library's answer.

`work` in here is python/penstock/bench/work of this checkout, what `penstock bench` measures with, read by
its path: the penstock that asv measures may be one that has none yet.
"""

import importlib.util
import sys
from pathlib import Path

folder = Path(__file__).resolve().parents[2] / "python" / "penstock" / "bench" / "work"
spec = importlib.util.spec_from_file_location(
    f"{__name__}.work", folder / "__init__.py", submodule_search_locations=[str(folder)]
)
sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules[spec.name])
