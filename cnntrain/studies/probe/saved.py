"""Linear probes as the last stages of runs of their own, which other commands open."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from cnntrain.config.build import load_dataset
from cnntrain.nn.probe import PROBE
from cnntrain.runs import records
from cnntrain.runs.folder import CONFIG, RECORD, SPLITS
from cnntrain.runs.images import note_files
from cnntrain.runs.load import rebuild, weights_digest
from cnntrain.runs.train import describe_data
from cnntrain.runtime import disk
from cnntrain.runtime.jsonfile import as_plain, write_json
from cnntrain.studies.networks import INPUT, NamedNetwork
from cnntrain.studies.probe.options import Probe
from cnntrain.studies.probe.probes import LinearProbe
from cnntrain.studies.probe.study import ProbeStudy
from cnntrain.training import checkpoints

FOLDER = "probes"


def save_probes(study: ProbeStudy, cfg: Probe, folder: Path) -> list[Path]:
    """Write each probe of a run, and return the folders of the new runs. The pixels have no stage to stand behind."""
    return list(saved(study, cfg, folder / FOLDER))


def saved(study: ProbeStudy, cfg: Probe, folder: Path) -> Iterator[Path]:
    """Write each probe of a run, and yield its folder: the run's name, the stage and the classifier."""
    networks = {network.name: network for network in study.networks}
    for answer in study.answers:
        probe, network = answer.probe, networks.get(answer.run)
        if answer.trained and not probe.permuted and probe.stage != INPUT and network is not None:
            yield write_probe(folder / answer.run / f"{probe.stage}_{probe.classifier}", network, probe, study, cfg)


def write_probe(folder: Path, network: NamedNetwork, probe: LinearProbe, study: ProbeStudy, cfg: Probe) -> Path:
    """Write a network up to a stage, and its probe behind it, as a run, and return its folder."""
    assert network.folder is not None
    images = study.images
    settings = network.settings | {"model": network.settings["model"] | {"probe": {probe.stage: cfg.pool}}}
    record = records.record(network.folder)
    if images.other is None:
        if (network.folder / SPLITS).is_file():
            disk.write(folder / SPLITS, (network.folder / SPLITS).read_bytes())
    else:  # of other images, with classes of their own
        settings |= {"dataset": images.other, "data_root": images.data_root}
        dataset = load_dataset(images.other, images.data_root, settings["seed"])
        record |= {"data": describe_data(replace(dataset, info=images.info))}
        note_files(folder, dataset)
    net = rebuild(settings, images.info)
    put_into(net, network.net, probe)
    state = checkpoints.without_training(checkpoints.load(checkpoints.path_of(network.folder, cfg.weights)))
    rest = {key: value for key, value in state.items() if key not in ("model", "ema")}
    for which in ("best", "last"):
        checkpoints.save(checkpoints.path_of(folder, which), rest | {"model": net.state_dict()})
    made = {"made_from": str(network.folder), "made_from_weights": weights_digest(network.folder, cfg.weights)}
    write_json(folder / RECORD, record | made | {"mode": "probe", "stages": [probe.stage]})
    write_json(folder / CONFIG, as_plain(settings))
    return folder


def put_into(net: nn.Sequential, trained: nn.Sequential, probe: LinearProbe) -> None:
    """Give a network that ends with a probe the weights of the trained one and of the probe, in float32."""
    weights = {key: value for key, value in trained.state_dict().items() if key in net.state_dict()}
    weights[f"{PROBE}.linear.weight"] = torch.from_numpy(probe.weights.T.copy()).float()
    weights[f"{PROBE}.linear.bias"] = torch.from_numpy(probe.bias).float()
    net.load_state_dict(weights)
