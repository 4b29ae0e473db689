"""Tokens per second and peak memory of our models against peers of the same shape: training steps and generation.

    python -m benchmarks.models [--device cuda] [--lengths 64 256 1024] [--only training|generation]

- Shapes are equal: pre-norm decoder, RMSNorm, SwiGLU, tied embeddings, the same widths; GPT2's own block beside its own
  twin of ours. A training step is forward, backward and AdamW; it holds the same number of tokens at every length.
- The masked way is the same model of ours with the causal mask written out, so that every bias becomes a float mask of
  S x S scores, which is what other packages hand to SDPA.
- Generation is cached and greedy: a prompt of length - 32 tokens and 32 new ones, by each package's own `generate`.
- Rounds alternate between all runs of a length, so that a busy machine slows them down alike; a ratio is the median
  over the rounds of the ratio within one.
- Peak memory is that of one training step, or of one call that generates, beyond what stands before it:
  torch.cuda.max_memory_allocated on CUDA; on CPU the highest sum of the profiler's record of allocations.
- `benchmarks/models.json` keeps the last run with hardware and versions, `models-cuda.json` that on a GPU.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler reports its starts and stops

import torch
from torch import nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from benchmarks.generation import hardware, versions
from hf_tasks.files import write_text
from hf_tasks.models import PositionalConfig, PositionalForCausalLM

FOLDER = Path(__file__).parent
VOCABULARY = 20
SIZES = {  # device -> shape; tokens are those of a batch
    "cpu": {"hidden": 128, "inner": 352, "layers": 2, "heads": 4, "tokens": 2048},
    "cuda": {"hidden": 768, "inner": 2048, "layers": 12, "heads": 12, "tokens": 65536},
}
NEW = 32
GENERATED = 8  # rows that generate together
ROUNDS = 3
ALIKE = "sequential+rotary"  # Llama's own encoding
# What each encoding is measured with; tokens are random digits between rare separators.
PAIRS: dict[str, list[dict[str, Any]]] = {
    "sequential+none": [{"ids": "sequential", "encoding": "none"}],
    "sequential+learned": [{"ids": "sequential", "encoding": "learned", "size": 1024}],
    "sequential+sinusoidal": [{"ids": "sequential", "encoding": "sinusoidal"}],
    "sequential+random_tag": [{"ids": "sequential", "encoding": "random_tag"}],
    ALIKE: [{"ids": "sequential", "encoding": "rotary"}],
    "sequential+alibi": [{"ids": "sequential", "encoding": "alibi"}],
    "sequential+alibi, learned slopes": [{"ids": "sequential", "encoding": "alibi", "learnable": True}],
    "sequential+t5": [{"ids": "sequential", "encoding": "t5"}],
    "sequential+clipped": [{"ids": "sequential", "encoding": "clipped"}],
    "sequential+kerple_log": [{"ids": "sequential", "encoding": "kerple_log"}],
    "sequential+kerple_power": [{"ids": "sequential", "encoding": "kerple_power"}],
    "sequential+fire": [{"ids": "sequential", "encoding": "fire"}],
    "sequential+cope": [{"ids": "sequential", "encoding": "cope"}],
    "significance+clipped": [{"ids": "significance", "encoding": "clipped", "clip": 2}],
    "token+match": [{"ids": "token", "encoding": "match"}],
}
RELATIVE = [name for name in PAIRS if name.startswith("sequential") and name.split("+")[1].split(",")[0] in
            ("alibi", "t5", "clipped", "kerple_log", "kerple_power")]  # fmt: skip


@dataclass
class Run:
    """One model: `loss` of a batch, and `write` that adds NEW tokens to prompts."""

    model: nn.Module
    loss: Callable[[torch.Tensor], torch.Tensor]
    write: Callable[[torch.Tensor], torch.Tensor] | None


def of_transformers(model: Any, device: str, mask: torch.Tensor | None = None) -> Run:
    """A run of a model with the interface of transformers."""
    model = model.to(device)
    settings = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, "pad_token_id": 0}
    return Run(
        model,
        lambda batch: model(batch, attention_mask=mask, labels=batch, use_cache=False).loss,
        lambda prompt: model.generate(prompt, attention_mask=torch.ones_like(prompt), **settings),
    )


def ours(pairs: list[dict[str, Any]], device: str, mask: torch.Tensor | None = None, **fields: Any) -> Run:
    """Our model with these pairs, of Llama's shape unless `fields` say otherwise."""
    size = SIZES[device]
    usual = {"norm": "rmsnorm", "activation": "swiglu", "intermediate_size": size["inner"]}
    config = PositionalConfig(
        vocab_size=VOCABULARY, hidden_size=size["hidden"], num_hidden_layers=size["layers"],
        num_attention_heads=size["heads"], positions=pairs, digit_token_ids=list(range(10)),
        separator_token_ids=list(range(10, 14)), answer_token_ids=[14], **{**usual, **fields},
    )  # fmt: skip
    return of_transformers(PositionalForCausalLM(config), device, mask)


