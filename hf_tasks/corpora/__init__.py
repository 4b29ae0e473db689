"""Textbook-style corpora: what to ask, whom to ask, what to keep.

- base.py is the contract. A corpus is one file: tinystories.py, textbook.py, worked_examples.py, code_exercises.py,
  topics_qa.py; `CORPORA` below is the registry.
- Writers: server.py (any OpenAI-compatible server), embedded.py (a small model in process), and those without a model,
  grammar.py for stories, `ExerciseWriter` and `WorkedExampleWriter`; `GRAMMARS` says which writes what.
- job.py asks for the rows and loses none, with cache.py.
- sandbox.py runs exercises, decontaminate.py finds benchmark problems, diversity.py measures sameness.
- judge.py has completions graded by a model, offline_grades.py needs none, memorisation.py looks for copies; grading.py
  does all of it for one model.
"""

from hf_tasks.corpora.base import Corpus, Writer
from hf_tasks.corpora.code_exercises import CodeExercises, ExerciseWriter
from hf_tasks.corpora.grammar import GrammarWriter
from hf_tasks.corpora.textbook import Textbook
from hf_tasks.corpora.tinystories import TinyStories, TinyStoriesInstruct
from hf_tasks.corpora.topics_qa import TopicsQA
from hf_tasks.corpora.worked_examples import WorkedExamples, WorkedExampleWriter
from hf_tasks.errors import UserError, unknown_name

CORPORA: dict[str, type[Corpus]] = {
    cls.name: cls for cls in (TinyStories, TinyStoriesInstruct, Textbook, WorkedExamples, CodeExercises, TopicsQA)
}
GRAMMARS: dict[str, type[Writer]] = {
    TinyStories.name: GrammarWriter,
    TinyStoriesInstruct.name: GrammarWriter,
    CodeExercises.name: ExerciseWriter,
    WorkedExamples.name: WorkedExampleWriter,
}


def get_corpus(name: str, words: int | None = None) -> Corpus:
    """The corpus of this name.

    Args:
        words: of stories: see `TinyStories`.

    Raises:
        UserError: there is none; `words` out of range, or of a corpus that is asked for no words.
    """
    if name not in CORPORA:
        raise unknown_name("corpus", name, CORPORA, "see: hf-tasks list corpora")
    if words is None:
        return CORPORA[name]()
    stories = {known: cls for known, cls in CORPORA.items() if issubclass(cls, TinyStories)}
    if name not in stories:
        raise UserError(f"words {words} is for {', '.join(stories)}; of {name} leave it out")
    return stories[name](words)
