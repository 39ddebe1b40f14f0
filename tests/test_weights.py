"""Checkpoints in every published layout load; damaged ones say what is wrong."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.commands import inside
from tests.conftest import IMAGES, VALLEY2, VALLEY25
from valley_cli.api import Stage
from valley_cli.engine.checkpoint.headers import DTYPE_BYTES, read_header, tensor_index
from valley_cli.engine.checkpoint.mapped import DTYPES, MappedTensors
from valley_cli.engine.checkpoint.tokenizer import load_tokenizer
from valley_cli.engine.families.valley.config import SIGLIP_PREFIX
from valley_cli.engine.families.valley.opened import read_checkpoint
from valley_cli.engine.families.valley.weights import load_model, map_model
from valley_cli.engine.hub.snapshot import find_fault
from valley_cli.engine.run.runner import Runner
from valley_cli.engine.schedule.slots import Slot
from valley_cli.errors import ModelError, WeightsError

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(VALLEY2, tmp_path / "checkpoint"))


def rewrite(folder: Path, tensors: dict[str, torch.Tensor], shards: int = 1) -> None:
    """Save ``tensors`` as one file, or as shards with an index."""
    (folder / "model.safetensors").unlink(missing_ok=True)
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return
    weight_map: dict[str, str] = {}
    for shard in range(shards):
        name = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {key: tensors[key] for key in sorted(tensors)[shard::shards]}
        save_file(part, folder / name)
        weight_map |= dict.fromkeys(part, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def load(folder: Path) -> Any:
    return load_model(read_checkpoint(folder), CPU, torch.float32)


def test_shards_with_an_index_equal_a_single_file(folder: Path) -> None:
    whole = load(folder).state_dict()
    rewrite(folder, tensors_of(folder), shards=3)
    sharded = load(folder).state_dict()
    assert whole.keys() == sharded.keys()
    assert all(torch.equal(whole[name], sharded[name]) for name in whole)


def test_unused_tensors_are_ignored_by_name(folder: Path) -> None:
    tensors = tensors_of(folder)
    assert any(".head." in name for name in tensors)
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(4)
    rewrite(folder, tensors)
    assert not any(".head." in name for name in load(folder).state_dict())


def test_missing_unexpected_and_misshapen_tensors_are_all_listed(folder: Path) -> None:
    tensors = tensors_of(folder)
    tensors["model.surprise.weight"] = torch.zeros(2)
    del tensors["model.layers.1.mlp.down_proj.weight"]
    tensors["model.norm.weight"] = torch.zeros(3)
    rewrite(folder, tensors)
    with pytest.raises(WeightsError) as caught:
        load(folder)
    for words in (
        "missing: model.layers.1.mlp.down_proj.weight",
        "unexpected: model.surprise.weight",
        "misshapen: model.norm.weight is [3], expected [64]",
    ):
        assert words in caught.value.message


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "header"])
def test_a_damaged_file_is_a_weights_error(folder: Path, damage: str) -> None:
    path = folder / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(
        {"cut": data[:-7], "empty": b"", "text": b"not weights" * 9, "header": b"\xff" * 8 + data[8:]}[damage]
    )
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        load(folder)


def test_a_missing_shard_is_named(folder: Path) -> None:
    rewrite(folder, tensors_of(folder), shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ModelError, match="model-00002-of-00003"):
        load(folder)


def test_a_silent_config_is_completed_from_the_weights(folder: Path) -> None:
    full = read_checkpoint(folder).config
    config = json.loads((folder / "config.json").read_text())
    silent: tuple[str, ...] = (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_key_value_heads",
        "vocab_size",
    )
    silent += (
        "vocab_size",
        "mm_projector_type",
        "mlp_hidden_dim",
        "mm_hidden_size",
        "eagle_vision_tower",
        "tie_word_embeddings",
    )
    for name in silent:
        config.pop(name, None)
    (folder / "config.json").write_text(json.dumps(config))
    assert read_checkpoint(folder).config == full


def test_the_valley25_shape_is_read_from_its_weights() -> None:
    config = read_checkpoint(VALLEY25).config
    assert config.family == "valley2.5"
    assert config.siglip is None
    assert config.vit is not None
    assert config.vit.merger_dim == 512
    assert config.text.qk_norm
    assert (config.text.head_dim, config.text.num_attention_heads) == (32, 4)


def test_vocab_and_merges_give_the_ids_of_tokenizer_json(folder: Path) -> None:
    texts = [
        "Hello  world\n\n",
        "don't 12345 <im_start><image><im_end>",
        "谷 naïve e\u0301 🙂",
        "<\\cor></cor> <SUMMARY>",
    ]
    fast = load_tokenizer(folder)
    (folder / "tokenizer.json").unlink()
    slow = load_tokenizer(folder)
    assert [slow.encode(text) for text in texts] == [fast.encode(text) for text in texts]
    (folder / "tokenizer_config.json").unlink()  # added_tokens.json alone
    assert [load_tokenizer(folder).encode(text) for text in texts] == [fast.encode(text) for text in texts]


def test_no_tokenizer_at_all_is_a_model_error(folder: Path) -> None:
    for name in ("tokenizer.json", "vocab.json"):
        (folder / name).unlink()
    with pytest.raises(ModelError, match="no tokenizer"):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rope_scaling", {"type": "yarn", "factor": 4}),
        ("mm_use_im_start_end", True),
        ("mm_projector_type", "abracadabra"),
        ("tokenize_function", "gumbel_argmax"),
    ],
)
def test_what_no_published_model_has_is_refused(folder: Path, key: str, value: object) -> None:
    with pytest.raises(ModelError, match=r"rotary|start_end|abracadabra|gumbel"):
        read_checkpoint(folder, {key: value})


def test_half_precision_checkpoints_are_widened_for_a_small_model_on_cpu(folder: Path) -> None:
    from valley_cli.engine.device.probe import default_dtype

    rewrite(folder, {name: tensor.half() for name, tensor in tensors_of(folder).items()})
    files = read_checkpoint(folder)
    assert default_dtype(False, files.stored_dtype, files.weight_bytes) == "float32"
    assert {p.dtype for p in load(folder).parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("key", "count"), [("num_hidden_layers", 3), ("siglip_vision_config", 2), ("qwen2vl_vision_config", 2)]
)
def test_a_config_that_contradicts_the_number_of_layers_is_refused(folder: Path, key: str, count: int) -> None:
    config = json.loads((folder / "config.json").read_text())
    inner = "depth" if key == "qwen2vl_vision_config" else "num_hidden_layers"
    wrong = count + 1 if key == inner else config[key] | {inner: count + 1}
    with pytest.raises(ModelError, match=rf"says {count + 1} layers, the weights have {count} \("):
        read_checkpoint(folder, {key: wrong})


def test_a_tensor_that_is_not_as_long_as_its_shape_is_damage(folder: Path) -> None:
    path = folder / "model.safetensors"
    data = path.read_bytes()
    assert b'"shape":[64]' in data
    path.write_bytes(data.replace(b'"shape":[64]', b'"shape":[63]', 1))
    with pytest.raises(WeightsError, match="damaged"):
        read_checkpoint(folder)


def retype(path: Path, prefix: str, dtype: str, value_bytes: float) -> None:
    """Rewrite a file so that its tensors under ``prefix`` are zeros of ``dtype``, as safetensors spells it."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header, parts, end = json.loads(data[8 : 8 + length]), [], 0
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        first, last = (8 + length + offset for offset in entry["data_offsets"])
        part = data[first:last]
        if name.startswith(prefix):
            entry["dtype"], part = dtype, bytes(int(value_bytes * math.prod(entry["shape"])))
        entry["data_offsets"], end = [end, end + len(part)], end + len(part)
        parts.append(part)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(parts))


