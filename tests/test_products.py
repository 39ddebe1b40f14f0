"""Products by unpacked blocks give what the plain product gives, and stand in where the processor wants them."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from tests.commands import COLD_LIMIT_S, environment
from tests.conftest import ROOT
from valley_cli.engine.layers import matmul as products
from valley_cli.engine.layers.matmul import Unpacked, by_blocks

# what makes torch and oneDNN believe in a processor without AVX-512; other kinds of processor pass it over
AVX2_ALONE = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).bfloat16()


@pytest.mark.parametrize("n_rows", [1, 5, products.ROWS_AT_ONCE + 3])
@pytest.mark.parametrize(("n_out", "n_in"), [(1, 8), (64, 40), (130, 16_000)], ids=str)
def test_blocks_are_rounded_once(n_rows: int, n_out: int, n_in: int) -> None:
    if n_rows > 5 and n_in > 40:
        n_in //= 100
    x, weight = noise(n_rows, n_in), noise(n_out, n_in)
    for addend in (None, noise(n_out), noise(n_rows, n_out)):
        exact = x.double() @ weight.double().t() + (0 if addend is None else addend.double())
        found = by_blocks(x, weight, addend)
        assert found.dtype == torch.bfloat16
        # half a unit in the last of bfloat16's 8 places, and what sums in float32 may lose where terms cancel
        assert (found.double() - exact).abs().sub(exact.abs() / 2**8).max() < 1e-6 * n_in


def test_few_rows_are_multiplied_as_they_lie_and_many_by_blocks() -> None:
    x, weight, bias, residual = noise(7, 96), noise(50, 96), noise(50), noise(7, 50)
    few, many = Unpacked(weight, bias, least=8), Unpacked(weight, bias, least=7)
    assert torch.equal(few(x), torch.nn.functional.linear(x, weight, bias))
    assert torch.equal(many(x), by_blocks(x, weight, bias))
    assert torch.equal(few.added(residual, x), torch.addmm(residual, x, weight.t()))
    assert torch.equal(many.added(residual, x), by_blocks(x, weight, residual))


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="another processor has other layouts")
def test_without_avx_512_towers_and_decoder_unpack_bfloat16_and_say_the_same() -> None:
    check = (
        "import torch; from valley_cli.engine.layers import matmul as p; from valley_cli.__main__ import main\n"
        "assert not p.can_pack(torch.bfloat16) and p.rows_worth_unpacking(torch.bfloat16) in p.TRIED_ROWS\n"
        "assert p.choose_layout(torch.device('cpu'), torch.bfloat16, False) == 'unpacked'\n"
        "assert p.choose_layout(torch.device('cpu'), torch.float32, False) == 'packed'\n"
        "main(['describe', 'examples/shapes.png', '--dtype', 'bfloat16'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", check], cwd=ROOT, capture_output=True, env=environment(AVX2_ALONE), timeout=COLD_LIMIT_S
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.startswith(b"A large red circle at the top left")


def test_no_rows_give_no_rows() -> None:
    weight = noise(6, 64)
    for shape in ((0, 64), (3, 0, 64)):
        x = torch.empty(shape, dtype=torch.bfloat16)
        assert products.linear(x, weight).shape == (*shape[:-1], 6)
    assert by_blocks(torch.empty(0, 64, dtype=torch.bfloat16), weight).shape == (0, 6)
