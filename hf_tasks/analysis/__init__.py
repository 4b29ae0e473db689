"""What came out of training, to look at.

- plots.py: pictures of results and datasets.
- Of token classifiers over labelled clauses: heads.py scores attention heads and cuts them off, probes.py reads values
  off states, patching.py exchanges states; shortcuts.py, ceiling.py, counterfactuals.py tell following from counting.
- callback.py logs accuracy by depth and head scores while a model trains.
- report.py puts all of it on one page (verdicts.py its sentences, pictures.py its pictures), for `hf-tasks analyze`.
"""