ODD_TYPES = [("F8_E4M3", 1), ("F8_E5M2", 1), ("F8_E8M0", 1), ("F4", 0.5), ("F6_E2M3", 0.75)]
ODD_TYPES += [("U16", 2), ("U32", 4), ("U64", 8), ("C64", 8), ("NEW", 3)]


@pytest.mark.parametrize(("dtype", "value_bytes"), ODD_TYPES)
def test_a_type_that_nothing_computes_with_is_named_before_anything_is_priced(
    folder: Path, capsys: pytest.CaptureFixture[str], dtype: str, value_bytes: float
) -> None:
    path = folder / "model.safetensors"
    retype(path, f"{SIGLIP_PREFIX}head.", dtype, value_bytes)
    assert find_fault(folder) is None
    load(folder)  # that part is not needed
    retype(path, "model.layers.1.mlp.", dtype, value_bytes)
    assert find_fault(folder) is None  # whole: it would not get better by being fetched again
    assert inside("describe", str(IMAGES / "m0_64x64.png"), "-m", str(folder), "--dry-run") == 5
    captured = capsys.readouterr()
    assert f"model.safetensors holds tensors of type {dtype}, which valley cannot compute with" in captured.err
    assert "bfloat16" in captured.err
    assert captured.out == ""


def test_every_type_that_is_computed_with_can_be_mapped() -> None:
    assert {name: dtype.itemsize for name, dtype in DTYPES.items()} == DTYPE_BYTES


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loading_reports_every_byte_once_and_as_it_comes(folder: Path, dtype: torch.dtype) -> None:
    stages: list[Stage] = []
    files = read_checkpoint(folder)
    model, mapped = map_model(files, CPU, dtype, stages.append)
    Runner(model, CPU, mapped=mapped)
    done = [stage.done for stage in stages]
    assert {stage.name for stage in stages} == {"loading weights"}
    assert done == sorted(done)
    assert done[-1] == stages[-1].total
    assert len(done) > 40


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("run_as", [torch.float32, torch.bfloat16])
def test_what_is_converted_late_equals_what_is_converted_first(
    folder: Path, stored: torch.dtype, run_as: torch.dtype
) -> None:
    rewrite(folder, {name: tensor.to(stored) for name, tensor in tensors_of(folder).items()}, shards=2)
    files = read_checkpoint(folder)
    model, mapped = map_model(files, CPU, run_as)
    late, first = Runner(model, CPU, mapped=mapped), Runner(load_model(files, CPU, run_as), CPU)
    logits = []
    for runner in (late, first):
        runner.resize(64)
        logits.append(runner.prefill(Slot(0, 64), runner.embed_prompt(range(10), ())))
    assert logits[0].dtype == run_as
    assert torch.equal(logits[0], logits[1])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux says how much of a file is in memory")
