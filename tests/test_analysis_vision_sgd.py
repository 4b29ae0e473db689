"""SGD on a vision model: the images that tell shape from colour, and the command on a small transformer."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from sklearn.datasets import load_digits

from hf_tasks import UserError
from hf_tasks.analysis.vision_sgd import AGREE, LITE, TRAIN, WAYS, draw, images, load, main, split
from hf_tasks.cards import results_markdown

HUES = [0, 36, 72, 108, 144, 180, 216, 252, 288, 324]  # degrees


def hue_of(image: torch.Tensor) -> int:
    """Which of the ten hues lies behind the ink: by the darkest pixels, which hold none of it."""
    pixels = (image.flatten(1) + 1) / 2
    ground = pixels[:, pixels.min(0).values.argsort()[:100]].mean(1).numpy()
    x, y = (float(ground @ np.cos(np.deg2rad([turn, turn - 120, turn + 120]))) for turn in (0, 90))
    degrees = np.rad2deg(np.arctan2(y, x)) % 360
    return int(min(range(10), key=lambda hue: min(abs(HUES[hue] - degrees), 360 - abs(HUES[hue] - degrees))))


@pytest.mark.parametrize("agree", [0.0, 0.5, 1.0])
def test_grounds_have_the_colour_of_their_digit_as_often_as_asked(agree: float) -> None:
    found: Any = load_digits()
    pixels = draw(found.images[:400], found.target[:400], agree, 32, np.random.default_rng(0))
    assert pixels.shape == (400, 3, 32, 32) and pixels.min() >= -1 and pixels.max() <= 1
    hues = [hue_of(image) for image in pixels]
    assert len({*hues}) == 10
    assert np.mean(np.array(hues) == found.target[:400]) == pytest.approx(agree, abs=0.06 if agree == 0.5 else 0)


def test_the_splits_share_no_digit_and_the_tests_differ_in_colour_alone() -> None:
    parts = split(1797, 3)
    assert {name: len(part) for name, part in parts.items()} == {"train": TRAIN, "held_out": 297, "test": 500}
    assert sorted(np.concatenate([*parts.values()])) == [*range(1797)]

    found: Any = load_digits()
    rows = images(3, 32)
    assert {name: len(part) for name, part in rows.items()} == {
        "train": TRAIN, "held_out": 297, "same": 500, "shifted": 500
    }  # fmt: skip
    for name, part in (("train", "train"), ("held_out", "held_out"), ("same", "test"), ("shifted", "test")):
        assert [int(row["labels"]) for row in rows[name]] == found.target[parts[part]].tolist()
    agreeing = {
        name: np.mean([hue_of(row["pixel_values"]) == int(row["labels"]) for row in part])
        for name, part in rows.items()
    }
    assert agreeing["shifted"] == 0
    assert all(agreeing[name] == pytest.approx(AGREE, abs=0.06) for name in ("train", "held_out", "same"))
    # Where a digit has its ink there is no ground, and what is left of one is grain: alike in both tests.
    same, shifted = (torch.stack([row["pixel_values"] for row in rows[name]]) for name in ("same", "shifted"))
    alike = (same - same.mean((2, 3), keepdim=True)).sum(1), (shifted - shifted.mean((2, 3), keepdim=True)).sum(1)
    assert np.corrcoef(alike[0].flatten(), alike[1].flatten())[0, 1] > 0.95

    again, other = images(3, 32), images(4, 32)
    assert torch.equal(rows["train"][0]["pixel_values"], again["train"][0]["pixel_values"])
    assert not torch.equal(rows["train"][0]["pixel_values"], other["train"][0]["pixel_values"])


def test_the_command_on_a_small_transformer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.ViTConfig(image_size=16, patch_size=4, num_labels=3, **shape)  # type: ignore[call-arg]
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    monkeypatch.setattr("hf_tasks.analysis.vision_sgd.STEPS", 3)
    output = tmp_path / "not" / "there"
    main(["--output", str(output), "--model", str(tmp_path / "vit"), "--seeds", "0", "1"])
    results = json.loads((output / "results.json").read_text())
    assert results["command"] == (
        f"python -m hf_tasks.analysis.vision_sgd --output {output} --model {tmp_path / 'vit'} --seeds 0 1"
    )
    assert (output / "results.png").read_bytes().startswith(b"\x89PNG")
    assert [(run["name"], run["seed"]) for run in results["runs"]] == [
        (way, seed) for way in ("adamw", "sgd", "sgd+frozen") for seed in (0, 1)
    ]
    for run in results["runs"]:
        assert (run["frozen"] > 0) == (run["name"] == "sgd+frozen")
        assert run["gradient_norms"]["vit.embeddings.patch_embeddings.projection"] > 0
        assert run["tried"][f"{run['learning_rate']:g}"] == run["accuracy"]
    adamw, sgd, frozen = (sum(run["training_bytes"].values()) for run in results["runs"][::2])
    assert adamw > sgd > frozen
    for way, options in WAYS.items():
        first, second = (run for run in results["runs"] if run["name"] == way)
        means = {rate: first["tried"][rate]["held_out"] + second["tried"][rate]["held_out"] for rate in first["tried"]}
        assert [*means] == [f"{rate:g}" for rate in options["rates"]]
        assert means[f"{first['learning_rate']:g}"] == max(means.values())
        assert first["learning_rate"] == second["learning_rate"]
    table = results_markdown(results)
    assert "| same colours | 500 |" in table and "| shifted colours | 500 |" in table


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(UserError, match="pip install --no-deps efficientnet-lite-pytorch"):
        load(LITE)
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=3)  # type: ignore
    transformers.ResNetForImageClassification(config).save_pretrained(tmp_path / "resnet")
    with pytest.raises(UserError, match="batch norms"):
        load(str(tmp_path / "resnet"))
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit):
        main(["--output", str(tmp_path / "file" / "folder")])
    assert "file/folder: Not a directory; give a folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--output", str(tmp_path), "--model", str(tmp_path / "none")])
    assert "no image classifier" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--output", str(tmp_path), "--seeds", "-1"])
    assert not (tmp_path / "results.json").exists()
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UserError, match="pip install scikit-learn"):
        images(0, 16)
