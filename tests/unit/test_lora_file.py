"""The LoRA file: keys, numbers and metadata as other tools read them, and what a full disk does to it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_parts
import torch
from pack.trainer.adapters.adapters import Adapters, add_adapters
from pack.trainer.dataset.samples import Dataset, Sample
from pack.trainer.errors import LoraFileError, NameTaken
from pack.trainer.lora.file import hashes, lora_tensors, read_lora, read_metadata, save_lora
from pack.trainer.lora.header import MAX_HEADER
from pack.trainer.lora.metadata import RunFacts, lora_metadata
from pack.trainer.runs.run import train
from pack.trainer.sdxl.base_hashes import BaseHashes
from pack.trainer.settings.options import AdapterSettings
from pack.trainer.settings.training import thesis_settings
from pack.trainer.training.batches import steps_per_epoch

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


@pytest.fixture(scope="module")
def adapters() -> Adapters:
    adapters = add_adapters(tiny_parts.make_parts(), tiny_parts.make_settings(rank=4, alpha=2.0))
    tiny_parts.randomize(adapters)
    return adapters


@pytest.mark.parametrize("precision", DTYPES)
def test_each_adapted_layer_is_three_tensors_in_the_precision_asked_for(adapters: Adapters, precision: str) -> None:
    tensors = lora_tensors(adapters, precision)
    assert len(tensors) == 3 * len(adapters.modules)
    assert {tensor.dtype for tensor in tensors.values()} == {DTYPES[precision]}
    for module in adapters.modules:
        assert tensors[f"{module.name}.alpha"].shape == ()
        assert tensors[f"{module.name}.alpha"].item() == 2.0
        assert torch.equal(tensors[f"{module.name}.lora_down.weight"], module.down.to(DTYPES[precision]))
        assert torch.equal(tensors[f"{module.name}.lora_up.weight"], module.up.to(DTYPES[precision]))


def test_the_files_tensors_are_copies(adapters: Adapters) -> None:
    module = adapters.modules[0]
    kept = lora_tensors(adapters, "fp32")[f"{module.name}.lora_up.weight"]
    assert kept.data_ptr() != module.up.data_ptr()


def test_what_is_written_is_read_again(adapters: Adapters, tmp_path: Path) -> None:
    tensors = lora_tensors(adapters, "fp16")
    save_lora(tmp_path / "loras" / "a.safetensors", tensors, {"ss_steps": "4", "title": "\u010d\u017e\u0161 \u6708"})
    tiny_parts.assert_same(read_lora(tmp_path / "loras" / "a.safetensors"), tensors)
    metadata = read_metadata(tmp_path / "loras" / "a.safetensors")
    assert metadata["title"] == "\u010d\u017e\u0161 \u6708"


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="looks at /proc")
def test_a_lora_that_was_read_is_not_held_open(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_lora(path, big_tensors(), {})
    tensors = read_lora(path)
    assert str(path) not in Path("/proc/self/maps").read_text()
    tiny_parts.assert_same(tensors, big_tensors())


def big_tensors() -> dict[str, torch.Tensor]:
    """A little over 2 MiB, so that the 64 KiB at 1 MiB exist."""
    generator = torch.Generator().manual_seed(0)
    return {f"lora_{i}.lora_up.weight": torch.randn(300, 1000, generator=generator).half() for i in range(4)}


def header_of(data: bytes) -> tuple[dict[str, object], bytes]:
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def test_the_model_hash_is_that_of_the_bytes_behind_the_header(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_lora(path, big_tensors(), {"ss_steps": "4", "modelspec.title": "a"})
    _, body = header_of(path.read_bytes())
    assert read_metadata(path)["sshs_model_hash"] == hashlib.sha256(body).hexdigest()


def test_the_legacy_hash_is_that_of_64_kib_of_the_file_with_kohyas_entries_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_lora(path, big_tensors(), {"ss_steps": "4", "ss_seed": "0", "modelspec.title": "a"})
    header, body = header_of(path.read_bytes())
    header["__metadata__"] = {k: v for k, v in header["__metadata__"].items() if k.startswith("ss_")}
    text = json.dumps(header, separators=(",", ":")).encode()
    # safetensors pads its header to 8 bytes
    offset = 0x100000 - 8 - (len(text) + 7) // 8 * 8
    expected = hashlib.sha256(body[offset : offset + 0x10000]).hexdigest()[:8]
    assert read_metadata(path)["sshs_legacy_hash"] == expected


def test_the_hashes_tell_weights_apart_and_do_not_depend_on_foreign_entries() -> None:
    tensors = big_tensors()
    plain = hashes(tensors, {"ss_steps": "4"})
    assert hashes(tensors, {"ss_steps": "4", "modelspec.title": "another"}) == plain
    changed = {**tensors, "lora_1.lora_up.weight": tensors["lora_1.lora_up.weight"] + 1}
    assert all(hashes(changed, {"ss_steps": "4"})[name] != value for name, value in plain.items())


# what other tools read; kohya-ss/sd-scripts writes them in train_network.py and sai_model_spec.py
KEYS = [
    "ss_session_id", "ss_training_started_at", "ss_training_finished_at", "ss_output_name", "ss_learning_rate",
    "ss_text_encoder_lr", "ss_unet_lr", "ss_num_train_images", "ss_num_reg_images", "ss_num_batches_per_epoch",
    "ss_num_epochs", "ss_epoch", "ss_steps", "ss_gradient_checkpointing", "ss_gradient_accumulation_steps",
    "ss_max_train_steps", "ss_lr_warmup_steps", "ss_lr_scheduler", "ss_network_module", "ss_network_dim",
    "ss_network_alpha", "ss_network_dropout", "ss_mixed_precision", "ss_full_fp16", "ss_v2",
    "ss_base_model_version", "ss_clip_skip", "ss_max_token_length", "ss_cache_latents", "ss_seed",
    "ss_noise_offset", "ss_min_snr_gamma", "ss_loss_type", "ss_optimizer", "ss_max_grad_norm",
    "ss_batch_size_per_device", "ss_resolution", "ss_enable_bucket", "ss_bucket_no_upscale", "ss_min_bucket_reso",
    "ss_max_bucket_reso", "ss_dataset_dirs", "ss_tag_frequency", "ss_bucket_info", "ss_sd_model_name",
    "ss_reg_dataset_dirs", "ss_sd_model_hash", "ss_new_sd_model_hash",
    "modelspec.sai_model_spec", "modelspec.architecture", "modelspec.title", "modelspec.date",
    "modelspec.resolution", "modelspec.prediction_type", "modelspec.timestep_range",
]  # fmt: skip


def metadata_of_a_run() -> dict[str, str]:
    examples = tiny_parts.make_examples(3)
    dataset = Dataset(tuple(example.sample for example in examples), (), "/nowhere")
    per_epoch = steps_per_epoch([e.placement.bucket for e in examples], [1, 1, 1], 1)
    hashes = {"ss_sd_model_hash": "12345678", "ss_new_sd_model_hash": "ab" * 32}
    facts = RunFacts("ab" * 32, "mjesec", "base.safetensors", 1.5e9, 1.5e9 + 60, 4, 2, 2, per_epoch, "epsilon", hashes)
    return lora_metadata(thesis_settings(steps=4), dataset, examples, facts)


def test_the_metadata_are_strings_and_none_that_tools_read_is_missing() -> None:
    metadata = metadata_of_a_run()
    assert [key for key in KEYS if key not in metadata] == []
    assert all(isinstance(value, str) for value in metadata.values())


@pytest.mark.parametrize(
    ("key", "value"),
    {
        "ss_network_module": "networks.lora",
        "ss_network_dim": "32",
        "ss_network_alpha": "8.0",
        "ss_base_model_version": "sdxl_base_v1-0",
        "ss_v2": "False",
        "ss_steps": "4",
        "ss_epoch": "2",
        "ss_num_train_images": "3",
        "ss_mixed_precision": "fp16",
        "ss_lr_scheduler": "adafactor:0.0001",
        "ss_learning_rate": "None",
        "ss_unet_lr": "None",
        "ss_text_encoder_lr": "None",
        "ss_resolution": "(1024, 1024)",
        "ss_sd_model_name": "base.safetensors",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
        "modelspec.title": "mjesec",
        "modelspec.date": "2017-07-14T02:41:00",
        "modelspec.resolution": "1024x1024",
        "modelspec.prediction_type": "epsilon",
        "modelspec.timestep_range": "0,1000",
    }.items(),
)
def test_metadata_say_what_kohya_says(key: str, value: str) -> None:
    assert metadata_of_a_run()[key] == value


@pytest.mark.parametrize("rank_stabilized", [False, True])
@pytest.mark.parametrize("initial", ["kaiming", "pissa"])
def test_rank_and_alpha_are_those_of_the_files_tensors(initial: str, rank_stabilized: bool, tmp_path: Path) -> None:
    adapter = AdapterSettings(initial=initial, rank_stabilized=rank_stabilized, conv_rank=3, conv_alpha=2.0)
    settings = tiny_parts.make_settings(steps=1, train="unet", rank=4, alpha=6.0, adapter=adapter)
    path = train(tiny_parts.make_job(tmp_path, settings)).path
    metadata, tensors = read_metadata(path), read_lora(path)
    arguments = json.loads(metadata["ss_network_args"])
    plain = int(metadata["ss_network_dim"]), float(metadata["ss_network_alpha"])
    wide = int(arguments["conv_dim"]), float(arguments["conv_alpha"])
    for name, down in tensors.items():
        if name.endswith(".lora_down.weight"):
            rank, alpha = wide if down.shape[2:] == (3, 3) else plain
            assert down.shape[0] == rank
            told = tensors[f"{name.removesuffix('.lora_down.weight')}.alpha"].item() / rank
            assert told == pytest.approx(alpha / (rank**0.5 if "rs_lora" in arguments else rank))


def test_structured_metadata_are_json() -> None:
    metadata = metadata_of_a_run()
    assert json.loads(metadata["ss_bucket_info"])["buckets"]["0"] == {"resolution": [64, 64], "count": 3}
    assert json.loads(metadata["ss_tag_frequency"]) == {"nowhere": {f"moon number {i}": 1 for i in range(3)}}
    assert json.loads(metadata["ss_dataset_dirs"]) == {"nowhere": {"n_repeats": 1, "img_count": 3}}


def test_folders_and_tags_are_counted_as_kohya_counts_them() -> None:
    def sample(path: str, caption: str, repeats: int, prior: bool = False) -> Sample:
        return Sample(path, caption, 64, 64, repeats, path, regularisation=prior)

    samples = (
        sample("/a/10_moon/0.png", "Moon, night,", 10),
        sample("/a/10_moon/1.png", "moon", 10),
        sample("/b/10_moon/0.png", "sea", 10),
        sample("/b/1_sky/0.png", "sky", 1, True),
    )
    examples = tiny_parts.make_examples(1)
    facts = RunFacts("ab" * 32, "mjesec", "base.safetensors", 1.5e9, 1.5e9, 4, 2, 2, 4, "epsilon")
    metadata = lora_metadata(thesis_settings(steps=4), Dataset(samples, (), "/"), examples, facts)
    assert json.loads(metadata["ss_dataset_dirs"]) == {
        "10_moon": {"n_repeats": 10, "img_count": 2}, "10_moon (2)": {"n_repeats": 10, "img_count": 1},
    }  # fmt: skip
    assert json.loads(metadata["ss_reg_dataset_dirs"]) == {"1_sky": {"n_repeats": 1, "img_count": 1}}
    assert json.loads(metadata["ss_tag_frequency"]) == {
        "10_moon": {"moon": 2, "night": 1}, "10_moon (2)": {"sea": 1}, "1_sky": {"sky": 1},
    }  # fmt: skip
    # where the file is not known, nothing is said of it
    assert "ss_sd_model_hash" not in metadata


def test_the_hashes_of_the_base_are_those_that_tools_look_up(tmp_path: Path) -> None:
    content = bytes(range(256)) * 6000
    base = tmp_path / "base.safetensors"
    base.write_bytes(content)
    wanted = {
        "ss_sd_model_hash": hashlib.sha256(content[0x100000:0x110000]).hexdigest()[:8],
        "ss_new_sd_model_hash": hashlib.sha256(content).hexdigest(),
    }
    for _ in range(2):
        hashes = BaseHashes(base, tmp_path / "hashes")
        hashes.begin()
        assert hashes.get() == wanted
    # once is enough: the same path, size and time are not read again
    (kept,) = (tmp_path / "hashes").iterdir()
    kept.write_text('{"ss_sd_model_hash": "kept"}')
    again = BaseHashes(base, tmp_path / "hashes")
    again.begin()
    assert again.get() == {"ss_sd_model_hash": "kept"}
    base.write_bytes(content + b"more")
    edited = BaseHashes(base, tmp_path / "hashes")
    edited.begin()
    assert edited.get()["ss_new_sd_model_hash"] == hashlib.sha256(content + b"more").hexdigest()


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A checkpoint that is being read for as long as the test lasts."""
    read = threading.Event()
    monkeypatch.setattr(BaseHashes, "_read", lambda self: read.wait(60))
    yield
    read.set()


