"""Sources become handles in the order and with the names a person expects, and errors say what to do."""

from __future__ import annotations

import base64
import io
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from valley_cli.api import Media, MediaLimits
from valley_cli.errors import RefusedError, SourceError, UsageError
from valley_cli.sources.expand import expand_sources
from valley_cli.text import printable, printable_url, sniff


def picture(format: str = "PNG", size: tuple[int, int] = (4, 3)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (200, 30, 60)).save(file, format)
    return file.getvalue()


PNG = picture()


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Pictures under odd names, a note, a hidden file and a subfolder."""
    for name in (
        "p10.png",
        "p2.png",
        "P1.png",
        ".hidden.png",
        "without-a-name-ending",
        "sub/p3.png",
        "sub/deep/p4.png",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(PNG)
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / "fake.jpg").write_text("not a picture either")
    return tmp_path


def names(args: Sequence[str], base: Path) -> list[str]:
    return [media.name for media in expand_sources(args, base_dir=str(base))]


def error(arg: str, base: Path | str = ".") -> SourceError:
    with pytest.raises(SourceError) as caught:
        expand_sources([arg], base_dir=str(base))
    return caught.value


def test_order_is_kept_and_names_are_as_written(album: Path) -> None:
    found = expand_sources(["p2.png", "https://host/a.png", "P1.png", str(album / "p10.png")], base_dir=str(album))
    assert [m.name for m in found] == ["p2.png", "https://host/a.png", "P1.png", str(album / "p10.png")]
    assert found[0] == Media("p2.png", path=str(album / "p2.png"))
    assert found[1].url == "https://host/a.png"
    assert all(m.typed and m.kind == "image" for m in found)


def test_untyped_and_kind_are_passed_on(album: Path) -> None:
    (media,) = expand_sources(["p2.png"], typed=False, base_dir=str(album), kind="video")
    assert (media.typed, media.kind) == (False, "video")


def test_folder_gives_its_pictures_by_their_bytes_in_natural_order(album: Path) -> None:
    assert names(["."], album) == ["./P1.png", "./p2.png", "./p10.png", "./without-a-name-ending"]


def test_empty_folder_is_an_error(tmp_path: Path) -> None:
    assert "no pictures in this folder" in error(str(tmp_path)).message


def test_globs_are_sorted_naturally_and_may_be_recursive(album: Path) -> None:
    assert names(["p*.png"], album) == ["p2.png", "p10.png"]
    assert names(["**/p*.png"], album) == ["p2.png", "p10.png", "sub/deep/p4.png", "sub/p3.png"]
    assert names(["sub/*"], album) == ["sub/p3.png"]  # folders are not pictures
    assert "nothing matches" in error("q*.png", album).message


def test_links_in_a_circle_do_not_multiply_pictures(album: Path) -> None:
    (album / "sub" / "again").symlink_to(album, target_is_directory=True)
    assert len(names(["**/p10.png"], album)) == 1


def test_an_existing_name_with_glob_characters_is_that_file(album: Path) -> None:
    (album / "p[12].png").write_bytes(PNG)
    (album / "a*b.png").write_bytes(PNG)
    assert names(["p[12].png", "a*b.png"], album) == ["p[12].png", "a*b.png"]


def test_base_folder_with_glob_characters_is_taken_literally(tmp_path: Path) -> None:
    folder = tmp_path / "[x]*"
    folder.mkdir()
    (folder / "1.png").write_bytes(PNG)
    assert names(["*.png"], folder) == ["1.png"]


def test_home_is_expanded(album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(album))
    assert expand_sources(["~/p2.png"])[0].path == str(album / "p2.png")


def test_names_like_drives_and_schemes_are_paths(album: Path) -> None:
    for name in ("C:\\pictures\\a.png", "img:1.png", "http:2.png"):
        (album / name).write_bytes(PNG)
        assert expand_sources([name], base_dir=str(album))[0].path == str(album / name)
    assert "no such file" in error("D:\\pictures\\a.png", album).message


def test_file_uris_are_decoded(album: Path) -> None:
    (album / "a b%ü.png").write_bytes(PNG)
    uri = (album / "a b%ü.png").as_uri()
    assert "%20" in uri
    for form in (uri, uri.replace("file://", "file://localhost"), uri.replace("file://", "FILE:")):
        assert expand_sources([form])[0].path == str(album / "a b%ü.png")
    assert "another machine" in error("file://elsewhere/a.png").message
    assert "not a file name" in error("file:///a%00b").message


@pytest.mark.parametrize(
    "uri",
    [
        "data:image/png;base64," + base64.b64encode(PNG).decode(),
        "DATA:image/png;charset=x;BASE64," + base64.urlsafe_b64encode(PNG).decode().rstrip("="),
        "data:;base64," + base64.b64encode(PNG).decode().replace("+", "%2B").replace("=", "%3D"),
        "data:image/png," + "".join(f"%{byte:02x}" for byte in PNG),
    ],
)
def test_data_uris_are_decoded_and_named_shortly(uri: str) -> None:
    (media,) = expand_sources([uri])
    assert media.data == PNG
    assert len(media.name) < 80


@pytest.mark.parametrize("uri", ["data:image/png;base64,@@@@", "data:image/png;base64", "data:,", "data:;base64,A"])
def test_broken_data_uris_are_errors(uri: str) -> None:
    assert error(uri).source.startswith("data:")


def test_data_uris_above_the_limit_are_refused() -> None:
    small = MediaLimits(max_image_bytes=100)
    for uri in ("data:;base64," + "A" * 200, "data:;base64," + "A" * 5000, "data:," + "x" * 101):
        with pytest.raises(RefusedError, match="limit"):
            expand_sources([uri], limits=small)


def test_standard_input_is_read_once() -> None:
    (media,) = expand_sources(["-"], stdin=io.BytesIO(PNG))
    assert (media.name, media.data) == ("-", PNG)
    with pytest.raises(UsageError):
        expand_sources(["-", "-"], stdin=io.BytesIO(PNG))


def test_standard_input_that_gives_nothing_or_too_much_is_an_error() -> None:
    with pytest.raises(SourceError, match="nothing came in"):
        expand_sources(["-"], stdin=io.BytesIO())
    with pytest.raises(SourceError, match="cannot be read here"):
        expand_sources(["-"])
    with pytest.raises(RefusedError, match="limit"):
        expand_sources(["-"], stdin=io.BytesIO(PNG), limits=MediaLimits(max_image_bytes=10))


def test_standard_input_at_a_keyboard_is_an_error() -> None:
    leader, follower = os.openpty()
    with open(follower, "rb") as keyboard, pytest.raises(SourceError, match="keyboard"):
        expand_sources(["-"], stdin=keyboard)
    os.close(leader)


@pytest.mark.parametrize("url", ["ftp://host/a.png", "s3://bucket/a.png", "htps://host/a.png", "javascript://x"])
def test_other_schemes_are_errors_with_a_hint(url: str) -> None:
    assert "https://" in (error(url).hint or "")


@pytest.mark.parametrize("url", ["https:/host/a.png", "https://", "http://[::1", "http://host:port/", "http:nothing"])
def test_half_addresses_are_errors_with_a_hint(url: str) -> None:
    assert "https://host/path" in (error(url).hint or "")


def test_missing_files_suggest_the_nearest_name(album: Path) -> None:
    missing = error("P11.png", album)
    assert (missing.exit_code, missing.reason) == (4, "no such file")
    assert missing.hint == "did you mean P1.png?"
    assert error("sub/P3.pgn", album).hint == "did you mean sub/p3.png?"
    assert "there is no folder" in error("nowhere/a.png", album).message
    assert "https://www.x.org" in (error("www.x.org/a.png".replace("/", "_"), album).hint or "")


def test_strange_names_are_errors_not_tracebacks(album: Path) -> None:
    (album / "gone.png").symlink_to(album / "nothing")
    for arg in ("", "  ", "a\0b", "x" * 5000, "gone.png", "notes.txt/a.png", "\udcff.png", "[", "*\0"):
        error(arg, album)


def test_credentials_never_show() -> None:
    secret = "s3cr3t"
    (media,) = expand_sources([f"https://user:{secret}@host/a.png?width=3&token={secret}&X-Amz-Signature={secret}"])
    assert media.name == "https://host/a.png?width=3&token=***&X-Amz-Signature=***"
    assert secret not in repr(media)
    for bad in (
        f"https://u:{secret}@[::1/",
        f"ftp://u:{secret}@h/a",
        f"s3://h/a?sig={secret}",
        f"file://u:{secret}@h/a",
    ):
        shown = error(bad)
        assert secret not in shown.message + str(shown.hint)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://u:p@h/a", "http://h/a"),
        ("http://u@h@h2/a", "http://h2/a"),
        ("http://u:p/q@h/a", "http://h/a"),
        ("http://u:p#q@h/a", "http://h/a"),
        ("http://host:8000/@someone/a.jpg", "http://host:8000/@someone/a.jpg"),
        ("//u:p@h/a", "//h/a"),
        ("http://h/?%74oken=x;Key=y&b=z#access_token=x", "http://h/?%74oken=***;Key=***&b=z"),
        ("http://h/?key&sig=", "http://h/?key&sig="),
    ],
)
def test_printable_url(url: str, shown: str) -> None:
    assert printable_url(url) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mred\x1b[0m.png", "ared.png"),
        ("a\x1b]0;title\x07b", "ab"),
        ("a\x1b]8;;http://x\x1b\\b", "ab"),
        ("a\x9b2Jb\x85c\x7f\x00", "ab c"),
        ("one\ntwo\r\nthree\tfour", "one two three four"),
        ("gpj\u202etxt.exe\u2066\u200f", "gpjtxt.exe"),
        ("\x1b\x1b[0m[31m", "[31m"),
        ("\x1b]never ends", "never ends"),
        ("\udcff.png", "\ufffd.png"),
        ("Übergrößen 図 👩‍🚀.png", "Übergrößen 図 👩‍🚀.png"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_control_characters_in_file_names_never_show(tmp_path: Path) -> None:
    (tmp_path / "evil\x1b[2J\n\u202e.png").write_bytes(PNG)
    texts = [*names(["*.png"], tmp_path), *names(["."], tmp_path), str(error("evil\x1b[2J.pn", tmp_path).hint)]
    texts += [error("a\x1b[2J\r\n\u202eb").message, error("ftp://a\x1b[2J\r\n\u202eb").message]
    assert all(text.isprintable() for text in texts), texts


def test_long_hostile_texts_are_handled_quickly() -> None:
    for unit in ("\x9d", "\x1b]", ":", "@", "a:", "//", "?key=", "\x1b["):
        printable_url("http://" + unit * 50_000)
    assert sniff(b"<!---->" * 200) == "text"


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "empty"),
        (PNG, "png"),
        (picture("JPEG"), "jpeg"),
        (picture("GIF"), "gif"),
        (picture("BMP"), "bmp"),
        (picture("TIFF"), "tiff"),
        (picture("WEBP"), "webp"),
        (b"BMW is a car, and this is a text", "text"),
        (b"%PDF-1.7", "pdf"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0isommp42", "mp4"),
        (b"\0\0\0\x14ftypqt  \0\0\0\0qt  ", "mov"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "heic"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf", "avif"),
        (b"\x1aE\xdf\xa3\x9fB\x86\x81\x01B\xf7\x81\x01B\x82\x84webm", "webm"),
        (b"\x1aE\xdf\xa3\x9fB\x82\x88matroska", "mkv"),
        (b"RIFF\0\0\0\0AVI LIST", "avi"),
        (b"RIFF\0\0\0\0WAVEfmt ", "unknown"),
        (b"\xef\xbb\xbf <!-- hi --> <!DOCTYPE html><html>", "html"),
        (b'<?xml version="1.0"?><!-- x --><svg width="1">', "svg"),
        ("größe, and so on".encode(), "text"),
        (("ü" * 2000).encode()[1:], "unknown"),
        (("x" + "ü" * 2000).encode(), "text"),
        (bytes(range(256)), "unknown"),
    ],
)
def test_sniff_goes_by_the_bytes(data: bytes, kind: str) -> None:
    assert sniff(data) == kind


def test_inputs_loads_nothing_heavy() -> None:
    code = (
        "import sys, valley_cli.sources.expand as i; i.expand_sources(['http://h/a', 'data:,x']); print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numpy", "PIL", "torch", "requests", "rich", "typer", "valley_cli.media"} & set(loaded)