def llama(device: str) -> Run:
    size = SIZES[device]
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=size["hidden"], intermediate_size=size["inner"],
        num_hidden_layers=size["layers"], num_attention_heads=size["heads"], tie_word_embeddings=True,
    )  # fmt: skip
    return of_transformers(LlamaForCausalLM(config), device)


def gpt2(device: str) -> Run:
    size = SIZES[device]
    config = GPT2Config(
        vocab_size=VOCABULARY, n_embd=size["hidden"], n_layer=size["layers"], n_head=size["heads"],
        activation_function="gelu", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, eos_token_id=None,
    )  # fmt: skip
    return of_transformers(GPT2LMHeadModel(config), device)


def x_transformers(device: str, **encoding: Any) -> Run:
    """A decoder of x-transformers, RMSNorm and SwiGLU."""
    from x_transformers import (  # pyright: ignore[reportMissingImports]  # of the extra `bench`
        AutoregressiveWrapper,
        Decoder,
        TransformerWrapper,
    )

    size = SIZES[device]
    body = Decoder(
        dim=size["hidden"], depth=size["layers"], heads=size["heads"], attn_dim_head=size["hidden"] // size["heads"],
        use_rmsnorm=True, ff_swish=True, ff_glu=True, ff_no_bias=True, ff_mult=size["inner"] / size["hidden"],
        verbose=False, **encoding,
    )  # fmt: skip
    network = TransformerWrapper(
        num_tokens=VOCABULARY, max_seq_len=1024, attn_layers=body, tie_embedding=True, use_abs_pos_emb=False
    )
    model = AutoregressiveWrapper(network).to(device)
    write: Any = lambda prompt: model.generate(prompt, NEW, temperature=0.0, cache_kv=True)  # noqa: E731
    return Run(model, model, write)


