"""One configuration, trained and scored from the command line, without a search.

python -m reranker.train --model demo-tiny --epochs 3 --learning-rate 1e-2
python -m reranker.train --config results/runs/demo/best_config.yaml --source demo --output my-reranker
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
import traceback
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
from reranker.errors import EnvironmentFault, Fault, InputError, RerankerError

_LINE_S = 30.0  # between two lines of how far an epoch is, where there is no terminal
_SOURCES: tuple[type[BaseModel], ...] = (DemoData, MovieLensData, TablesData)


def main(argv: list[str] | None = None) -> int:
    """Exit code: 0 trained, 2 the user's fault, 1 ours."""
    args = _parser().parse_args(argv)
    try:
        _run(_trial_config(args), _data_config(args), args.metric, Path(args.output))
    except RerankerError as error:
        if args.debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped; the adapter of the best epoch so far is kept", file=sys.stderr)
        return 130
    return 0


def _run(config: TrialConfig, data_config: DataConfig, metric: str, output: Path) -> None:
    if "WORLD_SIZE" not in os.environ:  # alone: trl refuses to see several GPUs
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")
    said = _Said()
    said.say("starting")
    from reranker.baselines import RANDOM  # torch and transformers take seconds to import
    from reranker.data import RerankingData
    from reranker.files import writing
    from reranker.metrics import METRIC_NAMES, summarise
    from reranker.sft import EpochReport, fine_tune
    from reranker.trial_folder import TrialFolder

    said.say("preparing the data")
    data = RerankingData.prepare(data_config)
    said.clear()
    print(data.describe(config))
    _print_row("", {name: name for name in ("train_loss", "val_loss", *METRIC_NAMES)})
    for name, ranks in data.baselines(config, "validation").items():
        loss = {"val_loss": math.log(config.candidates)} if name == RANDOM else {}
        _print_row("chance" if name == RANDOM else name, {**loss, **summarise(ranks)})

    def show(report: EpochReport) -> bool:
        said.clear()
        _print_row(f"epoch {report.figures['epoch']}", report.figures)
        return True

    folder = TrialFolder(output)
    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
    folder.clear()
    folder.write_config(config)
    best = fine_tune(
        config, data, metric=metric, folder=folder, on_epoch=show, on_pulse=lambda p: said.say(p.text(config.epochs))
    )
    said.clear()
    applied = {k.removeprefix("applied/"): v for k, v in best.figures.items() if k.startswith("applied/")}
    print("applied: " + ", ".join(f"{name} {value:g}" for name, value in applied.items()))
    print(f"best epoch {best.figures['epoch']}: its adapter is in {folder.adapter}")


class _Said:
    """What is being done: one line that changes on a terminal; elsewhere a line for each new thing, or every 30 s."""

    def __init__(self) -> None:
        self._live = sys.stdout.isatty()
        self._at = -math.inf

    def say(self, text: str) -> None:
        now = time.monotonic()
        if self._live:
            print(f"\r\x1b[K{text}", end="", flush=True)
        elif now - self._at > _LINE_S or "step" not in text:
            print(text, flush=True)
            self._at = now

    def clear(self) -> None:
        """Make room for a line that stays."""
        if self._live:
            print("\r\x1b[K", end="", flush=True)


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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m reranker.train", description=__doc__.split("\n")[0])
    parser.add_argument("--config", type=Path, help="YAML with knobs, such as a study's best_config.yaml")
    parser.add_argument("--output", default="trained", help="folder for the adapter and the figures (%(default)s)")
    parser.add_argument("--metric", default="ndcg_at_10", help="what makes an epoch the best (%(default)s)")
    parser.add_argument("--debug", action="store_true", help="show stack traces")
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
