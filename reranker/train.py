"""One configuration, trained and scored from the command line, without a search.

python -m reranker.train --model demo-tiny --epochs 3 --learning-rate 1e-2
python -m reranker.train --config results/runs/demo/best_config.yaml --source demo --output my-reranker
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from reranker.config import (
    DataConfig,
    DemoData,
    MovieLensData,
    TablesData,
    TrialConfig,
    build_trial_config,
    validation_faults,
)
from reranker.console import say
from reranker.entry import STOPPED, Parser, a_path, last_net
from reranker.errors import EnvironmentFault, Fault, InputError

_SOURCES: tuple[type[BaseModel], ...] = (DemoData, MovieLensData, TablesData)


@last_net
def main(argv: list[str] | None = None) -> int:
    """Exit code: 0 trained, 2 the user's fault, 1 ours."""
    args = _parser().parse_args(argv)
    try:
        _run(_trial_config(args), _data_config(args), args.metric, args.output)
    except KeyboardInterrupt:
        say("stopped; the adapter of the best epoch so far is kept", error=True)
        return STOPPED
    return 0


def _run(config: TrialConfig, data_config: DataConfig, metric: str, output: Path) -> None:
    if "WORLD_SIZE" not in os.environ:  # alone: trl refuses to see several GPUs
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")
    from reranker.baselines import RANDOM  # torch and transformers take seconds to import
    from reranker.data import RerankingData
    from reranker.files import writing
    from reranker.metrics import METRIC_NAMES, summarise
    from reranker.sft import EpochReport, fine_tune
    from reranker.trial_folder import TrialFolder

    data = RerankingData.prepare(data_config)
    say(data.describe(config))
    _print_row("", {name: name for name in ("train_loss", "val_loss", *METRIC_NAMES)})
    for name, ranks in data.baselines(config, "validation").items():
        loss = {"val_loss": math.log(config.candidates)} if name == RANDOM else {}
        _print_row("chance" if name == RANDOM else name, {**loss, **summarise(ranks)})

    def show(report: EpochReport) -> bool:
        _print_row(f"epoch {report.figures['epoch']}", report.figures)
        return True

    folder = TrialFolder(output)
    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
    folder.clear()
    folder.write_config(config)
    best = fine_tune(config, data, metric=metric, folder=folder, on_epoch=show)
    applied = {k.removeprefix("applied/"): v for k, v in best.figures.items() if k.startswith("applied/")}
    print("applied: " + ", ".join(f"{name} {value:g}" for name, value in applied.items()))
    say(f"best epoch {best.figures['epoch']}: its adapter is in {folder.adapter}")


def _print_row(name: str, figures: dict[str, Any]) -> None:
    from reranker.metrics import METRIC_NAMES

    cells = [figures.get(column, "") for column in ("train_loss", "val_loss", *METRIC_NAMES)]
    shown = (f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in cells)
    print(f"{name:<12}" + "".join(f"{cell:>12}" for cell in shown), flush=True)


def _trial_config(args: argparse.Namespace) -> TrialConfig:
    values: dict[str, Any] = {}
    if args.config:
        try:
            loaded = yaml.safe_load(args.config.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
            raise EnvironmentFault(f"the configuration {args.config} cannot be read: {error}") from error
        if not isinstance(loaded, dict):
            raise InputError([Fault("a configuration must be a mapping of knobs", str(args.config))])
        values |= loaded
    given = {name: getattr(args, name) for name in TrialConfig.model_fields}
    values |= {name: yaml_value(text) for name, text in given.items() if text is not None}
    return build_trial_config(values, file=str(args.config or "command line"))


def _data_config(args: argparse.Namespace) -> DataConfig:
    given = {name: getattr(args, f"data_{name}") for name in _data_fields()}
    values = {name: yaml_value(text) for name, text in given.items() if text is not None}
    try:
        config: DataConfig = TypeAdapter(DataConfig).validate_python({"source": args.source, **values})
    except ValidationError as error:
        model = next(m for m in _SOURCES if m.model_fields["source"].default == args.source)
        raise InputError(validation_faults(error, model, file="command line")) from None
    return config


def yaml_value(text: str) -> Any:
    """A flag's text as a study file would read it; `1e-3` is a number here, as it is there."""
    try:
        return float(text) if "e" in text.lower() else yaml.safe_load(text)
    except ValueError:
        return yaml.safe_load(text)


def _data_fields() -> list[str]:
    return sorted({name for model in _SOURCES for name in model.model_fields} - {"source"})


def _parser() -> Parser:
    parser = Parser(prog="python -m reranker.train", description=__doc__.split("\n")[0])
    parser.add_argument("--config", type=a_path, help="YAML with knobs, such as a study's best_config.yaml")
    parser.add_argument(
        "--output", type=a_path, default=Path("trained"), help="folder for the adapter and the figures (%(default)s)"
    )
    parser.add_argument("--metric", default="ndcg_at_10", help="what makes an epoch the best (%(default)s)")
    knobs = parser.add_argument_group("knobs", "each overrides the configuration file")
    for name, field in TrialConfig.model_fields.items():
        text = f"{field.description or ''} (default {field.default})".strip().replace("%", "%%")
        knobs.add_argument(f"--{name.replace('_', '-')}", metavar="VALUE", help=text)
    data = parser.add_argument_group("data")
    data.add_argument("--source", default="demo", choices=[str(m.model_fields["source"].default) for m in _SOURCES])
    for name in _data_fields():
        data.add_argument(f"--data-{name.replace('_', '-')}", metavar="VALUE")
    return parser


if __name__ == "__main__":
    sys.exit(main())