@pytest.mark.usefixtures("slow_disk")
def test_whoever_waits_for_the_hashes_of_the_base_may_cancel(tmp_path: Path) -> None:
    told = []

    def on_wait(done: int, total: int) -> None:
        told.append((done, total))
        if len(told) == 2:
            raise tiny_parts.Stop

    hashes = BaseHashes(None, tmp_path, on_wait)
    hashes.begin()
    with pytest.raises(tiny_parts.Stop):
        hashes.get()
    assert told == [(0, 1)] * 2


@pytest.mark.usefixtures("slow_disk")
def test_a_run_that_is_cancelled_while_it_waits_for_the_hashes_keeps_its_state(tmp_path: Path) -> None:
    log = tiny_parts.Log(stop_at_stage="hash of the checkpoint")
    with pytest.raises(tiny_parts.Stop):
        train(tiny_parts.make_job(tmp_path, tiny_parts.make_settings(steps=1, train="unet"), log))
    assert log.lines[-1] == "Stopped after step 1; queue again to go on from there."


def test_a_runs_file_says_which_checkpoint_it_was_trained_on(tmp_path: Path) -> None:
    base = tmp_path / "tiny.safetensors"
    base.write_bytes(b"a checkpoint")
    job = tiny_parts.make_job(tmp_path, tiny_parts.make_settings(steps=1, train="unet"))
    job.base = replace(job.base, file=base)
    written = read_metadata(train(job).path)
    assert written["ss_new_sd_model_hash"] == hashlib.sha256(b"a checkpoint").hexdigest()


