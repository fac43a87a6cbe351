"""The methods by name: what `what=` takes."""

from cnntrain.studies.explain.attribution import Attribution, explain_images
from cnntrain.studies.explain.cam import CAM
from cnntrain.studies.explain.explanation import Method
from cnntrain.studies.explain.occlusion import OCCLUSION

ATTRIBUTIONS: dict[str, Attribution] = {"occlusion": OCCLUSION, "cam": CAM}

METHODS: dict[str, Method] = {name: explain_images(name, attribution) for name, attribution in ATTRIBUTIONS.items()}
