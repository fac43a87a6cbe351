"""`cnntrain fit`: train a network and leave a run folder."""

import time
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from cnntrain import config, runs, schema
from cnntrain.commands import loading
from cnntrain.data.datasets import fingerprint
from cnntrain.data.feeds import Feed, ResidentFeed, StreamedFeed, sweep
from cnntrain.data.sources import Card, Dataset, Pixels, Split
from cnntrain.data.splits import class_weights
from cnntrain.devices import choose_device, choose_precision, hardware, prepare
from cnntrain.errors import InputError
from cnntrain.progress import clock, follow, say
from cnntrain.tables import interval, percent
from cnntrain.training import checkpoints
from cnntrain.training.evaluate import outputs, score
from cnntrain.training.learner import Learner
from cnntrain.training.loop import train


def run(composed: DictConfig) -> dict[str, Any]:
    """Train as configured; return what `--json` prints."""
    cfg = config.read(schema.Fit, composed)
    folder = Path(cfg.output_dir) if cfg.output_dir else None
    if folder:
        runs.refuse_existing(folder)
    prepare(deterministic=cfg.deterministic)
    device = choose_device(cfg.device)
    chosen, trainer = config.selection(cfg.dataset), cfg.trainer

    # Everything that can be wrong is found before anything is read or made.
    parts = config.build_parts(cfg.augmentation)
    shapes = config.build_model(cfg.model, config.dataset_card(cfg.dataset, cfg.data_root), device="meta")
    config.build_rates(cfg.schedule, config.build_optimizer(cfg.optimizer, shapes).defaults["lr"], 1, 1)

    dataset = config.load_dataset(cfg.dataset, cfg.data_root, cfg.seed)
    net = config.build_model(cfg.model, dataset.card, seed=cfg.seed)
    started_from = loading.start_from(net, cfg.init_from) if cfg.init_from else None
    net = net.to(device).to(memory_format=torch.channels_last)
    optimizer = config.build_optimizer(cfg.optimizer, net)
    feed = build_feed(dataset, cfg, parts, device)
    per_epoch = feed.batches // trainer.accumulate
    if per_epoch == 0:
        raise InputError(f"trainer.accumulate={trainer.accumulate} batches do not fit into one epoch")
    feed.seek(0, 0)
    feed.batch()  # what an augmentation or a file has against these images is said before anything is made
    precision = choose_precision(trainer.precision, device)
    learner = Learner(
        net,
        optimizer,
        config.build_rates(cfg.schedule, optimizer.defaults["lr"], trainer.epochs, per_epoch),
        precision=precision,
        seed=cfg.seed,
        accumulate=trainer.accumulate,
        label_smoothing=trainer.label_smoothing,
        clip=trainer.clip,
        ema=trainer.ema,
        class_weights=balance(dataset) if chosen.balance == "weights" else None,
    )

    name = f"{cfg.model['name']}-{cfg.dataset['name']}"
    folder = runs.create(folder or runs.new_folder("fit", name))
    record = runs.provenance(config.command_line("fit")) | {
        "hardware": hardware(),
        "device": str(device),
        "precision": precision,
        "seed": cfg.seed,
        "data": describe_data(dataset),
        "init_from": started_from,
    }
    runs.write_json(folder / runs.CONFIG, config.plain(composed))
    runs.write_json(folder / runs.RECORD, record)
    params = sum(parameter.numel() for parameter in net.parameters())
    say(
        f"{cfg.model['name']} ({params:,} parameters) on {cfg.dataset['name']}: {len(dataset.train):,} training and "
        f"{len(dataset.val) if dataset.val else 0:,} validation images, {trainer.epochs} epochs of {per_epoch} steps, "
        f"{device}, {precision}"
    )

    def save(which: str) -> None:
        checkpoints.save(folder / "checkpoints" / f"{which}.pt", {"format": 1, **learner.weights()})

    def validate(network: nn.Module, split: Split) -> dict[str, float]:
        batches = sweep(split, dataset.card, batch_size=trainer.eval_batch_size, device=device, workers=chosen.workers)
        return score(outputs(network, batches, precision=precision))

    val = dataset.val
    records = train(
        learner,
        feed,
        (lambda network: validate(network, val)) if val else None,
        epochs=trainer.epochs,
        validate_every=trainer.validate_every,
        log_every=trainer.log_every,
        patience=trainer.patience,
        save=save,
    )
    started = time.perf_counter()
    try:
        result = follow_run(records, folder, trainer, per_epoch)
    except BaseException as error:
        runs.write_json(folder / runs.RECORD, record | {"exit": f"{type(error).__name__}: {error}"})
        raise
    seconds = time.perf_counter() - started
    result |= {"run_dir": str(folder), "resumed_from": 0, "seconds": seconds}
    runs.write_json(folder / runs.RESULTS, result)
    runs.write_json(folder / runs.RECORD, record | {"seconds": seconds, "exit": "done"})
    report(folder, result)
    return result


