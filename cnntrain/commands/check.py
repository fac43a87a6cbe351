"""`cnntrain config check`: what `fit` would refuse, without reading an image or making anything."""

from typing import Any

from omegaconf import DictConfig

from cnntrain import config, schema
from cnntrain.commands import pretrained, session
from cnntrain.devices import choose_device
from cnntrain.models.shapes import describe_shape


def run(composed: DictConfig) -> dict[str, Any]:
    """Check the configuration of a `fit`; return what `--json` prints."""
    cfg = pretrained.follow(config.read(schema.Fit, composed))
    session.check(cfg)
    card = config.dataset_card(cfg.dataset, cfg.data_root)
    net = config.build_model(cfg.model, card, device="meta")
    parts = [name for name, options in cfg.augmentation.items() if options is not None]
    params = sum(parameter.numel() for parameter in net.parameters())
    shape = describe_shape(card.shape)
    print(
        f"fit takes it: {cfg.model['name']} ({params:,} parameters) on {card.name} ({shape}, {len(card.classes)} "
        f"classes), augmentation {', '.join(parts) or 'none'}, {cfg.optimizer['name']}, {cfg.schedule['name']}, "
        f"{cfg.trainer.epochs} epochs of batches of {cfg.trainer.batch_size}, {choose_device(cfg.device)}"
    )
    return {
        "model": cfg.model["name"],
        "params": params,
        "dataset": card.name,
        "config": config.plain(composed) | {"dataset": cfg.dataset},
    }
