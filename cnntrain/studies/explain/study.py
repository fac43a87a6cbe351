"""A study of explanations: methods asked about one network and the same images, one after the other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from cnntrain.runtime.errors import InputError, unknown
from cnntrain.studies.explain.attribution import side_by_side
from cnntrain.studies.explain.explanation import Explanation
from cnntrain.studies.explain.needs import refuse_what_does_not_fit
from cnntrain.studies.explain.options import ALL, Explain, explores
from cnntrain.studies.explain.question import Question, Subject, find_image_set, find_subject
from cnntrain.studies.explain.registry import ATTRIBUTIONS, METHODS, OF_SENTENCES
from cnntrain.studies.explain.sanity import SanityRow, check_sanity, find_permuted, sanity_sentence
from cnntrain.studies.explain.scores import MethodScores, find_scored, measure_scores
from cnntrain.studies.explain.search import units_to_show
from cnntrain.studies.explain.tiles import TiledPicture

UNITS = 8  # of each stage, where all methods show the same ones


@dataclass(frozen=True, eq=False)
class ExplainStudy:
    """What each method answers about a network and the images of a question, and what its maps are worth.

    `beside` are pictures with the maps of several methods, one an image. `refused` are the methods of `what=all` that
    the network does not allow, with the reason.
    """

    question: Question
    answers: dict[str, Explanation]
    beside: Sequence[TiledPicture] = field(default_factory=list)
    refused: Mapping[str, str] = field(default_factory=dict)
    scores: MethodScores | None = None
    sanity: Sequence[SanityRow] = field(default_factory=list)


def chosen_methods(what: Sequence[str] | str) -> list[str]:
    """Return the names of the methods that `what=` means.

    Raises `InputError` for an unknown one, and for none.
    """
    names = [what] if isinstance(what, str) else list(dict.fromkeys(what))
    if not names:
        raise InputError(f"what=[] names no method; choose from {', '.join(METHODS)}")
    if names == [ALL]:
        return list(METHODS)
    for name in names:
        if name not in METHODS:
            raise unknown("what", name, (*METHODS, ALL))
    return names


def refuse_unfit(subject: Subject, name: str) -> None:
    """Raise `InputError` for a method of images and a network that reads sentences, or the reverse."""
    if subject.info.words and name not in OF_SENTENCES:
        raise InputError(
            f"what={name} is of images, and {subject.folder} reads words: take what={' or '.join(OF_SENTENCES)}"
        )
    if name in OF_SENTENCES and not subject.info.words:
        raise InputError(f"what={name} is of networks that read sentences, and {subject.folder} reads images")


def explain(options: Explain) -> ExplainStudy:
    """Ask the methods that `what=` names, and measure what their maps are worth as far as that is asked for.

    Raises `InputError` for scores of methods that give no maps of the image.
    """
    names = chosen_methods(options.what)
    mapping = {name: ATTRIBUTIONS[name] for name in names if name in ATTRIBUTIONS}
    if (options.scores or options.sanity) and not mapping:
        raise InputError(f"what={names[0]} has no maps to be scored; take one of {', '.join(ATTRIBUTIONS)}")
    if options.random_labels is not None and not options.sanity:
        raise InputError("random_labels= is compared with sanity=true")
    subject = find_subject(options)
    refuse_what_does_not_fit(subject, names, options)
    permuted, splits = find_permuted(subject, options.random_labels), find_scored(subject, options)
    question = Question(subject, find_image_set(subject, options), options)
    about_units = alike(question) if explores(options) else question
    about_images = replace(question, options=replace(options, stages=None)) if explores(options) else question
    answers, refused = dict[str, Explanation](), dict[str, str]()
    for name in names:
        try:
            refuse_unfit(subject, name)
            answers[name] = METHODS[name](about_images if name in ATTRIBUTIONS else about_units)
        except InputError as error:
            if not explores(options):
                raise
            refused[name] = str(error)
    mapping = {name: attribution for name, attribution in mapping.items() if name in answers}
    sanity = check_sanity(about_images, mapping, permuted) if options.sanity else []
    for name in mapping:
        remarks = [*answers[name].remarks, sanity_sentence(sanity, name)]
        answers[name] = replace(answers[name], remarks=remarks)
    maps = {name: answers[name] for name in mapping}
    beside = side_by_side(question, maps) if len(maps) > 1 and not explores(options) else []
    scores = measure_scores(subject, about_images.options, mapping, splits) if splits else None
    return ExplainStudy(question, answers, beside, refused, scores, sanity)


def alike(question: Question) -> Question:
    """Return a question of which all methods show the same units of the same stages."""
    chosen = units_to_show(question, UNITS)
    classes = chosen.units[question.subject.stages[-1]].tolist() if question.options.classes else None
    units = classes or question.options.units or UNITS
    return replace(question, options=replace(question.options, stages=list(chosen.units), units=units, classes=None))
