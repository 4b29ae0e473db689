"""What attention heads look at: scores of every (application, head), baselines, nulls, and what cutting heads costs.

Scores of one sentence; queries are tokens inside clauses, so never special tokens or padding:
- association: mass on other tokens that are identical to the query token; over queries that have such.
- parent: mass from a clause's read-out token on the tokens of the clause that its value is made from.
- local: mass on the other tokens of the query's own clause.
- band: KL divergence from the map to the band [1, 2, 4, 2, 1] around the query, both smoothed by 1e-3 as in the
  official code of LEGO (yizhangzzz/transformers-lego, mimicking_experiments); about 0 for the band itself.
- entropy: of the map, in nats.

Each comes with its value under uniform attention on what the query can see. The first three are attention summed over
target places, so they also have a null, the same sum over places that mean nothing: token identities permuted inside
the sentence, parents permuted among its clauses, its tokens dealt to clauses at random.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from hf_tasks.analysis.forward import Reading, attention_maps, output_projections, predict, read
from hf_tasks.analysis.intervals import difference, mean_interval
from hf_tasks.clauses import ClauseBatch
from hf_tasks.errors import UserError, unknown_name
from hf_tasks.mimic import band, divergence, smoothed

MASSES = ("association", "parent", "local")
SCORES = (*MASSES, "band", "entropy")
NAMED_FROM = 0.25  # see `kind_of`


@dataclass(frozen=True)
class Score:
    """One score of all heads on N sentences; NaN where a sentence has no query for it.

    Attributes:
        values: (applications, heads, N). null: the same over meaningless targets, None for scores that have none.
        uniform: (N,), of uniform attention.
    """

    values: np.ndarray
    uniform: np.ndarray
    null: np.ndarray | None = None


def score_heads(
    model: PreTrainedModel,
    batches: Iterable[ClauseBatch],
    scores: Sequence[str] = SCORES,
    nulls: bool = True,
    seed: int = 0,
) -> dict[str, Score]:
    """Scores of every (application, head), sentence by sentence.

    Args:
        scores: which of `SCORES`. nulls: whether to draw them, with this seed.

    Raises:
        UserError: an unknown score, or the model gives no attention maps.
    """
    for name in scores:
        if name not in SCORES:
            raise unknown_name("head score", name, SCORES)
    generator = torch.Generator().manual_seed(seed)
    parts: list[dict[str, tuple[np.ndarray, np.ndarray]]] = []
    for batch in batches:
        targets = mass_targets(batch)
        if nulls:
            drawn = mass_targets(batch, generator)
            targets |= {f"{name} null": drawn[name] for name in MASSES if name in scores}
        for rows, maps in attention_maps(model, batch):
            parts.append(_score_rows(batch.attention_mask[rows], batch.clause_of_token[rows] >= 0, maps, scores, {
                name: places[rows] for name, places in targets.items() if name.removesuffix(" null") in scores
            }))  # fmt: skip
    joined = {name: [np.concatenate([part[name][i] for part in parts], -1) for i in (0, 1)] for name in parts[0]}
    null = {name: joined.get(f"{name} null", [None])[0] for name in scores}
    return {name: Score(joined[name][0], joined[name][1], null[name]) for name in scores}


def mass_targets(batch: ClauseBatch, generator: torch.Generator | None = None) -> dict[str, torch.Tensor]:
    """The places at which a query's attention counts, (B, S, S) bool a score; with a generator, those of the null."""
    ids, clause, parents = batch.input_ids, batch.clause_of_token, batch.parents
    inside, has_parent = clause >= 0, (batch.read_tokens >= 0) & (parents >= 0)
    if generator is not None:
        ids, dealt = _permuted(ids, inside, generator), _permuted(clause, inside, generator)
        parents = _permuted(parents, has_parent, generator)
    else:
        dealt = clause
    others = inside[:, :, None] & ~torch.eye(ids.shape[1], dtype=torch.bool, device=ids.device)
    parent = torch.zeros_like(others)
    rows, places = has_parent.nonzero(as_tuple=True)
    parent[rows, batch.read_tokens[rows, places]] = clause[rows] == parents[rows, places, None]
    return {
        "association": others & (ids[:, :, None] == ids[:, None]),
        "parent": parent,
        "local": others & (dealt[:, :, None] == dealt[:, None]),
    }


