"""What is measured on activations, one statistic a file; a new file in this folder is found by itself."""

import importlib
import pkgutil

from vqonnx.calibration.statistics.base import STATISTICS, Statistic, empty_statistic

__all__ = ["STATISTICS", "Statistic", "empty_statistic"]

for _module in sorted(module.name for module in pkgutil.iter_modules(__path__)):
    importlib.import_module(f"{__name__}.{_module}")
