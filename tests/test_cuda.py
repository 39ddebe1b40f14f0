"""The checks of ``tests.cuda``: on a CUDA card where there is one, and always on this processor."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.cuda import CHECKS, take_card

pytestmark = pytest.mark.usefixtures("one_thread")
NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA card; benchmarks/gpu.sh runs it on one")
ONE_CARD = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="no second CUDA card")
DEVICES = ["cpu", pytest.param("cuda", marks=NO_CUDA), pytest.param("cuda:1", marks=ONE_CARD)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_holds(check: Callable[[torch.device], None], device: str) -> None:
    take_card(torch.device(device))
    with torch.inference_mode():
        check(torch.device(device))
