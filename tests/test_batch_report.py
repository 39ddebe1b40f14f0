"""The page that ``valley batch --report`` makes of a file of records."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.batches import OTHER, PICTURE, asking, batch, write_rows
from tests.conftest import ROOT

Captured = pytest.CaptureFixture[str]
EVIL = "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">&amp;{{ 7*7 }}"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page(HTMLParser):
    """The elements of a page, their attributes, and the texts of its scripts."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.title = ""
        self._inside = ""
        self.text = path.read_text()
        self.feed(self.text)
        self.rows: list[dict[str, Any]] = json.loads(self.scripts[0])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside == "title":
            self.title += data


@pytest.fixture
def records(tmp_path: Path, capsys: Captured) -> Path:
    """A run of every kind of row, some of them meant to take the page over."""
    (tmp_path / "a.png").write_bytes(Path(PICTURE).read_bytes())
    rows: list[Any] = [
        {"id": "one", "image": "a.png", "prompt": "What is it?", "max_new_tokens": 4},
        {"id": "two", "images": ["a.png", OTHER], "prompt": "Both?", "max_new_tokens": 4},
        {"id": EVIL, "image": OTHER, "prompt": EVIL, "max_new_tokens": 4},
        {"id": "gone", "image": EVIL},
        {"custom_id": "open", "body": {"max_tokens": 4, "messages": [{"role": "user", "content": "Hi"}]}},
        {"id": "clip", "video": str(ROOT / "examples" / "moving.mp4"), "max_new_tokens": 4},
        "{",
        *asking(60, max_new_tokens=2),
    ]
    out = tmp_path / "out.jsonl"
    assert batch(write_rows(tmp_path / "in.jsonl", rows), "-o", out, "--report", tmp_path / "page.html") == 3
    capsys.readouterr()
    return out


def test_the_page_holds_every_row_and_fetches_nothing(records: Path) -> None:
    page = Page(records.with_name("page.html"))
    assert [row["index"] for row in page.rows] == list(range(67))
    one, two, _, gone, openai, *_ = page.rows
    answers = [json.loads(line) for line in records.read_text().splitlines()]
    assert (one["id"], one["prompt"], one["answer"]) == ("one", "What is it?", answers[0]["response"])
    assert openai["answer"] == answers[4]["response"]["body"]["choices"][0]["message"]["content"]
    assert [row["id"] for row in page.rows if row["failed"]] == ["gone", ""]
    assert gone["error"] == f"SourceError: {answers[3]['error']['message']}"
    assert two["shown"][0] == one["shown"][0]
    assert not any(name in attributes for _, attributes in page.elements for name in ("src", "href"))
    assert not re.search(r"https?://", page.text)


def test_thumbnails_of_pictures_and_clips_are_in_the_page_once(records: Path) -> None:
    pictures: dict[str, str] = {}
    for row in Page(records.with_name("page.html")).rows:
        assert not set(pictures) & set(row["thumbnails"])
        pictures |= row["thumbnails"]
    assert len(pictures) == 3
    for uri in pictures.values():
        with Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/jpeg;base64,")))) as image:
            assert max(image.size) <= 128


def test_no_text_of_a_row_becomes_markup(records: Path) -> None:
    page = Page(records.with_name("page.html"))
    assert [tag for tag, _ in page.elements].count("script") == len(page.scripts) == 2
    assert not [tag for tag, _ in page.elements if tag == "img"]
    assert page.rows[2]["id"] == page.rows[2]["prompt"] == EVIL
    assert EVIL in page.rows[3]["sources"][0]
    policy = next(a["content"] for tag, a in page.elements if tag == "meta" and a.get("http-equiv"))
    digest = base64.b64encode(hashlib.sha256(page.scripts[1].encode()).digest()).decode()
    assert policy
    assert "default-src 'none'" in policy
    assert policy.endswith(f"script-src 'sha256-{digest}'")


def test_the_page_can_be_made_later_from_the_records_alone(records: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").unlink()
    (tmp_path / "in.jsonl").unlink()
    assert batch_report("--report-only", records) == 0
    later = Page(records.with_suffix(".html"))
    assert later.rows[0]["shown"] == [-1]
    assert [row["answer"] for row in later.rows] == [row["answer"] for row in Page(tmp_path / "page.html").rows]


def batch_report(*args: object) -> int:
    from tests.commands import inside

    return inside("batch", *map(str, args))


def test_a_page_never_replaces_a_file_unless_it_may(records: Path, tmp_path: Path, capsys: Captured) -> None:
    page = tmp_path / "page.html"
    before = page.read_bytes()
    assert batch_report("--report-only", records, "--report", page) == 2
    assert "add --force" in capsys.readouterr().err
    assert batch_report("--report-only", records, "--report", records, "--force") == 2
    assert page.read_bytes() == before
    assert batch_report("--report-only", records, "--report", page, "--force") == 0
    assert Page(page).title == "out.jsonl"


def test_a_page_is_made_of_records_only(tmp_path: Path, capsys: Captured) -> None:
    path = write_rows(tmp_path / "rows.jsonl", asking(2))
    assert batch_report("--report-only", path) == 2
    assert "was not written by valley batch" in capsys.readouterr().err
    assert batch_report("--report-only", tmp_path / "gone") == 4
    assert not list(tmp_path.glob("*.html"))
    assert batch_report(path, "--report", tmp_path / "page.html") == 2
    assert "-o" in capsys.readouterr().err


def rendered(page: Path, fragment: str, profile: Path) -> Page:
    """The page as a browser shows it."""
    assert CHROMIUM
    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
    flags += ["--disable-component-update", "--disable-sync", f"--user-data-dir={profile}", "--window-size=1000,900"]
    command = [CHROMIUM, "--headless", *flags, "--dump-dom", f"{page.as_uri()}{fragment}"]
    page.with_name("dom.html").write_bytes(subprocess.run(command, capture_output=True, timeout=60).stdout)
    return Page(page.with_name("dom.html"))


def test_a_browser_shows_searches_and_filters_the_rows(records: Path, tmp_path: Path) -> None:
    path = records.with_name("page.html")
    if CHROMIUM is None:  # then the rows, which the page's script reads, are all there is to see
        assert len(Page(path).rows) == 67
        return
    whole = rendered(path, "", tmp_path / "profile")
    cards = [attributes["class"] for tag, attributes in whole.elements if tag == "article"]
    assert whole.title == "out.jsonl"  # nothing took it over
    assert 20 <= len(cards) < 67  # those further down are made when they are scrolled to
    assert cards.count("failed") == 2
    assert len([tag for tag, _ in whole.elements if tag == "img"]) == 5
    failed = rendered(path, "#failed", tmp_path / "profile")
    assert [a["class"] for tag, a in failed.elements if tag == "article"] == ["failed", "failed"]
    searched = rendered(path, "#what%20IS%2059", tmp_path / "profile")
    assert len([tag for tag, _ in searched.elements if tag == "article"]) == 1
