"""The methods by name: what `what=` takes."""

from cnntrain.studies.explain.attention import ATTENTION
from cnntrain.studies.explain.attribution import Attribution, explain_images
from cnntrain.studies.explain.cam import CAM
from cnntrain.studies.explain.deconvnet import deconvnet
from cnntrain.studies.explain.explanation import Method
from cnntrain.studies.explain.filters import filters
from cnntrain.studies.explain.gradcam import GRADCAM
from cnntrain.studies.explain.gradients import GUIDED, SALIENCY, SMOOTHGRAD
from cnntrain.studies.explain.integrated import INTEGRATED
from cnntrain.studies.explain.maps import maps
from cnntrain.studies.explain.maximise import maximise
from cnntrain.studies.explain.neighbours import neighbours
from cnntrain.studies.explain.ngrams import ngrams
from cnntrain.studies.explain.occlusion import OCCLUSION
from cnntrain.studies.explain.patches import patches

ATTRIBUTIONS: dict[str, Attribution] = {
    "occlusion": OCCLUSION,
    "cam": CAM,
    "gradcam": GRADCAM,
    "saliency": SALIENCY,
    "guided": GUIDED,
    "integrated": INTEGRATED,
    "smoothgrad": SMOOTHGRAD,
    "attention": ATTENTION,
}

LEARNED: dict[str, Method] = {
    "filters": filters,
    "maps": maps,
    "patches": patches,
    "deconvnet": deconvnet,
    "maximise": maximise,
    "neighbours": neighbours,
}

OF_SENTENCES: dict[str, Method] = {"ngrams": ngrams}  # the others are of images

METHODS: dict[str, Method] = (
    LEARNED | {name: explain_images(name, attribution) for name, attribution in ATTRIBUTIONS.items()} | OF_SENTENCES
)
