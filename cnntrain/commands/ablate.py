"""`cnntrain ablate`: train with and without layers, seed by seed, and say what each is worth."""

from typing import Any

from omegaconf import DictConfig

from cnntrain.config.compose import command_line, plain_config
from cnntrain.config.read import read_config
from cnntrain.config.schema import Ablate
from cnntrain.runs import records, setup
from cnntrain.runs.folder import create_folder, provenance
from cnntrain.runs.load import naming_plugins
from cnntrain.runtime.devices import prepare
from cnntrain.runtime.errors import IncompleteError, InputError, listed
from cnntrain.runtime.jsonfile import write_json
from cnntrain.runtime.progress import say
from cnntrain.stats import looks
from cnntrain.studies import cells, grid, pool
from cnntrain.studies.ablation import answer as ablation
from cnntrain.studies.ablation import plan
from cnntrain.studies.ablation import variants as study
from cnntrain.studies.ablation.controls import controls
from cnntrain.studies.ablation.study import (
    STUDY,
    Watch,
    analysed,
    answer_study,
    estimate,
    looked,
    plan_json,
    show_plan,
    tell_changes,
)


def run(composed: DictConfig) -> dict[str, Any]:
    """Plan a study, make its cells and answer; return what `--json` prints."""
    cfg = read_config(Ablate, composed)
    if cfg.check_resume or cfg.init_from:
        raise InputError(
            "check_resume and init_from belong to fit; trained networks enter a study by mode= and runs=[…]"
        )
    prepare(deterministic=cfg.deterministic)
    trained = grid.trained_runs(cfg)
    with naming_plugins(records.settings(trained[0]) if trained else {}):
        variants = controls(study.variants_of(cfg, trained), cfg.control)
    lines = plan.plan(variants)
    comparisons = ablation.comparisons(analysed(lines))
    seeds = grid.seeds_of(cfg, trained, comparisons)
    folder = grid.study_folder(cfg, variants, trained)
    made = grid.cells_of(cfg, variants, seeds, folder)
    jobs = cfg.jobs or pool.default_jobs(cfg.device)
    left = [cell for cell in made if not cells.finished(cell.folder)]
    seconds = estimate(lines, cfg) if left or cfg.plan else None
    show_plan(cfg, lines, seeds, left, seconds, jobs)
    say(plan.prospects(looks.look(looked(folder), list(seeds), comparisons, cfg.looks), comparisons))
    if cfg.plan:
        return {"study_dir": str(folder), "rows": [], "table": plan_json(lines, len(seeds)), "complete": False}
    if cfg.resume == "never" and len(left) < len(made):
        raise InputError(f"{folder} already holds cells of this study; leave out resume=never to go on with it")
    create_folder(folder)
    write_json(folder / STUDY, {"settings": plain_config(composed), **provenance(command_line("ablate"))})
    failed: list[str] = []
    if left:
        expected = [seconds[cell.variant] if seconds else 0.0 for cell in left]
        watch = Watch(left, expected, jobs)
        pool.make_all(left, min(jobs, len(left)), watch.hear, plugins=cfg.plugins, deterministic=cfg.deterministic)
        failed = watch.failed
    else:
        tell_changes(made[0])
    found = answer_study(cfg, folder, lines, made, list(seeds))
    if failed:
        again = "the same command makes them again"
        raise IncompleteError(f"{len(failed)} of {len(made)} runs failed ({listed(failed)}); {again}", found)
    return found


def check(composed: DictConfig) -> None:
    """Find what is wrong with a configuration before anything is read or made."""
    cfg = read_config(Ablate, composed)
    if cfg.mode == "retrain":
        setup.check(cfg)


# The answer.