def test_no_metadata_tell_where_the_users_folders_are() -> None:
    assert "/nowhere" not in json.dumps(metadata_of_a_run())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_never_saved(tmp_path: Path, value: float) -> None:
    path = tmp_path / "a.safetensors"
    save_lora(path, big_tensors(), {})
    before = path.read_bytes()
    with pytest.raises(LoraFileError, match=r"'a.safetensors' was not written: 'lora_x.lora_up.weight'"):
        save_lora(path, {"lora_x.lora_up.weight": torch.tensor([1.0, value])}, {})
    assert path.read_bytes() == before


def test_of_more_tags_than_a_header_holds_the_most_frequent_are_kept(tmp_path: Path) -> None:
    path, numbers = tmp_path / "a.safetensors", range(50_000)
    tags = {folder: {f'"{number}" ž': number for number in numbers if number % 2 == odd}
            for odd, folder in enumerate(("10_moon", "5_sea"))}  # fmt: skip
    metadata = {"ss_steps": "4", "ss_tag_frequency": json.dumps(tags, ensure_ascii=False), "modelspec.title": "a"}
    save_lora(path, big_tensors(), metadata)
    length = int.from_bytes(path.read_bytes()[:8], "little")
    assert 0.85 * MAX_HEADER < length <= MAX_HEADER
    written = read_metadata(path)
    kept = json.loads(written["ss_tag_frequency"])
    counts = sorted(count for of_folder in kept.values() for count in of_folder.values())
    assert counts == list(numbers[-len(counts) :])
    assert all(tags[folder][tag] == count for folder, of_folder in kept.items() for tag, count in of_folder.items())
    assert (written["ss_steps"], written["modelspec.title"]) == ("4", "a")
    # the hashes are those of the file as it is
    own = {name: value for name, value in written.items() if not name.startswith("sshs_")}
    assert hashes(big_tensors(), own) == {name: written[name] for name in written.keys() - own.keys()}


