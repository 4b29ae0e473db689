"""Small language models on texts: training is the plain `Trainer` on packed blocks.

- recipe.py says what is read and measured, sources.py where texts come from, model.py what is trained.
- data.py has tokenizer, documents and packing: positions restart and attention ends where a document does.
- train.py, generate.py and evaluate.py are the road's steps.
"""
