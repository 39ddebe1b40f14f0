"""Every golden case there is agrees with the published implementation (golden README for the tolerances)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.conftest import GOLDEN
from tests.golden import cases_of, run

FOLDERS = ("geometry", "valley2-published-meta", "valley2-tiny", "valley2.5-tiny", "valley2-noeagle-tiny")
CASES = [case for name in FOLDERS if (GOLDEN / name).is_dir() for case in cases_of(GOLDEN / name)]


@pytest.mark.parametrize(("name", "check"), CASES, ids=[name for name, _ in CASES])
def test_case_equals_the_published_implementation(name: str, check: Callable[[], None]) -> None:
    check()


def test_there_are_cases_of_both_families() -> None:
    families = {name.split("/")[0] for name, _ in CASES}
    assert {"geometry", "valley2-tiny", "valley2.5-tiny"} <= families


def test_the_runner_reports_a_difference(tmp_path: object, capsys: pytest.CaptureFixture[str]) -> None:
    import json
    import shutil
    from pathlib import Path

    folder = Path(str(tmp_path)) / "valley2.5-tiny"
    source = GOLDEN / "valley2.5-tiny"
    shutil.copytree(source / "checkpoint", folder / "checkpoint")
    (folder / "cases").mkdir()
    shutil.copy(source / "cases" / "text_only.npz", folder / "cases")
    case = json.loads((source / "cases" / "text_only.json").read_text(encoding="utf-8"))
    case["input_ids"][3] += 1
    (folder / "cases" / "text_only.json").write_text(json.dumps(case), encoding="utf-8")

    assert run([folder]) == 1
    out = capsys.readouterr().out
    assert "FAIL valley2.5-tiny/text_only: input_ids" in out
    assert out.endswith("0 passed, 1 failed\n")
