"""Frozen embeddings: the shares of full-size models, who stays as it was, gradients and bytes.

Golden values: facts of the paper's models (arXiv 2211.09359): below 1 % of ViT-B/16, ViT-L/16, ConvNeXt-B; 8, 12 and 16
bytes a parameter.
"""

from typing import Any

import pytest
import torch
import transformers
from transformers import Trainer, TrainingArguments

from hf_tasks import UserError
from hf_tasks.freeze import freeze_embeddings, gradient_norms, training_bytes

LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
CONVNEXT_B = {"hidden_sizes": [128, 256, 512, 1024], "depths": [3, 3, 27, 3]}
CLIP_B = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
          "patch_size": 16}  # fmt: skip
# (class before "ForImageClassification", fields of its config) -> parameters frozen, and how many tensors.
SIZES: list[tuple[str, dict[str, Any], int, int]] = [
    ("ViT", {}, 590_592, 2),
    ("ViT", LARGE, 787_456, 2),
    ("ConvNext", CONVNEXT_B, 422_016, 31),
    ("CLIP", {"vision_config": CLIP_B}, 591_360, 3),
    ("Dinov2", {}, 452_352, 2),
    ("Swin", {}, 4_704, 2),
    ("Bit", {}, 83_520, 11),
    ("ResNet", {}, 84_544, 15),
]


@pytest.mark.parametrize(("name", "fields", "size", "tensors"), SIZES, ids=[f"{n}-{s}" for n, _, s, _ in SIZES])
def test_of_full_size_models_less_than_a_hundredth(name: str, fields: dict, size: int, tensors: int) -> None:
    with torch.device("meta"):
        config = getattr(transformers, f"{name}Config")(**fields)
        model = getattr(transformers, f"{name}ForImageClassification")(config)
        frozen = freeze_embeddings(model)
    assert (frozen.parameters, len(frozen.names)) == (size, tensors)
    assert frozen.share == size / sum(p.numel() for p in model.parameters()) < 0.01
    assert {name for name, p in model.named_parameters() if not p.requires_grad} == {*frozen.names}
    assert not any("position" in name or "cls" in name for name in frozen.names)


def vit(**fields: Any) -> Any:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    return transformers.ViTForImageClassification(
        transformers.ViTConfig(image_size=8, patch_size=4, num_labels=3, **shape, **fields)
    )


def images(count: int = 6) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [{"pixel_values": torch.randn(3, 8, 8, generator=generator), "labels": torch.tensor(i % 3)}
            for i in range(count)]  # fmt: skip


def test_the_trainer_leaves_what_is_frozen_as_it_was(tmp_path: Any) -> None:
    model = vit()
    frozen = freeze_embeddings(model, max_share=0.1)
    before = {name: p.clone() for name, p in model.named_parameters()}
    args = TrainingArguments(str(tmp_path), max_steps=5, per_device_train_batch_size=6, optim="sgd",
                             optim_args="momentum=0.9", learning_rate=0.1, use_cpu=True, report_to="none",
                             save_strategy="no", disable_tqdm=True)  # fmt: skip
    trainer = Trainer(model, args, train_dataset=images())  # type: ignore[arg-type]
    trainer.train()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    # A bias of keys moves no attention: its gradient is rounding.
    assert {*before} - moved - {n for n in before if "key.bias" in n or "k_proj.bias" in n} == {*frozen.names}
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    every = sum(p.numel() for p in model.parameters())
    assert training_bytes(model, trainer.optimizer) == {
        "weights": 4 * every, "gradients": 4 * trained, "optimizer": 4 * trained,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "options", "wanted"), [("SGD", {}, 8), ("SGD", {"momentum": 0.9}, 12), ("AdamW", {}, 16)]
)
def test_bytes_of_a_parameter(name: str, options: dict, wanted: int) -> None:
    model = vit()
    optimizer = getattr(torch.optim, name)(model.parameters(), lr=0.1, **options)
    batch = {key: torch.stack([row[key] for row in images()]) for key in ("pixel_values", "labels")}
    model(**batch).loss.backward()
    optimizer.step()
    size = sum(p.numel() for p in model.parameters())
    counters = 4 * len([*model.parameters()]) if name == "AdamW" else 0
    assert sum(training_bytes(model, optimizer).values()) == wanted * size + counters


def test_gradient_norms_are_those_that_clipping_sees() -> None:
    model = vit()
    batch = {key: torch.stack([row[key] for row in images()]) for key in ("pixel_values", "labels")}
    norms = gradient_norms(model, batch)
    assert all(p.grad is None for p in model.parameters())
    layers = [layer for layer in norms if layer.endswith((".0", ".1"))]
    assert len(layers) == 2 and any("patch_embeddings" in layer for layer in norms) and "classifier" in norms
    model(**batch).loss.backward()
    total = torch.nn.utils.clip_grad_norm_(model.parameters(), 1e9)
    assert sum(norm**2 for norm in norms.values()) ** 0.5 == pytest.approx(float(total), rel=1e-5)
    freeze_embeddings(model, max_share=0.1)
    assert not any("patch_embeddings" in layer for layer in gradient_norms(model, batch))


def test_blocks_of_stages_are_layers_of_their_own() -> None:
    torch.manual_seed(0)
    config = transformers.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 2], num_stages=2, image_size=32)
    model = transformers.ConvNextForImageClassification(config)
    batch = {"pixel_values": torch.randn(2, 3, 32, 32), "labels": torch.tensor([0, 1])}
    norms = gradient_norms(model, batch)
    blocks = [f"convnext.encoder.stages.{stage}.layers.{block}" for stage, block in ((0, 0), (1, 0), (1, 1))]
    assert {*blocks, "convnext.embeddings.patch_embeddings", "classifier"} <= norms.keys()


def test_what_is_much_of_a_model_is_not_frozen_unasked() -> None:
    torch.manual_seed(0)
    special = {"bos_token_id": 0, "eos_token_id": 1}
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=50, n_embd=8, n_layer=1, n_head=2, n_positions=4, **special)
    )
    with pytest.raises(
        UserError, match=r"the embeddings and its head of GPT2LMHeadModel are 0\.3\d+ .* raise max_share"
    ):
        freeze_embeddings(model)
    assert all(p.requires_grad for p in model.parameters())
    assert freeze_embeddings(model, max_share=1.0).names == ["transformer.wte.weight"]


def test_a_model_without_known_embeddings_is_named() -> None:
    with torch.device("meta"):
        unknown = transformers.RegNetForImageClassification(transformers.RegNetConfig())
    with pytest.raises(
        UserError, match=r"embeddings of RegNetForImageClassification \(regnet\) are not known: set .*clip"
    ):
        freeze_embeddings(unknown)
