"""Exact match by slice, for `evaluate.load("hf_tasks/metrics/exact_match_by_slice.py")`.

- `evaluate` copies this file and the siblings it names with `from .name import` into a cache of its own and runs them
  there, so this package need not be installed; `hf-tasks publish` uploads the same files.
- `evaluate` finds the imports by regular expression: one import a line, and none in the text of a docstring.
"""

import datasets
import evaluate

from .functions import exact_match_by_slice

_DESCRIPTION = "Share of predictions equal to their reference, over all and by slice, with 95 % Wilson intervals."
_INPUTS = """
Args:
    predictions (list of str): decoded answers.
    references (list of str): the right answers.
    slices (dict of lists): columns to group by, e.g. {"digits_a": [...], "digits_b": [...]}.
Returns:
    exact_match (float), ci95 (low, high), count (int), cells (one a slice, in the form of results.json).
"""
_CITATION = """@article{wilson1927probable,
  title={Probable inference, the law of succession, and statistical inference},
  author={Wilson, Edwin B.},
  journal={Journal of the American Statistical Association},
  volume={22}, number={158}, pages={209--212}, year={1927}
}"""


class ExactMatchBySlice(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(self, predictions: list[str], references: list[str], slices: dict[str, list] | None = None) -> dict:
        return exact_match_by_slice(predictions, references, slices)
