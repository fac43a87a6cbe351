"""A study of explanations: methods asked about one network and the same images, one after the other."""

from collections.abc import Sequence
from dataclasses import dataclass

from cnntrain.runtime.errors import InputError, unknown
from cnntrain.studies.explain.explanation import Explanation
from cnntrain.studies.explain.options import Explain
from cnntrain.studies.explain.question import Question, find_image_set, find_subject
from cnntrain.studies.explain.registry import METHODS


@dataclass(frozen=True, eq=False)
class ExplainStudy:
    """What each method answers about a network and the images of a question."""

    question: Question
    answers: dict[str, Explanation]


def chosen_methods(what: Sequence[str] | str) -> list[str]:
    """Return the names of the methods that `what=` means.

    Raises `InputError` for an unknown one, and for none.
    """
    names = [what] if isinstance(what, str) else list(dict.fromkeys(what))
    if not names:
        raise InputError(f"what=[] names no method; choose from {', '.join(METHODS)}")
    for name in names:
        if name not in METHODS:
            raise unknown("what", name, METHODS)
    return names


def explain(options: Explain) -> ExplainStudy:
    """Ask the methods that `what=` names."""
    names = chosen_methods(options.what)
    subject = find_subject(options)
    question = Question(subject, find_image_set(subject, options), options)
    return ExplainStudy(question, {name: METHODS[name](question) for name in names})
