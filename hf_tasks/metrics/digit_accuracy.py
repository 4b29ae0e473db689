"""Digit accuracy by place, for `evaluate.load("hf_tasks/metrics/digit_accuracy.py")`.

- `evaluate` copies this file and the siblings it names with `from .name import` into a cache of its own and runs them
  there, so this package need not be installed; `hf-tasks publish` uploads the same files.
- `evaluate` finds the imports by regular expression: one import a line, and none in the text of a docstring.
"""

import datasets
import evaluate

from .functions import digit_accuracy

_DESCRIPTION = "Share of the references' digits that the prediction has at the same place, by place (0 is the units)."
_INPUTS = """
Args:
    predictions (list of str): decoded answers.
    references (list of str): the right answers.
    reverse (bool): whether the answers are written units first.
Returns:
    digit_accuracy (float), by_place (list of float), count_by_place (list of int), length_accuracy (float).
"""


class DigitAccuracy(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(self, predictions: list[str], references: list[str], reverse: bool = False) -> dict:
        return digit_accuracy(predictions, references, reverse)
