"""The checks of ``tests.cuda``: on a CUDA card where there is one, and always on this processor."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.cuda import CHECKS

pytestmark = pytest.mark.usefixtures("one_thread")
NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA card; benchmarks/gpu.sh runs it on one")
DEVICES = ["cpu", pytest.param("cuda", marks=NO_CUDA)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_holds(check: Callable[[torch.device], None], device: str) -> None:
    with torch.inference_mode():
        check(torch.device(device))