def build_feed(dataset: Dataset, cfg: schema.Fit, parts: dict[str, Any], device: torch.device) -> Feed:
    """Keep the images on the device, or have workers read them."""
    settings = {
        "batch_size": cfg.trainer.batch_size,
        "parts": parts,
        "seed": cfg.seed,
        "device": device,
        "balanced": cfg.dataset["balance"] == "sampling",
    }
    workers = cfg.dataset["workers"]
    if workers == 0 and isinstance(dataset.train.source, Pixels):
        return ResidentFeed(dataset.train, dataset.card, **settings)
    return StreamedFeed(dataset.train, dataset.card, workers=workers, **settings)


def balance(dataset: Dataset) -> torch.Tensor:
    """Return the weight of each class in the loss."""
    return class_weights(dataset.train.labels, len(dataset.card.classes))


def describe_data(dataset: Dataset) -> dict[str, Any]:
    """Return what a run must remember of its dataset to be evaluated later."""
    card: Card = dataset.card
    counts = {name: len(split) for name in ("train", "val", "test") if (split := getattr(dataset, name)) is not None}
    return {
        "name": card.name,
        "shape": card.shape,
        "classes": card.classes,
        "mean": card.mean,
        "std": card.std,
        "images": counts,
        "fingerprint": fingerprint(dataset),
        "skipped": dataset.skipped,
    }


def follow_run(records: Any, folder: Path, trainer: schema.Trainer, per_epoch: int) -> dict[str, Any]:
    """Log every record; return the numbers of the last epoch and of the best."""
    steps = trainer.epochs * per_epoch
    result: dict[str, Any] = {
        "steps": 0,
        "epochs": 0,
        "samples_per_second": None,
        "train": None,
        "val": None,
        "best": None,
    }
    samples = trainer.batch_size * trainer.accumulate
    for record in follow(records, steps=steps, epochs=trainer.epochs, samples_per_step=samples):
        runs.append_metrics(folder, record)
        if record["kind"] == "train":
            result |= {"steps": record["step"], "train": {"loss": record["loss"], "top1": record["top1"]}}
            if "seconds" in record:
                result |= {"epochs": record["epoch"], "samples_per_second": record["samples_per_second"]}
        else:
            result["val"] = {key: record[key] for key in ("n", "loss", "top1", "top1_low", "top1_high")}
            if record["best"]:
                result["best"] = result["val"] | {"epoch": record["epoch"]}
    result["objective"] = result["best"]["top1"] if result["best"] else result["train"]["top1"]
    return result


def report(folder: Path, result: dict[str, Any]) -> None:
    """Tell the person what came out, where it lies and what to type next."""
    best = result["best"]
    if best:
        accuracy = interval(best["top1"], best["top1_low"], best["top1_high"], best["n"])
        print(f"validation top-1  {accuracy}, best of {result['epochs']} epochs (epoch {best['epoch']})")
    else:
        print(f"training top-1    {percent(result['train']['top1'])} in the last epoch (no validation images)")
    print(f"took              {clock(result['seconds'])}, {result['samples_per_second']:,.0f} images/s")
    print(f"run               {folder}")
    print(f"next              cnntrain eval run={folder}")
