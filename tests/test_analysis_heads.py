"""Head scores against maps whose scores are known, and heads that are cut off."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from analysis_samples import Stub, batches_of, encoder
from transformers import (
    AlbertConfig,
    AlbertForTokenClassification,
    BertConfig,
    BertForTokenClassification,
    LlamaConfig,
    LlamaForTokenClassification,
)

from hf_tasks.analysis.forward import attention_maps, layers, output_projections, predict, read
from hf_tasks.analysis.heads import (
    MASSES,
    SCORES,
    Score,
    ablate,
    applications_of_layers,
    by_layer,
    head_table,
    kind_of,
    kinds,
    score_heads,
    stands_out,
    without_heads,
)
from hf_tasks.analysis.intervals import difference, mean_interval
from hf_tasks.clauses import ClauseBatch
from hf_tasks.errors import UserError
from hf_tasks.tasks import get_task

LEGO = get_task("lego", clauses=(3, 4), query=False)
SMALL = {"num_attention_heads": 4, "intermediate_size": 32, "vocab_size": 64, "num_hidden_layers": 2, "num_labels": 2}

# `<bos> a + 1 b - a <pad>`: clause 1 is made from clause 0, and `a` occurs twice.
SENTENCE = ClauseBatch(
    input_ids=torch.tensor([[1, 5, 6, 7, 8, 9, 5, 0]]),
    attention_mask=torch.tensor([[1, 1, 1, 1, 1, 1, 1, 0]]),
    clause_of_token=torch.tensor([[-1, 0, 0, 0, 1, 1, 1, -1]]),
    read_tokens=torch.tensor([[1, 4]]),
    labels=torch.tensor([[0, 1]]),
    depths=torch.tensor([[1, 2]]),
    parents=torch.tensor([[-1, 0]]),
    asked=torch.tensor([[True, True]]),
)


def stock(kind: str) -> Any:
    torch.manual_seed(0)
    if kind in ("ours", "causal"):
        return encoder(LEGO, share_layers=False, input_injection=False, is_causal=kind == "causal").eval()
    if kind == "bert":
        return BertForTokenClassification(BertConfig(hidden_size=32, **SMALL)).eval()
    if kind == "llama":
        return LlamaForTokenClassification(LlamaConfig(hidden_size=32, pad_token_id=0, **SMALL)).eval()
    return AlbertForTokenClassification(AlbertConfig(hidden_size=32, embedding_size=16, **SMALL)).eval()


def uniform(keys: int = 7) -> torch.Tensor:
    """(1, 1, 8, 8), each row spread over the real tokens."""
    return (torch.arange(8) < keys).float().expand(1, 1, 8, 8) / keys


def scores_of(*maps: torch.Tensor, nulls: bool = False) -> Any:
    return score_heads(Stub(attentions=maps), [SENTENCE], nulls=nulls)  # type: ignore[arg-type]


def test_a_map_with_known_masses() -> None:
    association, parent, local = uniform().clone(), uniform().clone(), uniform().clone()
    association[0, 0, [1, 6]] = torch.eye(8)[[6, 1]]
    parent[0, 0, 4] = torch.tensor([0.25, 0.5, 0.25, 0, 0, 0, 0, 0])
    for clause in ([1, 2, 3], [4, 5, 6]):
        local[0, 0, clause] = torch.eye(8)[clause].mean(0)
    found = scores_of(torch.cat([association, parent, local], 1))
    values = {name: score.values[0, :, 0].tolist() for name, score in found.items()}
    assert values["association"] == pytest.approx([1, 1 / 7, 0])
    assert values["parent"] == pytest.approx([3 / 7, 0.75, 0])
    assert values["local"][2] == pytest.approx(2 / 3)
    assert values["entropy"][2] == pytest.approx(math.log(3))


def test_uniform_attention_is_the_baseline() -> None:
    found = scores_of(uniform())
    wanted = {"association": 1 / 7, "parent": 3 / 7, "local": 2 / 7, "entropy": math.log(7)}
    for name in SCORES:
        assert found[name].uniform == pytest.approx(found[name].values[0, 0], rel=1e-5)
    for name, value in wanted.items():
        assert found[name].uniform[0] == pytest.approx(value)


def test_band_is_that_of_the_official_code() -> None:
    # Weights by offset, 1e-3 everywhere, rows normalised; KL(map || band) with the map smoothed by 1e-3 as well.
    offset = (torch.arange(7)[:, None] - torch.arange(7)).abs()
    weights = torch.tensor([4.0, 2.0, 1.0, 0, 0, 0, 0])[offset]
    maps = torch.stack([weights / weights.sum(-1, keepdim=True), torch.rand(7, 7).softmax(-1)])
    band = (weights + 1e-3) / (weights + 1e-3).sum(-1, keepdim=True)
    smooth = (maps + 1e-3) / (maps + 1e-3).sum(-1, keepdim=True)
    wanted = (smooth * (smooth / band).log()).sum(-1)[:, 1:].mean(-1)  # of tokens inside clauses
    found = scores_of(torch.nn.functional.pad(maps, (0, 1, 0, 1))[None])["band"].values[0, :, 0]
    assert found == pytest.approx(wanted.numpy(), abs=1e-5)
    assert found[0] < 0.05 < found[1]


def test_causal_models_are_held_against_what_they_can_see() -> None:
    causal = torch.ones(8, 8).tril() / torch.arange(1, 9)[:, None]
    found = scores_of(causal.expand(1, 1, 8, 8))
    assert found["association"].values[0, 0, 0] == pytest.approx(1 / 7)  # the second `a` alone can see the other
    assert found["parent"].uniform[0] == pytest.approx(3 / 5)
    # Queries 2, 3, 5 and 6 have tokens of their clause before them.
    assert found["local"].uniform[0] == pytest.approx((1 / 3 + 2 / 4 + 1 / 6 + 2 / 7) / 4)


def test_sentences_without_a_query_for_a_score_do_not_count() -> None:
    alone = ClauseBatch(**{**vars(SENTENCE), "parents": torch.full((1, 2), -1)})
    found = score_heads(Stub(attentions=(uniform(),)), [alone, SENTENCE], nulls=False)  # type: ignore[arg-type]
    assert np.isnan(found["parent"].values[0, 0]).tolist() == [True, False]
    assert not np.isnan(found["local"].values).any()


def test_nulls_are_far_from_heads_that_mean_it() -> None:
    task = get_task("lego", clauses=(8, 8), query=False)
    rows = head_table(score_heads(encoder(task), batches_of(task, 64)))
    found = {(row["score"], row["head"]): row for row in rows if row["application"] == 0}
    for score, head in (("association", 0), ("association", 1), ("local", 2), ("local", 3)):
        row = found[score, head]
        assert row["excess_ci95"][0] > 0.4
        assert row["null"] < 0.2
        assert row["value"] == pytest.approx(row["excess"] + row["null"])
    for score, head in (("association", 2), ("local", 0)):
        assert found[score, head]["value"] < 0.05
    assert "null" not in found["entropy", 0]


def test_null_of_the_parents_is_a_permutation_among_clauses() -> None:
    # A map that looks at the parent alone; of eight clauses seven have a parent, drawn anew among themselves.
    task = get_task("lego", clauses=(8, 8), query=False)
    (batch,) = batches_of(task, 200)
    maps = torch.zeros(200, 1, *batch.input_ids.shape[1:], batch.input_ids.shape[1])
    for row in range(200):
        for clause in range(8):
            parent = batch.parents[row, clause]
            place = batch.read_tokens[row, parent] if parent >= 0 else 0
            maps[row, 0, batch.read_tokens[row, clause], place] = 1
    score = _by_row(maps, batch)["parent"]
    assert (score.values == 1).all()
    assert score.null is not None
    assert score.null.mean() == pytest.approx(1 / 7, abs=0.03)


def _by_row(maps: torch.Tensor, batch: ClauseBatch) -> Any:
    """Scores of a batch whose maps are given; the maps of a stub do not follow the rows that are asked for."""
    parts = [
        score_heads(
            Stub(attentions=(maps[row : row + 1],)),  # type: ignore[arg-type]
            [ClauseBatch(**{name: x[row : row + 1] for name, x in vars(batch).items()})],
            ["parent"],
            seed=row,
        )["parent"]
        for row in range(len(maps))
    ]
    return {
        "parent": type(parts[0])(
            *(np.concatenate([getattr(p, n) for p in parts], -1) for n in ("values", "uniform", "null"))
        )
    }


def test_wired_heads_get_their_names_in_every_application() -> None:
    task = get_task("lego", clauses=(6, 6), query=False)
    found = score_heads(encoder(task), batches_of(task, 16), MASSES, nulls=False)
    uniform_of = {name: float(found[name].uniform.mean()) for name in MASSES}
    assert kinds(found) == [["association", "association", "local", "local"]] * 3
    assert kind_of(uniform_of, uniform_of) is None
    assert kind_of({**uniform_of, "association": math.nan, "local": 0.9}, uniform_of) == "local"


def test_a_name_hangs_on_the_lower_end() -> None:
    # 0.6 on average, from uniform 0.2: half of the way. Sentences that differ much leave the name open.
    even = np.full(4, 0.2)
    found = {name: Score(np.zeros((1, 2, 4)), even) for name in MASSES}
    found["parent"] = Score(np.array([[[0.6, 0.6, 0.6, 0.6], [0.0, 1.0, 0.4, 1.0]]]), even)
    assert kinds(found) == [["parent", None]]


def test_a_shared_layer_has_its_heads_once() -> None:
    task = get_task("lego", clauses=(6, 6), query=False)
    scores = score_heads(encoder(task), batches_of(task, 16))
    assert applications_of_layers(encoder(task)) == [[0, 1, 2]]
    assert applications_of_layers(stock("bert")) == [[0], [1]]
    rows = head_table(by_layer(scores, [[0, 1, 2]]), "layer")
    assert [(row["layer"], row["head"]) for row in rows if row["score"] == "band"] == [(0, h) for h in range(4)]
    per_application = [row for row in head_table(scores) if (row["score"], row["head"]) == ("association", 1)]
    (one,) = (row for row in rows if (row["score"], row["head"]) == ("association", 1))
    assert len(per_application) == 3
    assert one["value"] == pytest.approx(np.mean([row["value"] for row in per_application]))
    assert one["null"] == pytest.approx(np.mean([row["null"] for row in per_application]), rel=1e-5)
    assert by_layer(scores, [[2], [0, 1]])["entropy"].values.shape == (2, 4, 16)


def test_heads_stand_out_against_both_baselines() -> None:
    row = {"ci95": [0.3, 0.4], "uniform": 0.2, "excess_ci95": [0.1, 0.2]}
    assert stands_out(row)
    assert not stands_out({**row, "uniform": 0.35})
    assert not stands_out({**row, "excess_ci95": [-0.1, 0.2]})


@pytest.mark.parametrize("kind", ["ours", "causal", "bert", "albert", "llama"])
def test_scores_do_not_depend_on_how_rows_are_batched(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = stock(kind)
    (batch,) = batches_of(LEGO, 6)
    whole = score_heads(model, [batch], nulls=False)
    monkeypatch.setattr("hf_tasks.analysis.forward.MAP_BYTES", 1)
    single = score_heads(model, [batch], nulls=False)
    for name in SCORES:
        assert whole[name].values.shape == (model.config.num_hidden_layers, 4, 6)
        assert whole[name].values == pytest.approx(single[name].values, abs=1e-5, nan_ok=True)


@pytest.mark.parametrize("kind", ["ours", "bert"])
def test_a_look_leaves_no_trace(kind: str) -> None:
    model: Any = (encoder(LEGO) if kind == "ours" else stock(kind)).train()
    model.dropout.eval()  # someone froze a part
    before = model.config._attn_implementation
    assert before == "sdpa"
    modes = [module.training for module in model.modules()]
    (batch,) = batches_of(LEGO, 2)
    score_heads(model, [batch])
    assert model.config._attn_implementation == before
    assert [module.training for module in model.modules()] == modes
    broken = ClauseBatch(**{**vars(batch), "input_ids": batch.input_ids + 1000})
    with pytest.raises(IndexError):
        score_heads(model, [broken])
    assert model.config._attn_implementation == before
    assert [module.training for module in model.modules()] == modes
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("kind", ["ours", "causal", "bert", "albert", "llama"])
def test_a_head_without_output_is_a_head_that_nobody_reads(kind: str) -> None:
    model = stock(kind)
    (batch,) = batches_of(LEGO, 4)
    whole = model(batch.input_ids, batch.attention_mask).logits
    with without_heads(model, [(0, 2), (1, 2), (2, 2)][: model.config.num_hidden_layers]):
        cut = model(batch.input_ids, batch.attention_mask).logits
        again = model(batch.input_ids, batch.attention_mask).logits
    assert not torch.allclose(cut, whole, atol=1e-4)
    assert torch.equal(cut, again)
    assert torch.equal(model(batch.input_ids, batch.attention_mask).logits, whole)
    with torch.no_grad():
        for module in set(output_projections(model)):
            module.weight[:, 16:24] = 0  # type: ignore[index]
    assert torch.allclose(model(batch.input_ids, batch.attention_mask).logits, cut, atol=1e-6)


def test_one_application_of_a_shared_layer_can_be_cut() -> None:
    model = stock("albert")
    assert len(set(output_projections(model))) == 1
    assert len(output_projections(model)) == len(layers(model)) == 2
    (batch,) = batches_of(LEGO, 4)
    maps = []
    for chosen in ([(0, 0), (1, 0)], [(1, 0)]):
        with without_heads(model, chosen):
            (_, found), *_ = attention_maps(model, batch)
            maps.append(found)
    # Cutting the second application alone leaves its map as it was, cutting the first as well does not.
    (_, whole), *_ = attention_maps(model, batch)
    assert torch.equal(maps[1][1], whole[1])
    assert not torch.allclose(maps[0][1], whole[1], atol=1e-6)


@pytest.mark.parametrize("kind", ["bert", "albert"])
def test_heads_that_are_cut_together_are_cut_one_by_one(kind: str) -> None:
    model = stock(kind)
    (batch,) = batches_of(LEGO, 4)
    with without_heads(model, [(0, 0), (0, 3), (1, 2)]):
        together = predict_logits(model, batch)
    with without_heads(model, [(0, 0)]), without_heads(model, [(0, 3)]), without_heads(model, [(1, 2)]):
        nested = predict_logits(model, batch)
    with without_heads(model, [(0, 0), (0, 3)]):
        fewer = predict_logits(model, batch)
    assert torch.equal(together, nested)
    assert not torch.allclose(together, fewer, atol=1e-5)


def predict_logits(model: Any, batch: ClauseBatch) -> torch.Tensor:
    with torch.no_grad():
        return model(batch.input_ids, batch.attention_mask).logits


def test_ablation_counts_what_is_lost() -> None:
    model = stock("bert")
    batches = batches_of(LEGO, 20)
    whole = read(batches, lambda batch: predict(model, batch))
    with without_heads(model, [(0, 1), (1, 1)]):
        cut = read(batches, lambda batch: predict(model, batch))
    cells = ablate(model, batches, whole, [(0, 1), (1, 1)])
    assert [cell["depth"] for cell in cells] == [None, 1, 2, 3, 4]
    for cell in cells:
        chosen = whole.depths == cell["depth"] if cell["depth"] else whole.depths > 0
        assert cell["value"] == pytest.approx(whole.correct[chosen].mean() - cut.correct[chosen].mean())
        assert cell["ci95"][0] < cell["value"] < cell["ci95"][1]
        assert cell["count"] == chosen.sum()


def test_what_cannot_be_looked_into_is_one_line() -> None:
    class NoMaps(Stub):
        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            raise AssertionError

    for model in (NoMaps(), Stub(logits=torch.zeros(1)), Stub(attentions=()), Stub(attentions=(None,))):
        with pytest.raises(UserError, match="gives no attention maps") as caught:
            score_heads(model, [SENTENCE])  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="unknown head score 'asociation'"):
        score_heads(Stub(), [SENTENCE], ["asociation"])  # type: ignore[arg-type]
    for place in ((0, 4), (2, 0), (-1, 0)):
        with pytest.raises(UserError, match=r"has no head .* heads are 0 ... 3, applications 0 ... 1"):
            without_heads(stock("bert"), [(0, 0), place]).__enter__()
    with pytest.raises(UserError, match="no output projection"):
        output_projections(Stub())  # type: ignore[arg-type]


def test_intervals() -> None:
    mean, low, high = mean_interval(np.array([[1.0, 2.0, 3.0, np.nan], [1, np.nan, np.nan, np.nan]]))
    assert (mean[0], high[0] - mean[0]) == pytest.approx((2, 1.959964 / math.sqrt(3)))
    assert low[0] == pytest.approx(4 - high[0])
    assert np.isnan([mean[1], low[1], high[1]]).all()
    value, (low, high) = difference([True] * 10, [True] * 10)
    assert value == 0
    assert low == -high < 0
    # Agresti & Min (2005): half an observation in each cell, then Wald. 20 pairs, 8 lost and 2 gained.
    value, (low, high) = difference([True] * 14 + [False] * 6, [True] * 6 + [False] * 8 + [True] * 2 + [False] * 4)
    centre = 6 / 22
    reach = 1.959964 * math.sqrt((11 / 22 - centre**2) / 22)
    assert (value, low, high) == pytest.approx((0.3, centre - reach, centre + reach), abs=1e-6)
    with pytest.raises(ValueError, match="same clauses"):
        difference([True], [])
