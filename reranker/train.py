"""One configuration, trained and scored from the command line, without a search.

python -m reranker.train --source demo --model demo-tiny --epochs 3 --learning-rate 1e-2
python -m reranker.train --config results/runs/demo/best_config.yaml --output my-reranker
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from reranker.command_line.entry_point import STOPPED, Parser, a_path, last_net
from reranker.command_line.printable_text import plain, say
from reranker.command_line.redaction import masked
from reranker.config import TrialConfig, validation_faults
from reranker.data_config import DataConfig, absolute_paths
from reranker.errors import Fault, InputError, nearest
from reranker.metrics import METRIC_NAMES
from reranker.modeling.checkpoints.model_names import check_name
from reranker.storage.file_permissions import make_folder
from reranker.storage.yaml_lines import Document, Location, override, put, read

_SOURCES: tuple[type[DataConfig], ...] = get_args(get_args(DataConfig)[0])
Model = TypeVar("Model", bound=BaseModel)
_LINE_S = 30.0  # between two progress lines within an epoch, without a terminal


def _is_path(kind: object) -> bool:
    return kind is Path or any(_is_path(part) for part in get_args(kind))


_LITERAL = {"item_text"} | {  # taken as they are, not parsed as YAML
    name for source in _SOURCES for name, field in source.model_fields.items() if _is_path(field.annotation)
}
_LISTS = {"path"}  # of MIND's folders there may be several


@last_net
def main(argv: list[str] | None = None) -> int:
    """Exit code: 0 trained, 2 a fault of the user, 1 a fault of ours."""
    args = _parser().parse_args(argv)
    try:
        _check_metric(args.metric)
        config, data = _configuration(args)
        check_name(config.model)
        _run(config, data, args.metric, args.output)
    except KeyboardInterrupt:
        say("stopped; the adapter of the best epoch so far is kept", error=True)
        return STOPPED
    return 0


def _run(config: TrialConfig, data_config: DataConfig, metric: str, output: Path) -> None:
    if "WORLD_SIZE" not in os.environ:  # a single process: trl refuses several visible GPUs
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")
    status = _Said()
    status.say("starting")
    from reranker.artifacts.trial_folder import TrialFolder
    from reranker.data.assemble import RerankingData
    from reranker.data.baselines.baseline_ranks import RANDOM  # torch and transformers take seconds to import
    from reranker.metrics import summarise
    from reranker.storage.atomic_files import writing
    from reranker.training.sft import fine_tune
    from reranker.training.trainer import TrainingReport

    status.say("preparing the data")
    data = RerankingData.prepare(data_config)
    say(data.describe(config))
    _print_row("", {name: name for name in ("train_loss", "val_loss", *METRIC_NAMES)})
    for name, ranks in data.baselines(config, "validation").ranks.items():
        loss = {"val_loss": math.log(config.candidates)} if name == RANDOM else {}
        _print_row("chance" if name == RANDOM else name, {**loss, **summarise(ranks)})

    def show(report: TrainingReport) -> bool:
        status.clear()
        _print_row(f"epoch {report.figures['epoch']:g}", report.figures)
        return True

    folder = TrialFolder(output)
    with writing(output):
        make_folder(output)
    folder.clear()
    folder.write_config(config)
    best = fine_tune(
        config,
        data,
        metric=metric,
        folder=folder,
        on_report=show,
        on_status=lambda p: status.say(p.text(config.epochs)),
    )
    status.clear()
    applied = {k.removeprefix("applied/"): v for k, v in best.figures.items() if k.startswith("applied/")}
    print("applied: " + ", ".join(f"{name} {value:g}" for name, value in applied.items()))
    say(f"best epoch {best.figures['epoch']:g}: its adapter is in {folder.adapter}")


class _Said:
    """Shows the status: one changing line on a terminal; elsewhere a line per new stage, and every 30 s of steps."""

    def __init__(self) -> None:
        self._live = sys.stdout.isatty()
        self._at = -math.inf

    def say(self, text: str) -> None:
        now = time.monotonic()
        if self._live:
            print(f"\r\x1b[K{plain(masked(text))}", end="", flush=True)
        elif now - self._at > _LINE_S or "step" not in text:
            say(text)
            self._at = now

    def clear(self) -> None:
        """Clear the status line, for a permanent one."""
        if self._live:
            print("\r\x1b[K", end="", flush=True)


def _print_row(name: str, figures: dict[str, Any]) -> None:
    cells = [figures.get(column, "") for column in ("train_loss", "val_loss", *METRIC_NAMES)]
    shown = (f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in cells)
    print(f"{name:<12}" + "".join(f"{cell:>12}" for cell in shown), flush=True)


def _check_metric(name: str) -> None:
    if name not in (valid := [*METRIC_NAMES, "val_loss"]):
        raise InputError([Fault("there is no such metric", "--metric", value=name, hint=nearest(name, valid))])


def _configuration(args: argparse.Namespace) -> tuple[TrialConfig, DataConfig]:
    """The configuration file, overridden by the command line.

    Raises:
        InputError: with every fault of both, or if neither names the data.
    """
    document = Document(values={}, places={(): ("command line", None)})
    if args.config:
        document = read(args.config, "configuration", "knobs")
    in_file = document.values.get("data")
    if args.source:
        if not isinstance(in_file, dict) or in_file.get("source") != args.source:
            put(document, ("data",), {}, "--source")
        put(document, ("data", "source"), args.source, "--source")
    elif in_file is None:
        rule = f"say what to train on: --source {', '.join(_source_names())}, or a --config that holds `data`"
        raise InputError([Fault(rule, str(args.config or ""), hint="a study's best_config.yaml does")])
    for name in TrialConfig.model_fields:
        if (text := getattr(args, name)) is not None:
            (put if name == "model" else override)(document, (name,), text, _flag(name))
    data_options = {name: text for name in _data_fields() if (text := getattr(args, f"data_{name}")) is not None}
    for name, text in data_options.items():
        is_list = name in _LISTS and text.startswith("[") and text.endswith("]")
        (put if name in _LITERAL and not is_list else override)(document, ("data", name), text, _flag(f"data_{name}"))
    data = document.values.pop("data")
    config = _validated(document, (), TrialConfig, document.values)
    source = data.get("source") if isinstance(data, dict) else None
    model = next((model for model in _SOURCES if model.model_fields["source"].default == source), None)
    if model is None:
        hint = nearest(str(source), _source_names())
        document.faults.append(document.fault(("data", "source"), "must be a source", source, hint))
    data_config = None if model is None else _validated(document, ("data",), model, data)
    if document.faults or config is None or data_config is None:
        raise InputError(document.faults)
    paths = absolute_paths(data_config, args.config.parent if args.config else Path())
    return config, data_config.model_copy(
        update={name: path for name, path in paths.items() if name not in data_options}
    )


def _validated(document: Document, at: Location, model: type[Model], values: Any) -> Model | None:
    """The values as the model; None after faults."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        for fault in validation_faults(error, model):
            place = (*at, *(fault.field.split(".") if fault.field else ()))
            document.faults.append(document.fault(place, fault.rule, fault.value, fault.hint))
        return None


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _source_names() -> list[str]:
    return [str(model.model_fields["source"].default) for model in _SOURCES]