def test_tags_that_fit_are_all_kept(tmp_path: Path) -> None:
    tags = json.dumps({"10_moon": {f"tag {number}": 1 for number in range(20_000)}})
    save_lora(tmp_path / "a.safetensors", big_tensors(), {"ss_tag_frequency": tags})
    assert read_metadata(tmp_path / "a.safetensors")["ss_tag_frequency"] == tags


def test_a_number_too_large_for_the_files_precision_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoraFileError, match=r"too large for torch\.float16"):
        save_lora(tmp_path / "a.safetensors", {"x.alpha": torch.tensor(1e6).half()}, {})


@pytest.mark.parametrize("read", [read_lora, read_metadata])
@pytest.mark.parametrize("content", [b"", b"no safetensors", b"\xff" * 64], ids=["empty", "text", "huge header"])
def test_a_file_that_is_no_lora_is_refused_by_name(read: object, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    with pytest.raises(LoraFileError, match=re.escape(f"'{path}' is not a readable safetensors file")):
        read(path)


def refuse(*arguments: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_disk_that_is_full_at_the_last_moment_leaves_the_earlier_file(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.safetensors"
    save_lora(path, big_tensors(), {})
    before = path.read_bytes()
    monkeypatch.setattr(f"os.{call}", refuse)
    with pytest.raises(LoraFileError, match=r"No space left on device\): .* untouched; make room there and queue"):
        save_lora(path, {"x.alpha": torch.ones(1)}, {})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("times", [2, 99])
def test_a_file_that_somebody_has_open_on_windows_is_replaced_once_it_is_closed(
    times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, waits, refusals, rename = tmp_path / "a.safetensors", [], iter(range(times)), os.replace
    save_lora(path, big_tensors(), {})
    before = path.read_bytes()

    def locked(source: Path, target: Path) -> None:
        if next(refusals, None) is not None:
            raise PermissionError(errno.EACCES, "Access is denied")
        rename(source, target)

    monkeypatch.setattr(os, "replace", locked)
    monkeypatch.setattr("time.sleep", waits.append)
    if times == 2:
        save_lora(path, {"x.alpha": torch.ones(1)}, {})
        assert len(waits) == 2 and path.read_bytes() != before
        return
    with pytest.raises(LoraFileError, match=r"Access is denied\): .* untouched; see that the folder, or what"):
        save_lora(path, {"x.alpha": torch.ones(1)}, {})
    assert sum(waits) == pytest.approx(1, abs=0.2)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


LIMITED = """
import importlib.util, resource, signal, sys
from pathlib import Path
root, path = sys.argv[1:]
spec = importlib.util.spec_from_file_location('pack', root + '/__init__.py', submodule_search_locations=[root])
sys.modules['pack'] = importlib.util.module_from_spec(spec)
import torch
from safetensors.torch import save_file
from pack.trainer.errors import LoraFileError, NameTaken
from pack.trainer.files import write_atomically
from pack.trainer.lora.file import save_lora
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
big = {'a': torch.ones(1 << 16)}
for write in (
    lambda: save_lora(Path(path), big, {}),
    lambda: write_atomically(Path(path), lambda scratch: save_file(big, scratch)),
):
    try:
        write()
        print('written')
    except LoraFileError as error:
        print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the limit on a file's size is POSIX's")
def test_a_write_that_the_system_cuts_off_leaves_the_earlier_file_and_nothing_half_made(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_lora(path, {"x.alpha": torch.ones(1)}, {})
    before = path.read_bytes()
    root = str(Path(__file__).absolute().parents[2])
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, root, str(path)], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    lines = done.stdout.splitlines()
    # the LoRA and the run's state are written by different functions of safetensors
    assert len(lines) == 2
    assert all("'a.safetensors' could not be written" in line and "File too large" in line for line in lines), lines
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(LoraFileError, match="'a.safetensors' could not be written to .*file"):
        save_lora(tmp_path / "file" / "a.safetensors", big_tensors(), {})


CLAIMING = """
import importlib.util, os, sys
from pathlib import Path
root, folder, me, links = sys.argv[1:]
spec = importlib.util.spec_from_file_location('pack', root + '/__init__.py', submodule_search_locations=[root])
sys.modules['pack'] = importlib.util.module_from_spec(spec)
from pack.trainer.errors import NameTaken
from pack.trainer.files import write_atomically
def refused(*arguments):
    raise PermissionError(1, 'Operation not permitted')
if links == 'False':
    os.link = refused
os.fsync = lambda handle: None
print('ready', flush=True)
sys.stdin.readline()
for number in range(500):
    try:
        write_atomically(
            Path(folder, str(number)), lambda scratch: scratch.write_text(me), replaceable=lambda path: False
        )
        print(number)
    except NameTaken:
        pass
"""


@pytest.mark.parametrize("links", [True, False])
def test_of_two_processes_that_want_one_name_one_gets_it_and_the_other_knows(links: bool, tmp_path: Path) -> None:
    root, pipe = str(Path(__file__).absolute().parents[2]), subprocess.PIPE
    started = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIMING, root, str(tmp_path), me, str(links)], stdin=pipe, stdout=pipe, text=True
        )
        for me in "ab"
    ]
    assert [process.stdout.readline() for process in started] == ["ready\n"] * 2
    for process in started:
        process.stdin.write("\n")
        process.stdin.flush()
    won = {me: process.communicate(timeout=60)[0].split() for me, process in zip("ab", started, strict=True)}
    assert [process.returncode for process in started] == [0, 0]
    assert sorted(won["a"] + won["b"], key=int) == [str(number) for number in range(500)]
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        number: me for me, numbers in won.items() for number in numbers
    }


def test_an_own_file_of_the_name_is_replaced_and_another_is_not(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_lora(path, big_tensors(), {"ss_steps": "1"}, replaceable=lambda path: False)
    before = path.read_bytes()
    with pytest.raises(NameTaken, match="'a.safetensors' has become another's meanwhile"):
        save_lora(path, {"x.alpha": torch.ones(1)}, {}, replaceable=lambda path: False)
    assert path.read_bytes() == before
    save_lora(path, {"x.alpha": torch.ones(1)}, {}, replaceable=lambda path: path.read_bytes() == before)
    assert read_lora(path).keys() == {"x.alpha"}
    assert list(tmp_path.iterdir()) == [path]