class Bare(nn.Module):
    """What a decoder costs at least: Llama's equations without positions, in as few lines of PyTorch as they take."""

    def __init__(self, hidden: int, inner: int, layers: int, heads: int, **_: int) -> None:
        super().__init__()
        self.heads, self.embed, self.norm = heads, nn.Embedding(VOCABULARY, hidden), nn.RMSNorm(hidden, eps=1e-5)
        shapes = {"qkv": (hidden, 3 * hidden), "out": (hidden, hidden), "up": (hidden, 2 * inner),
                  "down": (inner, hidden)}  # fmt: skip
        self.layers: Any = nn.ModuleList(
            nn.ModuleDict({name: nn.Linear(*shape, bias=False) for name, shape in shapes.items()}
                          | {name: nn.RMSNorm(hidden, eps=1e-5) for name in ("before", "between")})
            for _ in range(layers)
        )  # fmt: skip

    def forward(self, tokens: torch.Tensor, cache: list[Any] | None = None) -> torch.Tensor:
        """(B, Q) new tokens -> logits; `cache` holds (keys, values) of the tokens before, one a layer, and filled."""
        x = self.embed(tokens)
        for depth, layer in enumerate(self.layers):
            q, k, v = layer.qkv(layer.before(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
            if cache is not None:
                if cache[depth] is not None:
                    k, v = (torch.cat(pair, dim=2) for pair in zip(cache[depth], (k, v), strict=True))
                cache[depth] = k, v
            mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=q.shape[2] > 1)
            x = x + layer.out(mixed.transpose(1, 2).flatten(2))
            gate, up = layer.up(layer.between(x)).chunk(2, dim=-1)
            x = x + layer.down(functional.silu(gate) * up)
        return self.norm(x) @ self.embed.weight.t()

    def loss(self, batch: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(self(batch)[:, :-1].flatten(0, 1), batch[:, 1:].flatten())

    @torch.no_grad()
    def write(self, prompt: torch.Tensor) -> torch.Tensor:
        cache: list[Any] = [None] * len(self.layers)
        new, written = prompt, []
        for _ in range(NEW):
            new = self(new, cache)[:, -1:].argmax(-1)
            written.append(new)
        return torch.cat(written, dim=1)


def bare(device: str) -> Run:
    model = Bare(**SIZES[device]).to(device)
    return Run(model, model.loss, model.write)


def all_runs(device: str, length: int) -> dict[str, Run]:
    """Every model by its name."""
    causal = torch.ones(1, 1, length, length, dtype=torch.bool, device=device).tril()
    block = {"norm": "layernorm", "activation": "gelu", "intermediate_size": None}
    masked = {f"{name}, masked": ours(PAIRS[name], device, causal) for name in RELATIVE}
    return {
        "Llama": llama(device),
        "GPT2": gpt2(device),
        "bare PyTorch": bare(device),
        "x-transformers, rotary": x_transformers(device, rotary_pos_emb=True, attn_flash=True),
        "x-transformers, alibi": x_transformers(device, alibi_pos_bias=True, attn_flash=True),
        "x-transformers, t5": x_transformers(device, rel_pos_bias=True),
        "ours, block of GPT2": ours(PAIRS["sequential+learned"], device, **block),
        **{f"ours, {name}": ours(pairs, device) for name, pairs in PAIRS.items()},
        **{f"ours, {name}": Run(run.model, run.loss, None) for name, run in masked.items()},
    }


def training_step(run: Run, batch: torch.Tensor) -> Callable[[], None]:
    """A step on this batch."""
    optimizer = torch.optim.AdamW(run.model.parameters(), lr=1e-5, fused=True)

    def step() -> None:
        run.loss(batch).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def seconds(run: Callable[[], Any], device: str) -> float:
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def timed(runs: dict[str, Callable[[], Any]], device: str, rounds: int) -> dict[str, list[float]]:
    """Seconds of every run in every round, after two that warm up."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 2):
        for name, run in runs.items():
            taken = seconds(run, device)
            if turn > 1:
                found[name].append(taken)
    return found


def peak_mib(run: Callable[[], Any], device: str) -> float:
    """The most memory that tensors made during a run hold at once, in MiB."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        run()
    profiler: Any = record.profiler
    events = [e for e in profiler.kineto_results.events() if e.name() == "[memory]"]
    held = highest = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        highest = max(highest, held)
    return highest / 2**20


def peaks(runs: dict[str, Callable[[], Any]], device: str) -> dict[str, float]:
    """`peak_mib` of each run."""
    return {name: round(peak_mib(run, device), 1) for name, run in runs.items()}


def ratio(found: dict[str, list[float]], slow: str, fast: str) -> float:
    """How many times as fast as `slow` is `fast`: the median over the rounds."""
    return round(statistics.median(s / f for s, f in zip(found[slow], found[fast], strict=True)), 3)


def ratios_of(found: dict[str, list[float]]) -> dict[str, float]:
    """Ours over each peer of its kind, and over its own masked way."""
    kinds = {
        f"{ALIKE} / Llama": ("Llama", f"ours, {ALIKE}"),
        "sequential+none / Llama": ("Llama", "ours, sequential+none"),
        "sequential+learned / Llama": ("Llama", "ours, sequential+learned"),
        "block of GPT2 / GPT2": ("GPT2", "ours, block of GPT2"),
        "sequential+none / bare PyTorch": ("bare PyTorch", "ours, sequential+none"),
        **{
            f"sequential+{kind} / x-transformers": (f"x-transformers, {kind}", f"ours, sequential+{kind}")
            for kind in ("rotary", "alibi", "t5")
        },
        **{f"{name} / masked": (f"ours, {name}, masked", f"ours, {name}") for name in RELATIVE},
    }
    return {name: ratio(found, *pair) for name, pair in kinds.items() if pair[0] in found and pair[1] in found}


def measure(device: str, length: int, only: str | None) -> dict[str, Any]:
    """Everything at one length."""
    torch.manual_seed(0)
    runs, result = all_runs(device, length), {}
    tokens = torch.randint(0, VOCABULARY, (SIZES[device]["tokens"] // length, length), device=device)
    if only != "generation":
        steps = {name: training_step(run, tokens) for name, run in runs.items()}
        found = timed(steps, device, ROUNDS)
        result["training"] = {
            "tokens_per_second": {n: round(tokens.numel() / statistics.median(of)) for n, of in found.items()},
            "peak_mib": peaks(steps, device),
            "ratios": ratios_of(found),
        }
    if only != "training":
        prompt = tokens[:1, : length - NEW].expand(GENERATED, -1).contiguous()
        for run in runs.values():
            run.model.eval()
        writers = {name: partial(run.write, prompt) for name, run in runs.items() if run.write}
        found = timed(writers, device, ROUNDS)
        count = GENERATED * NEW
        result["generation"] = {
            "tokens_per_second": {name: round(count / statistics.median(of)) for name, of in found.items()},
            "peak_mib": peaks(writers, device),
            "ratios": ratios_of(found),
        }
    return result


def show(length: int, result: dict[str, Any]) -> None:
    """Print the table of one length."""
    for kind, part in result.items():
        print(f"\n{kind}, {length} tokens: tokens/s, peak MiB")
        for name, speed in part["tokens_per_second"].items():
            print(f"  {name:48}{speed:>10,}{part['peak_mib'][name]:>10,}")
        print("  times as fast:")
        for name, value in part["ratios"].items():
            print(f"  {name:48}{value:>10.2f}")


def short(value: float) -> float:
    """Four digits of it."""
    return float(f"{value:.4g}")


def device_here(name: str) -> str:
    """A device as an argument of a command line: "cpu", or "cuda" where there is one."""
    if name not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"{name!r} is neither cpu nor cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise argparse.ArgumentTypeError("torch finds no GPU for 'cuda' here: give cpu")
    return name


def machine(device: str) -> dict[str, Any]:
    """The hardware that a device stands for."""
    if device == "cuda":
        return {"gpu": torch.cuda.get_device_name()}
    return {**hardware(), "threads": torch.get_num_threads()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=device_here, default="cpu", metavar="cpu|cuda")
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 256, 1024], metavar="S")
    parser.add_argument("--only", choices=["training", "generation"])
    wanted = parser.parse_args()
    lengths = {}
    for length in wanted.lengths:
        result = lengths[str(length)] = measure(wanted.device, length, wanted.only)
        show(length, result)
    if wanted.only or wanted.lengths != parser.get_default("lengths"):
        return  # a part is not kept
    on_gpu = wanted.device == "cuda"
    result = {
        "command": "python -m benchmarks.models" + (" --device cuda" if on_gpu else ""),
        "hardware": machine(wanted.device),
        "versions": versions("torch", "transformers", "x-transformers"),
        "shape": {"vocabulary": VOCABULARY, **SIZES[wanted.device]},
        "lengths": lengths,
    }
    path = FOLDER / ("models-cuda.json" if on_gpu else "models.json")
    write_text(path, json.dumps(result, indent=1) + "\n")
    print(f"\nwritten to benchmarks/{path.name}")


if __name__ == "__main__":
    main()
