"""Probes on planted values, and patches in a model whose flow is known."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from analysis_samples import Stub, batches_of, encoder, tokenizer_of
from torch import nn

from hf_tasks.analysis.counterfactuals import Editor, patch_pairs
from hf_tasks.analysis.forward import layers
from hf_tasks.analysis.patching import distances, patch
from hf_tasks.analysis.probes import States, clause_states, probe
from hf_tasks.clauses import ClauseBatch
from hf_tasks.errors import UserError
from hf_tasks.tasks import get_task


def planted(classes: int, size: int, count: int = 600) -> States:
    """Two layers of noise; from the second one the class can be read along random directions. Two depths."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (count,), generator=generator)
    noise = torch.randn(2, count, size, generator=generator)
    noise[1] += 8 * torch.nn.functional.normalize(torch.randn(classes, size, generator=generator), dim=1)[labels]
    return States(noise, labels, torch.arange(count) % 2 + 1, torch.arange(count) // 2)


@pytest.mark.parametrize("classes", [2, 6])
def test_planted_values_are_found_and_nothing_else(classes: int) -> None:
    cells = probe(planted(classes, 32))
    assert [(cell["layer"], cell["depth"]) for cell in cells] == [(0, 1), (0, 2), (1, 1), (1, 2)]
    for cell in cells:
        assert cell["count"] == 150  # every second sentence is held out
        assert cell["control_ci95"][0] - 0.05 < 1 / classes < cell["control_ci95"][1] + 0.05
        if cell["layer"] == 1:
            assert cell["value"] > 0.99
            assert cell["selectivity_ci95"][0] > 0.2
        else:
            assert cell["value"] == pytest.approx(1 / classes, abs=0.12)
            assert cell["selectivity_ci95"][0] < 0 < cell["selectivity_ci95"][1]


def test_values_on_a_line_are_found() -> None:
    """Five classes along one direction, which regression on indicators would mask."""
    found = planted(5, 8)
    found.states[1] = torch.randn(600, 8, generator=torch.Generator().manual_seed(1)) * 0.1
    found.states[1, :, 3] += found.labels
    assert all(cell["value"] > 0.95 for cell in probe(found) if cell["layer"] == 1)


def test_probes_are_tested_on_what_they_have_not_seen() -> None:
    # 150 sentences in 400 dimensions can be learned by heart, whatever the labels.
    assert all(abs(cell["value"] - 0.5) < 0.15 for cell in probe(planted(2, 400)) if cell["layer"] == 0)


def test_probes_are_deterministic() -> None:
    assert probe(planted(2, 16)) == probe(planted(2, 16))
    assert probe(planted(2, 16), seed=1)[0]["control"] != probe(planted(2, 16), seed=2)[0]["control"]


def test_states_are_those_of_the_read_out_tokens() -> None:
    task = get_task("lego", clauses=(3, 5), query=False)
    model = encoder(task).eval()
    batches = batches_of(task, 10, batch_tokens=100)
    assert len(batches) > 1
    found = clause_states(model, batches)
    first = 0
    for index, batch in enumerate(batches):
        outputs = model(batch.input_ids, batch.attention_mask, output_hidden_states=True)
        for row in range(len(batch.labels)):
            for clause in range(int((batch.read_tokens[row] >= 0).sum())):
                want = torch.stack([state[row, batch.read_tokens[row, clause]] for state in outputs.hidden_states])
                assert torch.allclose(found.states[:, first], want, atol=1e-5)
                assert found.labels[first] == batch.labels[row, clause]
                assert found.sentences[first] == row + sum(len(b.labels) for b in batches[:index])
                first += 1
    assert first == len(found.labels)
    with pytest.raises(UserError, match="no hidden states"):
        clause_states(Stub(logits=None), batches)  # type: ignore[arg-type]


class Layer(nn.Module):
    """Gives the clause at one depth its value: that of its parent, changed by its sign."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.depth = depth

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        here = 1 + 5 * (self.depth - 1)
        above = state[:, here - 5, 0] if self.depth > 1 else 0.0
        state = state.clone()
        state[:, here, 0] = (above + state[:, here + 2, 1]) % 2
        return state


class Flow(nn.Module):
    """Clauses stand in order, and layer d computes depth d. Signs are in coordinate 1, values in coordinate 0."""

    device = torch.device("cpu")
    _can_record_outputs = {"hidden_states": Layer}  # noqa: RUF012

    def __init__(self, depth: int, minus: int) -> None:
        super().__init__()
        self.minus, self.config = minus, SimpleNamespace(_attn_implementation="eager")
        self.layers = nn.ModuleList(Layer(d + 1) for d in range(depth))

    @property
    def base_model(self) -> Any:
        return self

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        # Room for the two tokens by which layers are put in order.
        state = torch.zeros(len(input_ids), max(input_ids.shape[1], 40), 2)
        state[:, : input_ids.shape[1], 1] = (input_ids == self.minus).float()
        for layer in self.layers:
            state = layer(state)
        value = state[:, : input_ids.shape[1], 0]
        return SimpleNamespace(logits=torch.stack([1 - value, value], -1))


def test_patches_carry_as_far_as_the_flow_goes() -> None:
    task = get_task("lego", clauses=(5, 5), order="forward", query=False)
    tokenizer = tokenizer_of(task)
    model: Any = Flow(5, tokenizer.convert_tokens_to_ids("-"))
    editor = Editor(task, task.table("test", 60))
    (pairs,) = patch_pairs(editor, tokenizer)
    for depth in (1, 2, 4):
        chosen = pairs[2] == depth - 1  # in order, the clause of depth d is clause d - 1
        assert chosen.sum() > 3
        part = (*(ClauseBatch(**{n: x[chosen] for n, x in vars(b).items()}) for b in pairs[:2]), pairs[2][chosen])
        cells = {(cell["layer"], cell["distance"]): cell for cell in patch(model, [part])}  # type: ignore[list-item]
        assert set(cells) == {(layer, away) for layer in range(6) for away in range(6 - depth)}
        for (layer, away), cell in cells.items():
            assert cell["count"] == chosen.sum()
            # The value stands at its clause from layer `depth` on, and its child reads it in the next layer.
            assert cell["value"] == float(layer >= depth if away == 0 else layer == depth)


def test_a_patch_into_itself_changes_nothing_and_embeddings_know_nothing() -> None:
    task = get_task("lego", clauses=(4, 4), query=False)
    model, tokenizer = encoder(task), tokenizer_of(task)
    pairs = patch_pairs(Editor(task, task.table("test", 40)), tokenizer)
    assert patch(model, [(ours, ours, clauses) for ours, _, clauses in pairs]) == []  # no prediction differs
    assert len(layers(model)) == 3
    for cell in patch(model, pairs):
        if cell["layer"] == 0:  # the read-out token is the variable, the same in both
            assert cell["value"] == 0
        if cell["layer"] == 3:
            assert cell["value"] == float(cell["distance"] == 0)


def test_patched_sentences_must_be_aligned() -> None:
    task = get_task("lego", clauses=(4, 5), query=False)
    (batch,) = batches_of(task, 20)
    other = ClauseBatch(**{**vars(batch), "read_tokens": batch.read_tokens + 1})
    with pytest.raises(ValueError, match="same places"):
        patch(encoder(task), [(batch, other, torch.zeros(20, dtype=torch.long))])


def test_distances_follow_the_parents() -> None:
    # 0 <- 1 <- 3, 0 <- 2, and 4 on its own; the sixth place is empty.
    batch: Any = SimpleNamespace(
        parents=torch.tensor([[-1, 0, 0, 1, -1, -1]] * 2), read_tokens=torch.tensor([[1, 6, 11, 16, 21, -1]] * 2)
    )
    assert distances(batch, torch.tensor([0, 1])).tolist() == [[0, 1, 1, 2, -1, -1], [-1, 0, -1, 1, -1, -1]]
