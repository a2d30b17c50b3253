"""What a LoRA file tells of itself: ours, kohya's, and files that say nothing or the wrong thing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pack.trainer.errors import LoraFileError
from pack.trainer.lora.file import read_metadata, save_lora
from pack.trainer.lora.header import MAX_HEADER
from pack.trainer.lora.info import lora_info, read_header

HOSTILE = "<img src=x onerror=window.hostile=1>"
TENSORS = {
    "lora_unet_a.lora_down.weight": torch.zeros(4, 8),
    "lora_unet_a.alpha": torch.tensor(4.0),
    "lora_te1_b.lora_down.weight": torch.zeros(4, 8),
}


def file_with(path: Path, metadata: dict[str, Any], tensors: dict[str, Any] | None = None) -> Path:
    entry = {"dtype": "F16", "shape": [4, 8], "data_offsets": [0, 64]}
    header = json.dumps({"__metadata__": metadata, **(tensors or {"lora_unet_x.lora_down.weight": entry})}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(64))
    return path


def facts_of(info: dict[str, Any]) -> dict[str, str]:
    return {name: value for section in info["sections"] for name, value in section["facts"]}


def test_kohyas_entries_are_told_in_words(tmp_path: Path) -> None:
    info = lora_info(
        file_with(
            tmp_path / "k.safetensors",
            {
                "ss_steps": "1600",
                "ss_network_dim": "32",
                "ss_network_alpha": "8.0",
                "ss_network_args": '{"conv_dim": "4"}',
                "ss_unet_lr": "0.0001",
                "ss_min_snr_gamma": "None",
                "ss_training_started_at": "1700000000.5",
                "ss_sd_model_name": "sd_xl_base_1.0.safetensors",
                "ss_resolution": "(1024, 1024)",
                "ss_dataset_dirs": '{"10_moon": {"n_repeats": 10, "img_count": 130}}',
                "ss_datasets": '[{"bucket_info": {"buckets": {"0": {"resolution": [832, 1216], "count": 20}}}}]',
                "ss_bucket_info": '{"buckets": {"0": {"resolution": [1024, 1024], "count": 1300}}}',
                "ss_tag_frequency": '{"10_moon": {"moon": 130, " crater": 5}, "x": {"moon": 2}}',
                "modelspec.trigger_phrase": "mjesec",
            },
        )
    )
    facts = facts_of(info)
    expected = {
        "steps": "1600",
        "rank": "32",
        "alpha": "8.0",
        "arguments": "conv_dim=4",
        "began": "2023-11-14 22:13 UTC",
        "checkpoint": "sd_xl_base_1.0.safetensors",
        "resolution": "1024 × 1024",
        "in 10_moon": "130 images × 10",
        "buckets": "1024×1024: 1300, 832×1216: 20",
        "modules": "1 U-Net",
        "numbers": "F16",
    }
    assert expected.items() <= facts.items() and "min-SNR gamma" not in facts
    assert (info["trigger"], info["tags"], info["different_tags"]) == ("mjesec", [["moon", 132], ["crater", 5]], 2)
    assert info["graph"] is None and info["thumbnails"] == []


@pytest.mark.parametrize(
    ("ends", "joint"),
    [
        (("lora_A.weight", "lora_B.weight", "alpha"), "."),
        (("lora_A.default.weight", "lora_B.default.weight", "lora_magnitude_vector"), "."),
        (("lora.down.weight", "lora.up.weight"), "."),
        (("lora.down.weight", "lora.up.weight"), "_"),
    ],
)
def test_the_names_of_diffusers_and_peft_are_known(ends: tuple[str, ...], joint: str, tmp_path: Path) -> None:
    layers = {
        "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q": 4,
        "unet.mid_block.attentions.0.proj_in": 8,
        "text_encoder.text_model.encoder.layers.0.mlp.fc1": 4,
        "text_encoder_2.text_model.encoder.layers.0.mlp.fc1": 4,
    }
    tensors = {
        layer + joint + end: {"dtype": "F32", "shape": [rank, 16] if "A" in end or "down" in end else [16, rank]}
        for layer, rank in layers.items()
        for end in ends
    }
    facts = facts_of(lora_info(file_with(tmp_path / "d.safetensors", {}, tensors)))
    assert facts["modules"] == "2 U-Net, 1 CLIP-L, 1 bigG"
    assert facts["rank"] == "4, 8"


@pytest.mark.parametrize(
    "value",
    ["{", "[1, 2]", "null", "7", '"text"', '{"a": 1}', '{"a": {"b": []}}', "[" * 2000, "9" * 5000, HOSTILE, "\ud800"],
)  # fmt: skip
def test_malformed_entries_are_survived(value: str, tmp_path: Path) -> None:
    keys = (
        "ss_dataset_dirs", "ss_bucket_info", "ss_datasets", "ss_tag_frequency", "ss_network_args", "workflow", "prompt",
        "mjesec_thumbnails", "ss_training_started_at", "modelspec.thumbnail", "ss_network_dim", "ss_resolution",
    )  # fmt: skip
    info = lora_info(file_with(tmp_path / "m.safetensors", dict.fromkeys(keys, value)))
    json.dumps(info, ensure_ascii=False, allow_nan=False).encode()
    assert info["thumbnails"] == []


@pytest.mark.parametrize("prompt", ['{"1": {"inputs": {"a": 1e999}}}', '{"1": {"a": "\\ud800"}}'])
def test_a_graph_that_no_browser_can_hold_is_none(prompt: str, tmp_path: Path) -> None:
    assert lora_info(file_with(tmp_path / "m.safetensors", {"prompt": prompt}))["graph"] is None


def test_only_pictures_are_pictures(tmp_path: Path) -> None:
    good = "data:image/webp;base64,AAAA"
    bad = [
        "javascript:alert(1)",
        "http://example.com/x.png",
        "data:image/svg+xml;base64,AAAA",
        f"{good}\"onerror='x",
        7,
    ]
    metadata = {"mjesec_thumbnails": json.dumps([good, *bad]), "modelspec.thumbnail": "data:text/html;base64,AAAA"}
    assert lora_info(file_with(tmp_path / "p.safetensors", metadata))["thumbnails"] == [good]


def test_a_header_of_some_megabytes_is_read_and_the_weights_are_not(tmp_path: Path) -> None:
    metadata = {"ss_tag_frequency": json.dumps({"x": {f"tag {n}": 1 for n in range(200_000)}}), "note": "x" * 3_000_000}
    path = file_with(tmp_path / "b.safetensors", metadata)
    with open(path, "r+b") as file:
        # a hole instead of weights: whoever read it all would need this much memory
        file.truncate(1 << 40)
    info = lora_info(path)
    assert info["different_tags"] == 200_000 and len(info["tags"]) == 60 and len(info["entries"]["note"]) < 21_000


@pytest.mark.parametrize(
    "data", [b"", b"1234567", b"\xff" * 64, (9).to_bytes(8, "little") + b"{", (4).to_bytes(8, "little") + b"[1] ",
             (2).to_bytes(8, "little") + b"{}", (4).to_bytes(8, "little") + b"nope"]
)  # fmt: skip
def test_what_is_no_safetensors_file_is_refused_by_name(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(data)
    if data.endswith(b"{}"):
        assert read_header(tmp_path / "x.safetensors") == ({}, {})
    else:
        with pytest.raises(LoraFileError, match=r"'x\.safetensors' is not a readable"):
            lora_info(tmp_path / "x.safetensors")


def test_extra_entries_are_written_as_long_as_hosts_can_read_the_header(tmp_path: Path) -> None:
    path = tmp_path / "e.safetensors"
    extra = {"prompt": "p" * 400_000, "workflow": "w" * 800_000, "mjesec_thumbnails": '"' * 100_000, "x": "ž" * 100_000}
    save_lora(path, TENSORS, {"ss_steps": "1"}, {**extra, "ss_steps": "a stranger's"})
    metadata = read_metadata(path)
    assert int.from_bytes(path.read_bytes()[:8], "little") <= MAX_HEADER
    assert {name for name in extra if name in metadata} == {"prompt", "mjesec_thumbnails", "x"}
    assert metadata["ss_steps"] == "1"
    plain = tmp_path / "plain.safetensors"
    save_lora(plain, TENSORS, {"ss_steps": "1"})
    assert read_metadata(plain)["sshs_model_hash"] == metadata["sshs_model_hash"]
    assert read_metadata(plain)["sshs_legacy_hash"] == metadata["sshs_legacy_hash"]