def _data_fields() -> dict[str, str]:
    """Every field of the sources, with its help text; several where sources mean different things by it."""
    texts: dict[str, dict[str, list[str]]] = {}
    for source, model in zip(_source_names(), _SOURCES, strict=True):
        for name, field in model.model_fields.items():
            default = "" if field.is_required() else f" (default {field.default})"
            texts.setdefault(name, {}).setdefault(f"{field.description}{default}", []).append(source)
    return {
        name: "; ".join(
            text if len(sources) == len(_SOURCES) else f"{', '.join(sources)}: {text}"
            for text, sources in texts[name].items()
        )
        for name in sorted(texts.keys() - {"source"})
    }


def _parser() -> Parser:
    parser = Parser(prog="python -m reranker.train", description=__doc__.split("\n")[0])
    parser.add_argument("--config", type=a_path, help="YAML with knobs and `data`, such as a study's best_config.yaml")
    parser.add_argument(
        "--output", type=a_path, default=Path("trained"), help="folder for the adapter and the figures (%(default)s)"
    )
    parser.add_argument("--metric", default="ndcg_at_10", help="what makes an epoch the best (%(default)s)")
    knobs = parser.add_argument_group("knobs", "each overrides the configuration file")
    for name, field in TrialConfig.model_fields.items():
        knobs.add_argument(_flag(name), metavar="VALUE", help=_help(f"{field.description} (default {field.default})"))
    data = parser.add_argument_group(
        "data", "needed where the configuration file holds none, whose values each overrides"
    )
    data.add_argument("--source", choices=_source_names(), help="another one than the file's starts from the defaults")
    for name, text in _data_fields().items():
        data.add_argument(_flag(f"data_{name}"), metavar="VALUE", help=_help(text))
    return parser


def _help(text: str) -> str:
    return text.replace("%", "%%")


if __name__ == "__main__":
    sys.exit(main())