def test_what_was_copied_takes_no_memory_any_more(tmp_path: Path) -> None:
    save_file({name: torch.ones(16_000_000, dtype=torch.uint8) for name in "abcd"}, tmp_path / "model.safetensors")
    tensors = tensor_index(tmp_path)
    mapped = MappedTensors(tensors, sorted(tensors))

    def resident() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssFile:"))

    before = resident()
    assert all(int(view.sum()) == 16_000_000 for view in mapped.views.values())
    assert resident() - before > 60_000_000
    mapped.release([mapped.views["a"], mapped.views["b"], mapped.views["c"]])
    assert resident() - before < 20_000_000
    assert mapped.kept_bytes == 16_000_000
    assert int(mapped.views["a"].sum()) == 16_000_000  # it comes back when it is looked at


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]},
        {"dtype": "F32", "shape": [-1, -2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2.0], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0.0, 8.0]},
        {"dtype": "F8_E4M3", "shape": ["x"], "data_offsets": [0, 8]},
        {"dtype": None, "shape": [2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [10**300] * 400, "data_offsets": [0, 8]},
    ],
    ids=["before the data", "negative shape", "float shape", "float place", "text shape", "no type", "huge"],
)
def test_a_header_that_makes_no_sense_is_damage(tmp_path: Path, entry: dict[str, object]) -> None:
    text = json.dumps({"a": entry})
    file = tmp_path / "model.safetensors"
    file.write_bytes(len(text).to_bytes(8, "little") + text.encode() + bytes(8))
    with pytest.raises(WeightsError, match="is damaged"):
        read_header(file)
