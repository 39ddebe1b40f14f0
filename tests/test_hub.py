"""Checkpoints are found, downloaded, resumed and refused as promised: over real HTTP, into real cache folders."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.hub_server import HubServer
from valley_cli.api import Stage
from valley_cli.engine.hub.resolve import Checkpoint, resolve_checkpoint
from valley_cli.engine.hub.snapshot import find_fault
from valley_cli.errors import ModelError, UsageError

DPO = "bytedance-research/Valley2-DPO"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
NEEDED = {"config.json", "tokenizer.json", "chat_template.jinja", "model.safetensors.index.json"}
MEGABYTE = 1 << 20

pytestmark = pytest.mark.skipif(os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"), reason="offline")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository as published: two shards (3 MB and a small one) and files that must not be fetched."""
    folder = tmp_path_factory.mktemp("published")
    config = {"model_type": "valley", "architectures": ["ValleyQwen2ForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    for unwanted in ("README.md", "modeling_valley.py", "pytorch_model.bin", "training_args.bin", "onnx/config.json"):
        (folder / unwanted).parent.mkdir(exist_ok=True)
        (folder / unwanted).write_text("{}")
    rng = np.random.default_rng(0)
    save_file({"a": rng.random(3 * MEGABYTE // 4, dtype=np.float32)}, folder / FIRST)
    save_file({"b": rng.random(100, dtype=np.float32)}, folder / SECOND)
    index = {"metadata": {}, "weight_map": {"a": FIRST, "b": SECOND}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture
def hub(published: Path) -> Iterator[HubServer]:
    with HubServer({DPO: published}) as server:
        yield server


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "hub"


def get(hub: HubServer, cache: Path, model: str = "valley2-dpo", **options: object) -> Checkpoint:
    return resolve_checkpoint(model, cache_dir=cache, endpoint=hub.endpoint, **options)  # type: ignore[arg-type]


def same_files(folder: Path, published: Path) -> bool:
    return all((folder / name).read_bytes() == (published / name).read_bytes() for name in (*NEEDED, FIRST, SECOND))


def test_a_download_brings_the_needed_files_only_and_reports_bytes(
    hub: HubServer, cache: Path, published: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stages: list[Stage] = []
    checkpoint = get(hub, cache, on_stage=stages.append)
    assert (checkpoint.name, checkpoint.revision) == ("valley2-dpo", hub.commit(DPO))
    assert checkpoint.info is not None
    assert checkpoint.info.name == "valley2-dpo"
    assert same_files(checkpoint.folder, published)
    assert {path.name for path in checkpoint.folder.iterdir()} == NEEDED | {FIRST, SECOND}
    assert hub.files_fetched() == NEEDED | {FIRST, SECOND}
    total = sum((published / name).stat().st_size for name in (FIRST, SECOND))
    progress = [stage for stage in stages if stage.name == "downloading weights"]
    assert progress[-1] == Stage("downloading weights", total, total, "bytes")
    assert [stage.done for stage in progress] == sorted(stage.done for stage in progress)
    assert capfd.readouterr() == ("", "")


def test_a_whole_snapshot_is_used_without_a_single_request(hub: HubServer, cache: Path) -> None:
    first = get(hub, cache)
    hub.seen.clear()
    assert get(hub, cache) == first
    assert get(hub, cache, revision=first.revision) == first
    assert get(hub, cache, model=DPO.lower(), offline=True) == first
    assert hub.seen == []


def test_the_cache_is_the_one_other_tools_read(hub: HubServer, cache: Path) -> None:
    from huggingface_hub import scan_cache_dir, try_to_load_from_cache

    checkpoint = get(hub, cache)
    assert try_to_load_from_cache(DPO, FIRST, cache_dir=cache) == str(checkpoint.folder / FIRST)
    assert [(repo.repo_id, repo.nb_files) for repo in scan_cache_dir(cache).repos] == [(DPO, 6)]
    assert not scan_cache_dir(cache).warnings


def test_a_cut_connection_is_taken_up_again_where_it_broke(hub: HubServer, cache: Path, published: Path) -> None:
    hub.breaks[FIRST] = [3 * MEGABYTE // 2, MEGABYTE + 10]
    assert same_files(get(hub, cache).folder, published)
    assert [seen.range for seen in hub.bodies(FIRST)] == [None, f"bytes={MEGABYTE}-", f"bytes={2 * MEGABYTE}-"]


def test_a_server_without_ranges_still_gives_the_right_file(hub: HubServer, cache: Path, published: Path) -> None:
    hub.breaks[FIRST] = [2 * MEGABYTE]
    hub.ranges = False
    assert same_files(get(hub, cache).folder, published)


def test_a_failed_download_keeps_what_it_has_and_the_old_ref(hub: HubServer, cache: Path, published: Path) -> None:
    hub.breaks[FIRST] = [2 * MEGABYTE]
    hub.refusals["/cdn/.*" + SECOND] = (403, "")
    with pytest.raises(ModelError, match="403"):
        get(hub, cache)
    with pytest.raises(ModelError, match="not in the cache"):
        get(hub, cache, offline=True)
    hub.refusals.clear()
    hub.seen.clear()
    hub.breaks.clear()
    assert same_files(get(hub, cache).folder, published)
    assert hub.files_fetched() == {FIRST, SECOND}, "small files are not fetched twice"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_download_is_resumed_by_the_next_process(
    hub: HubServer, cache: Path, published: Path, how: signal.Signals
) -> None:
    hub.stall_after = 2 * MEGABYTE
    partial = cache / "models--bytedance-research--Valley2-DPO/blobs"
    partial /= hashlib.sha256((published / FIRST).read_bytes()).hexdigest() + ".incomplete"
    code = f"from valley_cli.engine.hub.resolve import resolve_checkpoint as r; r({DPO!r})"
    env = {**os.environ, "HF_HUB_CACHE": str(cache), "HF_ENDPOINT": hub.endpoint}
    with subprocess.Popen([sys.executable, "-c", code], env=env, stderr=subprocess.DEVNULL) as child:
        give_up = time.monotonic() + 30
        while not (partial.exists() and partial.stat().st_size >= MEGABYTE) and time.monotonic() < give_up:
            time.sleep(0.02)
        child.send_signal(how)
        child.wait(timeout=5)  # at once, though the server says nothing more for ever
    hub.stall_after = None
    hub.seen.clear()
    assert same_files(get(hub, cache).folder, published)
    assert hub.bodies(FIRST)[0].range in (f"bytes={MEGABYTE}-", f"bytes={2 * MEGABYTE}-")


def test_two_downloads_at_once_fetch_the_weights_once(hub: HubServer, cache: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(lambda _: get(hub, cache), range(2))
    assert one == other
    assert len(hub.bodies(FIRST)) == 1


def test_a_disk_that_is_too_small_is_said_with_numbers(hub: HubServer, cache: Path) -> None:
    hub.claimed_bytes[FIRST] = 10**18
    with pytest.raises(ModelError, match=r"1000000000.0 GB more are needed in .*, \d+\.\d [GM]B are free") as caught:
        get(hub, cache)
    assert "HF_HOME" in (caught.value.hint or "")
    assert not hub.bodies(FIRST)


def test_damaged_bytes_never_reach_the_cache(hub: HubServer, cache: Path) -> None:
    hub.corrupt.add(SECOND)
    with pytest.raises(ModelError, match="sha256"):
        get(hub, cache)
    hub.corrupt.clear()
    assert find_fault(get(hub, cache).folder) is None


@pytest.mark.parametrize("damage", ["shard missing", "shard cut", "config missing", "index missing", "index cut"])
def test_a_damaged_snapshot_is_repaired_online_and_named_offline(
    hub: HubServer, cache: Path, published: Path, damage: str
) -> None:
    folder = get(hub, cache).folder
    names = {"shard": SECOND, "config": "config.json", "index": "model.safetensors.index.json"}
    victim = folder / names[damage.split()[0]]
    if damage.endswith("cut"):
        os.truncate(victim.resolve(), 20)
    else:
        victim.resolve().unlink()
    with pytest.raises(ModelError, match=f"not whole in the cache .*{victim.name}"):
        get(hub, cache, offline=True)
    hub.seen.clear()
    assert same_files(get(hub, cache).folder, published)
    assert hub.files_fetched() == {victim.name}


def test_a_newer_commit_is_fetched_on_refresh_only(
    hub: HubServer, cache: Path, published: Path, tmp_path: Path
) -> None:
    old = get(hub, cache)
    newer = shutil.copytree(published, tmp_path / "newer")
    (newer / "chat_template.jinja").write_text("new")
    hub.repos[DPO] = newer
    assert get(hub, cache) == old
    hub.seen.clear()
    new = get(hub, cache, refresh=True)
    assert new.revision != old.revision
    assert (new.folder / "chat_template.jinja").read_text() == "new"
    assert hub.bodies(FIRST) == [], "unchanged weights are shared between snapshots"
    assert get(hub, cache) == new


def test_a_branch_falls_back_to_the_cache_when_the_hub_fails(hub: HubServer, cache: Path) -> None:
    first = get(hub, cache, revision="v1")
    hub.refusals["."] = (503, "")
    stages: list[Stage] = []
    assert get(hub, cache, revision="v1", on_stage=stages.append) == first
    assert "does not answer" in stages[-1].name
    with pytest.raises(ModelError, match="503"):
        get(hub, cache, revision="v1", refresh=True)


def test_the_second_repo_id_is_tried_if_the_first_does_not_exist(hub: HubServer, cache: Path, published: Path) -> None:
    hub.repos = {"bytedance-research/Valley3": published}
    checkpoint = get(hub, cache, model="valley2.5")
    assert checkpoint.name == "valley2.5"
    assert "Valley3" in str(checkpoint.folder)
    asked = [seen.path for seen in hub.seen if seen.path.startswith("/api/")]
    assert asked == ["/api/models/bytedance-research/Valley2.5", "/api/models/bytedance-research/Valley3"]


@pytest.mark.parametrize(
    ("refusal", "message", "hint"),
    [
        (("/api/", 404, "RepoNotFound"), "there is no bytedance-research/Valley2-DPO", "did you mean valley2-dpo"),
        (("/api/", 401, "RepoNotFound"), "or it is private", "did you mean"),
        (("/api/", 401, ""), "refuses .* \\(401\\)", "HF_TOKEN"),
        (("config.json", 401, "GatedRepo"), "is gated", "HF_TOKEN"),
        (("/api/", 500, ""), "answers 500", "HF_ENDPOINT"),
    ],
)
def test_each_refusal_says_what_to_do(
    hub: HubServer, cache: Path, refusal: tuple[str, int, str], message: str, hint: str
) -> None:
    hub.refusals[refusal[0]] = refusal[1:]
    with pytest.raises(ModelError, match=message) as caught:
        get(hub, cache)
    assert caught.value.exit_code == 5
    assert hint in (caught.value.hint or "")


def test_an_unknown_revision_and_a_wrong_one_are_told_apart(hub: HubServer, cache: Path) -> None:
    with pytest.raises(ModelError, match="no revision 'nightly'"):
        get(hub, cache, revision="nightly")
    with pytest.raises(UsageError):
        get(hub, cache, revision="../../etc")


def test_other_models_are_refused_before_their_weights_are_fetched(
    hub: HubServer, cache: Path, published: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(published, tmp_path / "other")
    (other / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    pickled = shutil.copytree(published, tmp_path / "pickled", ignore=shutil.ignore_patterns("*.safetensors*"))
    hub.repos |= {"org/other": other, "org/pickled": pickled}
    with pytest.raises(ModelError, match="LlamaForCausalLM"):
        get(hub, cache, model="org/other")
    with pytest.raises(ModelError, match=r"no \*.safetensors"):
        get(hub, cache, model="org/pickled")
    assert not hub.bodies(FIRST)


def test_without_a_network_only_what_is_downloaded_runs(published: Path, cache: Path) -> None:
    with HubServer({DPO: published}) as hub:
        whole = get(hub, cache)
    assert get(hub, cache) == whole
    with pytest.raises(ModelError, match=r"could not be downloaded .*refused") as caught:
        get(hub, cache, model="valley2")
    assert "HF_ENDPOINT" in (caught.value.hint or "")
    assert caught.value.exit_code == 5


def test_folders_are_taken_as_they_are_and_faults_are_named(published: Path, tmp_path: Path) -> None:
    assert resolve_checkpoint(str(published)) == Checkpoint(published, None, str(published))
    with pytest.raises(UsageError, match="revision does not apply"):
        resolve_checkpoint(str(published), revision="main")
    with pytest.raises(ModelError, match="there is no folder"):
        resolve_checkpoint("./nowhere")
    for name in ("config.json", "tokenizer.json", SECOND):
        folder = shutil.copytree(published, tmp_path / f"without-{name}")
        (folder / name).unlink()
        with pytest.raises(ModelError, match=f"{name}.* is missing"):
            resolve_checkpoint(str(folder))
    outside = shutil.copytree(published, tmp_path / "outside")
    (outside / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": f"../published/{FIRST}"}}))
    with pytest.raises(ModelError, match=r"outside is not a checkpoint: .* names files outside the folder"):
        resolve_checkpoint(str(outside))
    torn = shutil.copytree(published, tmp_path / "torn")
    os.truncate(torn / FIRST, 2 * MEGABYTE)
    with pytest.raises(ModelError, match=r"not whole \(2,097,152 of 3,"):
        resolve_checkpoint(str(torn))


@pytest.mark.parametrize("model", ["valley2-dop", "", "a/b/c", "--flag/x", "name\x1b[31m", "x" * 300])
def test_a_name_that_is_nothing_ends_in_a_hint(model: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        resolve_checkpoint(model, cache_dir=tmp_path, endpoint="http://127.0.0.1:9")
    assert "known names: valley2, valley2-dpo" in (caught.value.hint or "")
    assert "\x1b" not in caught.value.message


def test_the_environment_is_honoured_stderr_stays_clean_and_importing_is_light(hub: HubServer, tmp_path: Path) -> None:
    code = """
import json, sys, valley_cli.engine.hub.resolve as hub
heavy = [name for name in ("huggingface_hub", "requests", "httpx2", "numpy", "torch") if name in sys.modules]
assert not heavy, heavy
print(hub.resolve_checkpoint("valley2-dpo").folder)
try:
    hub.resolve_checkpoint("valley2")
except hub.ModelError as error:
    print(error.message)
"""
    env = {**os.environ, "HF_HOME": str(tmp_path), "HF_ENDPOINT": hub.endpoint, "HF_TOKEN": "hf_secret"}
    env |= {"HF_HUB_ENABLE_HF_TRANSFER": "1", "HF_HUB_OFFLINE": "0"}
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        env.pop(variable, None)
    online = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert (online.returncode, online.stderr) == (0, "")
    assert online.stdout.startswith(str(tmp_path / "hub"))
    assert "there is no bytedance-research/Valley-Eagle" in online.stdout
    assert {seen.token for seen in hub.seen if not seen.path.startswith("/cdn/")} == {"Bearer hf_secret"}
    assert {seen.token for seen in hub.seen if seen.path.startswith("/cdn/")} == {None}
    hub.seen.clear()
    offline = subprocess.run(
        [sys.executable, "-c", code], env=env | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, timeout=60
    )
    assert (offline.returncode, offline.stderr, hub.seen) == (0, "", [])
    assert "valley is offline" in offline.stdout