def _permuted(values: torch.Tensor, where: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """(B, N) with the marked values of each row in a random order among their places."""
    slots = torch.arange(values.shape[1], device=values.device).expand_as(values)
    noise = torch.rand(values.shape, generator=generator).to(values.device)
    # Unmarked places sort behind the marked ones, in the same order in both, and so give their values to themselves.
    places, drawn = (torch.where(where, key, torch.inf).sort(stable=True, dim=1).indices for key in (slots, noise))
    return values.scatter(1, places, values.gather(1, drawn))


def _score_rows(
    real: torch.Tensor,
    queries: torch.Tensor,
    maps: Sequence[torch.Tensor],
    scores: Sequence[str],
    targets: dict[str, torch.Tensor],
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Scores of some sentences: name -> (applications, heads, rows) and, of uniform attention, (rows,).

    Args:
        real, queries: (rows, S), tokens that are no padding, and those that are asked where they look.
        maps: (rows, heads, S, S) an application. targets: (rows, S, S) a mass.
    """
    device, length = maps[0].device, real.shape[1]
    visible = real.bool().to(device)[:, None].expand(-1, length, -1)
    if not any(bool(one.triu(1).any()) for one in maps):
        visible = visible.tril()  # a causal model
    queries = queries.to(device)
    uniform = visible / visible.sum(-1, keepdim=True).clamp(min=1)
    weights = []
    for places in targets.values():
        seen = places.to(device) & visible
        asked = seen.any(-1, keepdim=True).sum(1, keepdim=True)  # queries with a target in sight
        weights.append(torch.where(asked > 0, seen / asked, torch.nan))
    found: dict[str, list[torch.Tensor]] = {}
    for one in (*maps, uniform[:, None]):
        if weights:
            masses = torch.einsum("rhqk,rmqk->mhr", one, torch.stack(weights, 1))
            for name, mass in zip(targets, masses, strict=True):
                found.setdefault(name, []).append(mass)
        for name, measure in (("band", _band_divergence), ("entropy", _entropy)):
            if name in scores:
                rows = torch.where(queries[:, None], measure(one, visible[:, None]), 0.0).sum(-1)
                found.setdefault(name, []).append((rows / queries.sum(-1, keepdim=True)).T)
    return {name: (torch.stack(of[:-1]).cpu().numpy(), of[-1][0].cpu().numpy()) for name, of in found.items()}


def _band_divergence(maps: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    """KL(map || band) of every row, (R, H, S)."""
    local = band(maps.shape[-1], maps.device)
    return divergence(smoothed(maps, visible), smoothed(local, visible))


def _entropy(maps: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    del visible
    return torch.special.entr(maps).sum(-1)


def applications_of_layers(model: PreTrainedModel) -> list[list[int]]:
    """The applications of each layer, several where one is applied again; in the order of their first.

    Raises:
        UserError: no output projection is found.
    """
    places: dict[nn.Module, list[int]] = {}
    for application, module in enumerate(output_projections(model)):
        places.setdefault(module, []).append(application)
    return [*places.values()]


def by_layer(scores: dict[str, Score], applications: Sequence[Sequence[int]]) -> dict[str, Score]:
    """Scores of the heads that have weights of their own: (layers, heads, N), means over a layer's applications."""

    def mean(values: np.ndarray) -> np.ndarray:
        return np.stack([values[[*of]].mean(0) for of in applications])

    return {
        name: Score(mean(score.values), score.uniform, None if score.null is None else mean(score.null))
        for name, score in scores.items()
    }


def head_table(scores: dict[str, Score], first: str = "application") -> list[dict[str, Any]]:
    """One row a head and score.

    Args:
        first: what the scores' first axis is.

    Returns:
        {first, "head", "score", "value", "ci95", "uniform"} and, of scores with a null, {"null", "null_ci95",
        "excess", "excess_ci95"}: means over sentences with normal intervals, the excess taken sentence by sentence.
    """
    rows = []
    for name, score in scores.items():
        facts: dict[str, Any] = {"": score.values}
        if score.null is not None:
            facts |= {"null": score.null, "excess": score.values - score.null}
        found = {key: mean_interval(values) for key, values in facts.items()}
        for place in np.ndindex(score.values.shape[:2]):
            row = {
                first: place[0],
                "head": place[1],
                "score": name,
                "uniform": float(np.nanmean(score.uniform)),
            }
            for key, (mean, low, high) in found.items():
                row[key or "value"] = float(mean[place])
                row[f"{key}_ci95" if key else "ci95"] = [float(low[place]), float(high[place])]
            rows.append(row)
    return rows


def kind_of(values: dict[str, float], uniform: dict[str, float]) -> str | None:
    """What a head is called: the mass it has gone furthest towards on the way from uniform attention to all of it.

    Args:
        values, uniform: of `MASSES`; NaN where there is none.

    Returns:
        a name of `MASSES`; None if none has gone `NAMED_FROM` of the way.
    """
    gone = {name: (values[name] - uniform[name]) / (1 - uniform[name]) for name in MASSES if uniform[name] < 1}
    best = max((name for name in gone if not np.isnan(gone[name])), key=lambda name: gone[name], default=None)
    return best if best is not None and gone[best] >= NAMED_FROM else None


def kinds(scores: dict[str, Score]) -> list[list[str | None]]:
    """`kind_of` every head, (first axis, heads), by the lower ends of its intervals: a name is not to hang on luck."""
    low = {name: mean_interval(scores[name].values)[1] for name in MASSES}
    uniform = {name: float(np.nanmean(scores[name].uniform)) for name in MASSES}
    first, heads = low["local"].shape
    return [[kind_of({name: float(low[name][a, h]) for name in MASSES}, uniform) for h in range(heads)]
            for a in range(first)]  # fmt: skip


def stands_out(row: dict[str, Any]) -> bool:
    """Whether a head has more of a mass than even attention has, and more than of places that mean nothing."""
    return row["ci95"][0] > row["uniform"] and row["excess_ci95"][0] > 0


@contextmanager
def without_heads(model: PreTrainedModel, places: Collection[tuple[int, int]]) -> Iterator[None]:
    """Cut heads off: their output is set to zero before the output projection.

    Zero, not the mean over a batch: it does not depend on what else is in the batch.

    Args:
        places: (application, head) of each cut.

    Raises:
        UserError: the model lacks a head or an application, or no output projection is found.
    """
    order = output_projections(model)
    heads = model.config.num_attention_heads
    for application, head in places:
        if not (0 <= head < heads and 0 <= application < len(order)):
            raise UserError(
                f"{type(model).__name__} has no head {head} in application {application}: heads are 0 ... {heads - 1}, "
                f"applications 0 ... {len(order) - 1}"
            )
    turn = 0

    def cut(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
        nonlocal turn
        now, turn = turn, (turn + 1) % len(order)
        here = [head for application, head in places if application == now]
        if not here:
            return None
        mixed = inputs[0].clone()
        mixed.unflatten(-1, (heads, -1))[..., here, :] = 0  # a view
        return (mixed, *inputs[1:])

    with ExitStack() as hooks:
        for module in set(order):
            hooks.callback(module.register_forward_pre_hook(cut).remove)
        yield


def ablate(
    model: PreTrainedModel, batches: Iterable[ClauseBatch], whole: Reading, places: Collection[tuple[int, int]]
) -> list[dict[str, Any]]:
    """What cutting heads off costs: {"depth", "value" (the drop in accuracy), "ci95", "count"}.

    The first cell is that of all clauses, its depth None; then follow the depths.

    Args:
        batches: the sentences that `whole` was read from, in the same order.
        whole: what the whole model says of them.
        places: see `without_heads`.
    """
    with without_heads(model, places):
        cut = read(batches, lambda batch: predict(model, batch))
    rows = []
    for depth in (None, *np.unique(whole.depths).tolist()):
        chosen = np.ones(len(whole.depths), bool) if depth is None else whole.depths == depth
        drop, interval = difference(whole.correct[chosen], cut.correct[chosen])
        rows.append({"depth": depth, "value": drop, "ci95": [*interval], "count": int(chosen.sum())})
    return rows
