"""Study files that break a rule, given to `reranker-tuner check`: what it says of each. See also `tests/broken_studies`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.told import Told, table, told

DATA = "data: {source: demo, users: 60}\n"
HEAD = "study: {name: a, trials: 2}\n" + DATA
SPACE = "space: {epochs: {int: [1, 3]}}\n"


def answer(content: str | bytes) -> Told:
    Path("study.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    return told("check", "study.yaml")


def study(**fields: str) -> str:
    return (
        "study: {"
        + ", ".join(f"{k}: {v}" for k, v in {"name": "a", "trials": "2", **fields}.items())
        + "}\n"
        + DATA
        + SPACE
    )


def data(text: str) -> str:
    return "study: {name: a, trials: 2}\n" + f"data: {{{text}}}\n" + SPACE


def fixed(text: str) -> str:
    return HEAD + f"fixed: {{{text}}}\n" + SPACE


def space(text: str) -> str:
    return HEAD + f"space: {{{text}}}\n"


def resources(text: str) -> str:
    return HEAD + SPACE + f"resources: {{{text}}}\n"


BYTES_CASES = {
    "nothing": (b"", "study.yaml:1: a study file must be a mapping with the sections study, data and space"),
    "a line break": (b"\n", "study.yaml:1: a study file must be a mapping with the sections study, data and space"),
    "a comment alone": (b"# a study\n", "study.yaml:1: a study file must be a mapping with the sections study, data and space"),
    "a byte order mark alone": (b"\xef\xbb\xbf", "study.yaml:1: a study file must be a mapping with the sections study, data and space"),
    "UTF-16": ((HEAD + SPACE).encode("utf-16"), "study.yaml: a study file must be UTF-8 text; byte 0 is not; it is UTF-16: save it as UTF-8"),
    "UTF-16 without a mark": ((HEAD + SPACE).encode("utf-16-le"), "study.yaml:1: not YAML: text must hold no control characters, such as 0x00"),
    "UTF-32": ((HEAD + SPACE).encode("utf-32"), "study.yaml: a study file must be UTF-8 text; byte 0 is not; it is UTF-32: save it as UTF-8"),
    "Latin-1": ("study: {name: a, trials: 2}  # für\n".encode("latin-1"), "study.yaml: a study file must be UTF-8 text; byte 32 is not"),
    "NUL characters": (b"study: {name: a\0b}\n", "study.yaml:1: not YAML: text must hold no control characters, such as 0x00"),
    "nothing but NUL characters": (bytes(64), "study.yaml:1: not YAML: text must hold no control characters, such as 0x00"),
    "an escape sequence": (b"study: {name: \x1b[31ma}\n", "study.yaml:1: not YAML: text must hold no control characters, such as 0x1b"),
    "a gzip": (b"\x1f\x8b\x08\0\0\0\0\0\0\x03" + bytes(32), "study.yaml: a study file must be UTF-8 text; byte 1 is not; it is packed by gzip: unpack it"),
    "a zip": (b"PK\x03\x04" + bytes(32), "study.yaml:1: not YAML: text must hold no control characters, such as 0x03; it is a zip, or an Excel file: unpack it, or save it as CSV"),
    "a PNG": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "study.yaml: a study file must be UTF-8 text; byte 0 is not; it is an image"),
    "an ELF program": (b"\x7fELF\x02\x01\x01" + bytes(9), "study.yaml:1: not YAML: text must hold no control characters, such as 0x7f; it is a program"),
    "a cut multibyte character": ("study: {name: é".encode()[:-1], "study.yaml: a study file must be UTF-8 text; byte 14 is not"),
    "more than a megabyte": (b"#" * 1_000_001, "study.yaml: a study file must have at most 1,000,000 bytes (got 1000001); the variable RERANKER_MOST_STUDY_BYTES raises that"),
    "half a surrogate pair": (b'study: {name: "\\ud800", trials: 2}\n' + (DATA + SPACE).encode(), "study.yaml:1: study.name: text must not hold half a surrogate pair\nstudy.yaml:1: study.name: must be text"),
}  # fmt: skip

YAML_CASES = {
    "a word": ("study", "study.yaml:1: a study file must be a mapping with the sections study, data and space"),
    "a number": ("42", "study.yaml:1: a study file must be a mapping with the sections study, data and space"),
    "null": ("~", "study.yaml:1: a study file must be a mapping with the sections study, data and space"),
    "a list": ("- study\n- data\n", "study.yaml:1: a study file must be a mapping with the sections study, data and space"),
    "text in quotes": ('"study: {name: a}"', "study.yaml:1: a study file must be a mapping with the sections study, data and space"),
    "JSON that is a list": ("[1, 2, 3]", "study.yaml:1: a study file must be a mapping with the sections study, data and space"),
    "INI": ("[study]\nname = a\n", "study.yaml:2: not YAML: expected '<document start>', but found '<scalar>'"),
    "TOML": ("study.name = 'a'\nstudy.trials = 2\n", "study.yaml:1: a study file must be a mapping with the sections study, data and space"),
    "Python": ("study = dict(name='a')\n", "study.yaml:1: a study file must be a mapping with the sections study, data and space"),
    "HTML": ("<html><body>404 Not Found</body></html>\n", "study.yaml:1: a study file must be a mapping with the sections study, data and space"),
    "a tab before a key": ("study:\n\tname: a\n", "study.yaml:2: not YAML: lines must be indented by spaces, not by tabs"),
    "a tab between keys": ("study:\n  name: a\n\ttrials: 2\n", "study.yaml:3: not YAML: lines must be indented by spaces, not by tabs"),
    "an indent that fits no other": ("study:\n    name: a\n  trials: 2\n", "study.yaml:3: not YAML: the keys of a mapping must be indented alike"),
    "a colon without a space": ("study:{name: a}\n", "study.yaml:1: study: this must be given\nstudy.yaml:1: data: this must be given\nstudy.yaml:1: space: this must be given\nstudy.yaml:1: study:{name: there is no such field here; did you mean 'study'?"),
    "a colon within a value": ("study: {name: a}\ndata: source: demo\n", "study.yaml:2: not YAML: a value with a colon in it must be in quotes, and each key on a line of its own"),
    "a brace that is not closed": ("study: {name: a, trials: 2\n", "study.yaml:2: not YAML: expected ',' or '}', but got 'the end of the file'"),
    "a bracket that is not closed": (HEAD + "space: {epochs: {int: [1, 3}}\n", "study.yaml:3: not YAML: expected ',' or ']', but got '}'"),
    "a bracket too many": (HEAD + "space: {epochs: {int: [1, 3]]}}\n", "study.yaml:3: not YAML: expected ',' or '}', but got ']'"),
    "a quote that is not closed": ('study: {name: "a, trials: 2}\n', "study.yaml:2: not YAML: a quote must be closed"),
    "an escape that YAML does not know": ('study: {name: "\\q", trials: 2}\n', "study.yaml:1: not YAML: found unknown escape character 'q'"),
    "an at sign": ("study: {name: @a}\n", "study.yaml:1: not YAML: found character '@' that cannot start any token"),
    "a backtick": ("study: {name: `a`}\n", "study.yaml:1: not YAML: found character '`' that cannot start any token"),
    "a percent sign": ("%study: {name: a}\n", "study.yaml:1: not YAML: expected alphabetic or numeric character, but found ':'"),
    "a version of YAML to come": ("%YAML 9.9\n---\nstudy: {name: a}\n", "study.yaml:1: not YAML: found incompatible YAML document (version 1.* is required)"),
    "two documents": (HEAD + SPACE + "---\n" + HEAD, "study.yaml:4: not YAML: the file must be one document; --- begins another"),
    "marks of a merge conflict": ("<<<<<<< HEAD\nstudy: {name: a}\n=======\nstudy: {name: b}\n>>>>>>> b\n", "study.yaml:2: not YAML: a value with a colon in it must be in quotes, and each key on a line of its own"),
    "an unknown alias": (HEAD + "fixed: *defaults\n" + SPACE, "study.yaml:3: not YAML: found undefined alias 'defaults'"),
    "an anchor twice": ("study: &a {name: a, trials: 2}\ndata: &a {source: demo}\nspace: *a\n", "study.yaml:2: not YAML: an anchor must stand once"),
    "an alias of itself": (HEAD + "space: &a {epochs: *a}\n", "study.yaml:3: space.epochs: an alias must not contain itself\nstudy.yaml:3: space.epochs: how a knob varies must be a mapping, such as {choice: […]} or {log_uniform: [low, high]}"),
    "a merge key": ("study: &s {name: a, trials: 2}\ndata: {<<: *s, source: demo}\n" + SPACE, "study.yaml:1: data.<<: there is no such field here; valid: candidate_mode, candidate_order, dense_model, evaluation, evaluation_negatives, evaluation_users, interactions_per_user, min_item, min_user, pointwise_model, retriever, seed, source, split, targets_per_user, teacher_scores, test_from, test_users, training_users, users, validation_from"),
    "a billion laughs": ('a: &a ["lol","lol","lol","lol","lol","lol","lol","lol","lol"]\n' + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)), "study.yaml: f: a file must have at most 100,000 values, its aliases written out; the variable RERANKER_MOST_STUDY_VALUES raises that"),
    "a hundred thousand lists within each other": ("study: " + "[" * 100_000, "study.yaml: a file must have at most 50 levels of brackets; the variable RERANKER_MOST_STUDY_DEPTH raises that"),
    "a thousand mappings within each other": ("study: " + "{a: " * 1000 + "1" + "}" * 1000, "study.yaml: a file must have at most 50 levels of brackets; the variable RERANKER_MOST_STUDY_DEPTH raises that"),
    "a tag of Python": ("study: !!python/object/apply:os.system ['true']\n" + DATA + SPACE, "study.yaml:1: study: tags are not understood here (got 'tag:yaml.org,2002:python/object/apply:os.system')\nstudy.yaml:1: study: must be a mapping of names to values"),
    "a tag of one's own": ("study: !mine {name: a, trials: 2}\n" + DATA + SPACE, "study.yaml:1: study: tags are not understood here (got '!mine')"),
    "a set": (HEAD + "space: !!set {epochs}\n", "study.yaml:3: space: tags are not understood here (got 'tag:yaml.org,2002:set')\nstudy.yaml:3: space.epochs: how a knob varies must be a mapping, such as {choice: […]} or {log_uniform: [low, high]}"),
    "a binary value": ("study: {name: !!binary aGFsbG8=, trials: 2}\n" + DATA + SPACE, "study.yaml:1: study.name: tags are not understood here (got 'tag:yaml.org,2002:binary')\nstudy.yaml:1: study.name: must be letters, digits, '.', '_' and '-', the first one a letter or digit (got 'aGFsbG8=')"),
    "a key twice": ("study: {name: a, name: b, trials: 2}\n" + DATA + SPACE, "study.yaml:1: study.name: a key must stand once; it stands in line 1 too"),
    "a section twice": (HEAD + DATA + SPACE, "study.yaml:3: data: a key must stand once; it stands in line 2 too"),
    "a list as a key": ("study: {name: a, trials: 2, [1, 2]: 3}\n" + DATA + SPACE, "study.yaml:1: study: a key must be plain text"),
    "a mapping as a key": ("? {study: a}\n: b\n" + HEAD + SPACE, "study.yaml:1: a key must be plain text"),
    "a number as a key": ("study: {name: a, trials: 2, 3: 4}\n" + DATA + SPACE, "study.yaml:1: study.3: there is no such field here; valid: asha, baseline_minutes, baselines, checkpoint_minutes, concurrency, copy_to, max_failures, metric, name, patience, reports_per_epoch, sampler, scheduler, seed, start_from, time_budget, trackers, trials"),
    "an empty key": (HEAD + '"": 1\n' + SPACE, "study.yaml:3: there is no such field here; valid: data, fixed, resources, space, study"),
    "a key of ten thousand letters": (HEAD + "x" * 1000 + ": 1\n" + SPACE, "study.yaml:3: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…: there is no such field here; valid: data, fixed, resources, space, study"),
}  # fmt: skip

SECTION_CASES = {
    "no section": ("{}\n", "study.yaml:1: study: this must be given\nstudy.yaml:1: data: this must be given\nstudy.yaml:1: space: this must be given"),
    "a foreign file": ("name: CI\non: [push]\njobs: {build: {runs-on: ubuntu-latest}}\n", "study.yaml:1: study: this must be given\nstudy.yaml:1: data: this must be given\nstudy.yaml:1: space: this must be given\nstudy.yaml:1: name: there is no such field here; valid: data, fixed, resources, space, study\nstudy.yaml:2: on: there is no such field here; valid: data, fixed, resources, space, study\nstudy.yaml:3: jobs: there is no such field here; valid: data, fixed, resources, space, study"),
    "no study": (DATA + SPACE, "study.yaml:1: study: this must be given"),
    "no data": ("study: {name: a, trials: 2}\n" + SPACE, "study.yaml:1: data: this must be given"),
    "no space": (HEAD, "study.yaml:1: space: this must be given"),
    "a section in capitals": ("STUDY: {name: a, trials: 2}\n" + DATA + SPACE, "study.yaml:1: study: this must be given\nstudy.yaml:1: STUDY: there is no such field here; valid: data, fixed, resources, space, study"),
    "a section misspelt": (HEAD + "spase: {epochs: {int: [1, 3]}}\n", "study.yaml:1: space: this must be given\nstudy.yaml:3: spase: there is no such field here; did you mean 'space'?"),
    "a section too many": (HEAD + SPACE + "models: [demo-tiny]\n", "study.yaml:4: models: there is no such field here; valid: data, fixed, resources, space, study"),
    "study is null": ("study:\n" + DATA + SPACE, "study.yaml:1: study: must be a mapping of names to values"),
    "study is text": ("study: a\n" + DATA + SPACE, "study.yaml:1: study: must be a mapping of names to values (got 'a')"),
    "study is a list": ("study: [{name: a}]\n" + DATA + SPACE, "study.yaml:1: study: must be a mapping of names to values"),
    "data is text": ("study: {name: a, trials: 2}\ndata: demo\n" + SPACE, "study.yaml:2: data: must be a mapping of names to values (got 'demo')"),
    "data is empty": ("study: {name: a, trials: 2}\ndata: {}\n" + SPACE, "study.yaml:2: data.source: this must be given; valid: amazon, demo, mind, movielens, recbole, steam, tables, yelp"),
    "data is null": ("study: {name: a, trials: 2}\ndata:\n" + SPACE, "study.yaml:2: data: must be a mapping of names to values"),
    "space is a list": (HEAD + "space: [epochs]\n", "study.yaml:3: space: must be a mapping of names to values"),
    "space is null": (HEAD + "space:\n", "study.yaml:3: space: must be a mapping of names to values"),
    "space is text": (HEAD + "space: epochs\n", "study.yaml:3: space: must be a mapping of names to values (got 'epochs')"),
    "fixed is a list": (HEAD + SPACE + "fixed: [epochs]\n", "study.yaml:4: fixed: must be a mapping of names to values"),
    "fixed is null": (HEAD + SPACE + "fixed:\n", "study.yaml:4: fixed: must be a mapping of names to values"),
    "fixed is text": (HEAD + SPACE + "fixed: epochs\n", "study.yaml:4: fixed: must be a mapping of names to values (got 'epochs')"),
    "resources is a number": (HEAD + SPACE + "resources: 2\n", "study.yaml:4: resources: must be a mapping of names to values (got 2)"),
    "start_from is a mapping": (study(start_from="{epochs: 2}"), "study.yaml:1: study.start_from: must be a list"),
    "start_from is text": (study(start_from="epochs"), "study.yaml:1: study.start_from: must be a list (got 'epochs')"),
    "start_from holds text": (study(start_from="[epochs]"), "study.yaml:1: study.start_from.0: must be a mapping of names to values (got 'epochs')"),
    "start_from holds null": (study(start_from="[~]"), "study.yaml:1: study.start_from.0: must be a mapping of names to values"),
    "asha is text": (study(asha="fast"), "study.yaml:1: study.asha: must be a mapping of names to values (got 'fast')"),
}  # fmt: skip

STUDY_CASES = {
    "a name with a slash": (study(name="a/b"), "study.yaml:1: study.name: must be letters, digits, '.', '_' and '-', the first one a letter or digit (got 'a/b')"),
    "a name that leads out": (study(name="../a"), "study.yaml:1: study.name: must be letters, digits, '.', '_' and '-', the first one a letter or digit (got '../a')"),
    "a name that is a path": (study(name="/tmp/a"), "study.yaml:1: study.name: must be letters, digits, '.', '_' and '-', the first one a letter or digit (got '/tmp/a')"),
    "a name with a space": (study(name="a b"), "study.yaml:1: study.name: must be letters, digits, '.', '_' and '-', the first one a letter or digit (got 'a b')"),
    "an empty name": (study(name='""'), "study.yaml:1: study.name: must be letters, digits, '.', '_' and '-', the first one a letter or digit (got '')"),
    "a name that begins with a dash": (study(name="-a"), "study.yaml:1: study.name: must be letters, digits, '.', '_' and '-', the first one a letter or digit (got '-a')"),
    "a name that is a dot": (study(name='"."'), "study.yaml:1: study.name: must be letters, digits, '.', '_' and '-', the first one a letter or digit (got '.')"),
    "a name that is a number": (study(name="2024"), "study.yaml:1: study.name: must be text (got 2024)"),
    "a name that is a date": (study(name="2024-01-01 10:00"), "study.yaml:1: study.name: must be letters, digits, '.', '_' and '-', the first one a letter or digit (got '2024-01-01 10:00')"),
    "a name with a snowman": (study(name="☃"), "study.yaml:1: study.name: must be letters, digits, '.', '_' and '-', the first one a letter or digit (got '☃')"),
    "a name with a line break": (study(name='"a\\nb"'), "study.yaml:1: study.name: must be letters, digits, '.', '_' and '-', the first one a letter or digit (got 'a\\nb')"),
    "a name of 101 letters": (study(name="a" * 101), "study.yaml:1: study.name: must have at most 100 characters (got 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa')"),
    "a name that is a list": (study(name="[a]"), "study.yaml:1: study.name: must be text"),
    "a name that is null": (study(name="~"), "study.yaml:1: study.name: must be text"),
    "a metric that is none": (study(metric="accuracy"), "study.yaml:1: study.metric: must be recall_at_1, recall_at_5, recall_at_10, ndcg_at_5, ndcg_at_10, mrr_at_10 or val_loss (got 'accuracy')"),
    "a metric as it is shown": (study(metric='"NDCG@10"'), "study.yaml:1: study.metric: must be recall_at_1, recall_at_5, recall_at_10, ndcg_at_5, ndcg_at_10, mrr_at_10 or val_loss (got 'NDCG@10')"),
    "no trials": (study(trials="0"), "study.yaml:1: study.trials: must be at least 1 (got 0)"),
    "trials below zero": (study(trials="-1"), "study.yaml:1: study.trials: must be at least 1 (got -1)"),
    "half a trial": (study(trials="1.5"), "study.yaml:1: study.trials: must be a whole number (got 1.5)"),
    "trials without end": (study(trials=".inf"), "study.yaml:1: study.trials: must be a whole number (got '.inf')"),
    "trials that are no number": (study(trials=".nan"), "study.yaml:1: study.trials: must be a whole number (got '.nan')"),
    "trials in words": (study(trials="many"), "study.yaml:1: study.trials: must be a whole number (got 'many')"),
    "trials in quotes": (study(trials='"2"'), "study.yaml:1: study.trials: must be a whole number (got '2')"),
    "trials that are true": (study(trials="true"), "study.yaml:1: study.trials: must be a whole number (got True)"),
    "trials with an underscore": (study(trials="1_000"), "study.yaml:1: study.trials: must be a whole number (got '1_000')"),
    "trials in hexadecimal": (study(trials="0x10"), "study.yaml:1: study.trials: must be a whole number (got '0x10')"),
    "trials of a hundred digits": (study(trials="9" * 100), "study.yaml:1: study.trials: must be a whole number (got 1e+100)"),
    "trials of five thousand digits": (study(trials="9" * 5000), "study.yaml:1: study.trials: must be a whole number (got inf)"),
    "a million trials": (study(trials="1000000"), "study.yaml:1: study.trials: must be at most 100,000 (got 1000000)"),
    "trials that are null": (study(trials="~"), "study.yaml:1: study.trials: must be a whole number"),
    "trials that are a list": (study(trials="[1, 2]"), "study.yaml:1: study.trials: must be a whole number"),
    "a seed below zero": (study(seed="-1"), "study.yaml:1: study.seed: must be at least 0 (got -1)"),
    "a seed beyond 31 bits": (study(seed="2147483648"), "study.yaml:1: study.seed: must be below 2,147,483,648 (got 2147483648)"),
    "a seed that is a fraction": (study(seed="0.5"), "study.yaml:1: study.seed: must be a whole number (got 0.5)"),
    "a budget without a unit": (study(time_budget="90"), "study.yaml:1: study.time_budget: a time budget must look like 6h, 90m, 45s or 1h30m, and be above 0 (got 90)"),
    "a budget of nothing": (study(time_budget="0h"), "study.yaml:1: study.time_budget: a time budget must look like 6h, 90m, 45s or 1h30m, and be above 0 (got '0h')"),
    "a budget in words": (study(time_budget="two hours"), "study.yaml:1: study.time_budget: a time budget must look like 6h, 90m, 45s or 1h30m, and be above 0 (got 'two hours')"),
    "a budget in days": (study(time_budget="2d"), "study.yaml:1: study.time_budget: a time budget must look like 6h, 90m, 45s or 1h30m, and be above 0 (got '2d')"),
    "a budget with a sign": (study(time_budget='"-1h"'), "study.yaml:1: study.time_budget: a time budget must look like 6h, 90m, 45s or 1h30m, and be above 0 (got '-1h')"),
    "a budget in Arabic digits": (study(time_budget='"٣h"'), "study.yaml:1: study.time_budget: a time budget must look like 6h, 90m, 45s or 1h30m, and be above 0 (got '٣h')"),
    "a budget of many digits": (study(time_budget="9999999999h"), "study.yaml:1: study.time_budget: a time budget must look like 6h, 90m, 45s or 1h30m, and be above 0 (got '9999999999h')"),
    "no concurrency": (study(concurrency="0"), "study.yaml:1: study.concurrency: must be at least 1 (got 0)"),
    "an unknown sampler": (study(sampler="bayes"), "study.yaml:1: study.sampler: must be tpe, random, gp, cmaes or grid (got 'bayes'); did you mean 'cmaes'?"),
    "a sampler misspelt": (study(sampler="cma-es"), "study.yaml:1: study.sampler: must be tpe, random, gp, cmaes or grid (got 'cma-es'); did you mean 'cmaes'?"),
    "an unknown scheduler": (study(scheduler="bohb"), "study.yaml:1: study.scheduler: must be asha, hyperband, median or none (got 'bohb')"),
    "a scheduler that is false": (study(scheduler="false"), "study.yaml:1: study.scheduler: must be asha, hyperband, median or none (got False)"),
    "no patience": (study(patience="0"), "study.yaml:1: study.patience: must be at least 1 (got 0)"),
    "no failures allowed": (study(max_failures="0"), "study.yaml:1: study.max_failures: must be at least 1 (got 0)"),
    "reports that are a fraction": (study(reports_per_epoch="0.5"), "study.yaml:1: study.reports_per_epoch: must be auto or a whole number from 1 to 10,000 (got 0.5)"),
    "reports in words": (study(reports_per_epoch="often"), "study.yaml:1: study.reports_per_epoch: must be auto or a whole number from 1 to 10,000 (got 'often')"),
    "checkpoints without end": (study(checkpoint_minutes=".inf"), "study.yaml:1: study.checkpoint_minutes: must be a number (got '.inf')"),
    "checkpoints before the beginning": (study(checkpoint_minutes="-1"), "study.yaml:1: study.checkpoint_minutes: must be at least 0 (got -1)"),
    "pointwise without a model": (study(baselines="[pointwise]"), "study.yaml:1: study.baselines: the baseline pointwise needs data.pointwise_model, a folder or an id of the Hub; such as Qwen/Qwen3-Reranker-0.6B"),
    "an unknown baseline": (study(baselines="[itemknn]"), "study.yaml:1: study.baselines.0: must be auto, popularity, markov, item_knn, ease, collaborative, bm25, dense, pointwise, sasrec or gru4rec (got 'itemknn'); did you mean 'item_knn'?"),
    "baselines that are numbers": (study(baselines="[1]"), "study.yaml:1: study.baselines.0: must be auto, popularity, markov, item_knn, ease, collaborative, bm25, dense, pointwise, sasrec or gru4rec (got 1)"),
    "baselines in a mapping": (study(baselines="{auto: true}"), "study.yaml:1: study.baselines: must be a list"),
    "baselines in no time": (study(baseline_minutes="0"), "study.yaml:1: study.baseline_minutes: must be above 0 (got 0)"),
    "an unknown tracker": (study(trackers="[wandbb]"), "study.yaml:1: study.trackers.0: must be mlflow, jsonl, tensorboard or wandb (got 'wandbb'); did you mean 'wandb'?"),
    "a copy at no address": (study(copy_to="bucket/folder"), "study.yaml:1: study.copy_to: must be an address such as s3://BUCKET/FOLDER, gs://BUCKET/FOLDER or file:///FOLDER (got 'bucket/folder')"),
    "a copy where no file is kept": (study(copy_to='"https://host/x"'), "study.yaml:1: study.copy_to: must be an address such as s3://BUCKET/FOLDER, gs://BUCKET/FOLDER or file:///FOLDER (got 'https://host/x')"),
    "a copy at a relative path": (study(copy_to='"file://copies"'), "study.yaml:1: study.copy_to: must be an address such as s3://BUCKET/FOLDER, gs://BUCKET/FOLDER or file:///FOLDER (got 'file://copies')"),
    "a copy with a key in its address": (study(copy_to='"s3://AKIA:hunter2@bucket/x"'), "study.yaml:1: study.copy_to: must not have a user, password or key in it: those come from where the store's own commands find them, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (got 's3://***@bucket/x')"),
    "a copy that is a number": (study(copy_to="3"), "study.yaml:1: study.copy_to: must be text (got 3)"),
    "a grace of nothing": (study(asha="{grace: 0}"), "study.yaml:1: study.asha.grace: must be above 0 (got 0)"),
    "a grace beyond the longest trial": (study(asha="{grace: 30}"), "study.yaml:1: study.asha.grace: the grace period must not be beyond the longest trial, 3 epochs (got 30)"),
    "a reduction of one": (study(asha="{reduction: 1}"), "study.yaml:1: study.asha.reduction: must be at least 2 (got 1)"),
    "an unknown field of asha": (study(asha="{reduction_factor: 3}"), "study.yaml:1: study.asha.reduction_factor: there is no such field here; did you mean 'reduction'?"),
    "a pace above one": (study(asha="{pace: 1.5}"), "study.yaml:1: study.asha.pace: must be at most 1 (got 1.5)"),
    "a field misspelt": (study(trails="2"), "study.yaml:1: study.trails: there is no such field here; did you mean 'trials'?"),
    "a field of another section": (study(workers="2"), "study.yaml:1: study.workers: there is no such field here; did you mean 'trackers'?"),
    "several at once": (study(name="a b", trials="0", sampler="bayes"), "study.yaml:1: study.name: must be letters, digits, '.', '_' and '-', the first one a letter or digit (got 'a b')\nstudy.yaml:1: study.trials: must be at least 1 (got 0)\nstudy.yaml:1: study.sampler: must be tpe, random, gp, cmaes or grid (got 'bayes'); did you mean 'cmaes'?"),
}  # fmt: skip

DATA_CASES = {
    "an unknown source": (data("source: netflix"), "study.yaml:2: data.source: there is no such source (got 'netflix'); valid: amazon, demo, mind, movielens, recbole, steam, tables, yelp"),
    "a source misspelt": (data("source: movielnes"), "study.yaml:2: data.source: there is no such source (got 'movielnes'); did you mean 'movielens'?"),
    "a source that is null": (data("source: ~"), "study.yaml:2: data.source: there is no such source (got 'None'); valid: amazon, demo, mind, movielens, recbole, steam, tables, yelp"),
    "a source that is a list": (data("source: [demo]"), "study.yaml:2: data.source: there is no such source (got \"['demo']\"); did you mean 'demo'?"),
    "a source that is a number": (data("source: 1"), "study.yaml:2: data.source: there is no such source (got '1'); valid: amazon, demo, mind, movielens, recbole, steam, tables, yelp"),
    "a field of another source": (data("source: demo, path: x"), "study.yaml:2: data.path: there is no such field here; valid: candidate_mode, candidate_order, dense_model, evaluation, evaluation_negatives, evaluation_users, interactions_per_user, min_item, min_user, pointwise_model, retriever, seed, source, split, targets_per_user, teacher_scores, test_from, test_users, training_users, users, validation_from"),
    "too few users": (data("source: demo, users: 1"), "study.yaml:2: data.users: must be at least 10 (got 1)"),
    "too many users": (data("source: demo, users: 1000000"), "study.yaml:2: data.users: must be at most 100,000 (got 1000000)"),
    "too many interactions": (data("source: demo, users: 100000, interactions_per_user: 100"), "study.yaml:2: data: users × interactions_per_user must be at most 1,000,000"),
    "users that are a fraction": (data("source: demo, users: 60.5"), "study.yaml:2: data.users: must be a whole number (got 60.5)"),
    "users that are kept from too little": (data("source: demo, min_user: 2"), "study.yaml:2: data.min_user: must be at least 3 (got 2)"),
    "a split that is none": (data("source: demo, split: random"), "study.yaml:2: data.split: must be leave_one_out or time (got 'random')"),
    "a period without a split": (data("source: demo, validation_from: 0.8"), "study.yaml:2: data: validation_from must be left out without split: time"),
    "periods upside down": (data("source: demo, split: time, validation_from: 0.9, test_from: 0.8"), "study.yaml:2: data: validation_from must be below test_from, which is 0.8; it is 0.9"),
    "a period that is no date": (data("source: demo, split: time, validation_from: yesterday"), "study.yaml:2: data.validation_from: must be a share between 0 and 1, a date such as 2018-06-30, or a timestamp as the data have it (got 'yesterday')"),
    "a period that is a list": (data("source: demo, split: time, validation_from: [2020]"), "study.yaml:2: data.validation_from: must be a share between 0 and 1, a date such as 2018-06-30, or a timestamp as the data have it"),
    "no targets": (data("source: demo, split: time, targets_per_user: 0"), "study.yaml:2: data.targets_per_user: must be at least 1 (got 0)"),
    "negatives of retrieved lists": (data("source: demo, candidate_mode: retrieval, evaluation_negatives: popularity"), "study.yaml:2: data: evaluation_negatives must be left out with candidate_mode: retrieval, which has none"),
    "a whole catalogue without a retriever": (data("source: demo, evaluation: full"), "study.yaml:2: data: evaluation: full must have candidate_mode: retrieval, whose retriever ranks the catalogue"),
    "an order without a retriever": (data("source: demo, candidate_order: retriever"), "study.yaml:2: data: candidate_order must be left out without candidate_mode: retrieval: only its lists have one"),
    "dense without an encoder": (data("source: demo, candidate_mode: retrieval, retriever: dense"), "study.yaml:2: data: retriever: dense needs dense_model, a sentence encoder: a folder, or an id of the Hub such as sentence-transformers/all-MiniLM-L6-v2"),
    "an encoder that no path can be": (data(f"source: demo, retriever: dense, dense_model: {'x' * 300}"), "study.yaml:2: data.dense_model: a path's names must have at most 255 bytes each, and 4095 together (got 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…)"),
    "nobody to score": (data("source: demo, evaluation_users: 0"), "study.yaml:2: data.evaluation_users: must be at least 1 (got 0)"),
    "no path": (data("source: tables"), "study.yaml:2: data.interactions: this must be given\nstudy.yaml:2: data.items: this must be given"),
    "paths that are numbers": (data("source: tables, interactions: 1, items: 2"), "study.yaml:2: data.interactions: must be a path (got 1)\nstudy.yaml:2: data.items: must be a path (got 2)"),
    "paths that are empty": (data('source: tables, interactions: "", items: ""'), "study.yaml:2: data.interactions: a path must not be empty (got '')\nstudy.yaml:2: data.items: a path must not be empty (got '')"),
    "a path with a NUL": (data('source: tables, interactions: "a\\0.csv", items: b.csv'), "study.yaml:2: data.interactions: a path must not hold NUL or another control character (got 'a\\x00.csv')"),
    "a path with an escape sequence": (data('source: tables, interactions: "\\e[31m.csv", items: b.csv'), "study.yaml:2: data.interactions: a path must not hold NUL or another control character (got '\\x1b[31m.csv')"),
    "a path of a home that nobody has": (data("source: tables, interactions: ~nobody-here/a.csv, items: b.csv"), "study.yaml:2: data.interactions: ~ must stand for a user's home folder, and there is no such user (got '~nobody-here/a.csv')"),
    "a path with a name of 300 letters": (data(f"source: tables, interactions: {'a' * 300}, items: b.csv"), "study.yaml:2: data.interactions: a path's names must have at most 255 bytes each, and 4095 together (got 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa…)"),
    "columns that are a list": (data("source: tables, interactions: a.csv, items: b.csv, item_columns: [text]"), "study.yaml:2: data.item_columns: must be a mapping of names to values"),
    "a column without a name": (data('source: tables, interactions: a.csv, items: b.csv, item_columns: {text: ""}'), "study.yaml:2: data.item_columns.text: must not be empty (got '')"),
    "an unknown field of images": (data("source: tables, interactions: a.csv, items: b.csv, images: {colum: t}"), "study.yaml:2: data.images.colum: there is no such field here; did you mean 'column'?"),
    "an unknown column": (data("source: tables, interactions: a.csv, items: b.csv, item_columns: {title: t}"), "study.yaml:2: data.item_columns.title: there is no such field here; valid: item_id, text"),
    "a template that is not closed": (data('source: tables, interactions: a.csv, items: b.csv, item_text: "{title"'), "study.yaml:2: data.item_text: braces must stand around the name of a field, in pairs (got '{title')"),
    "a template without a field": (data('source: tables, interactions: a.csv, items: b.csv, item_text: "title"'), "study.yaml:2: data.item_text: a template must hold a field in braces, such as {title} (got 'title')"),
    "a template with a field of no name": (data('source: tables, interactions: a.csv, items: b.csv, item_text: "{}"'), "study.yaml:2: data.item_text: braces must hold the name of a field (got '{}')"),
    "a template with an index": (data('source: movielens, item_text: "{title[0]}"'), "study.yaml:2: data.item_text: items have no field 'title[0]': did you mean 'title'? (got '{title[0]}')"),
    "a template with an attribute": (data('source: movielens, item_text: "{title.__class__}"'), "study.yaml:2: data.item_text: items have no field 'title.__class__': valid: genres, title, year (got '{title.__class__}')"),
    "a template with an unknown field": (data('source: movielens, item_text: "{titel}"'), "study.yaml:2: data.item_text: items have no field 'titel': did you mean 'title'? (got '{titel}')"),
    "a release that is none": (data("source: movielens, release: ml-99m"), "study.yaml:2: data.release: must be ml-100k, ml-1m, ml-10m, ml-20m, ml-25m or ml-32m (got 'ml-99m'); did you mean 'ml-1m'?"),
    "a release with a path": (data("source: movielens, release: ml-1m, path: x"), "study.yaml:2: data: release must be left out with path, which says what to read"),
    "a rating beyond the scale": (data("source: movielens, min_rating: 6"), "study.yaml:2: data.min_rating: must be at most 5 (got 6)"),
    "a year without a release": (data("source: amazon, year: 2019, reviews: a, metadata: b"), "study.yaml:2: data.year: must be 2014, 2018 or 2023 (got 2019)"),
    "a year in quotes": (data('source: amazon, year: "2023", reviews: a, metadata: b'), "study.yaml:2: data.year: must be 2014, 2018 or 2023 (got '2023')"),
    "a share of malformed lines beyond one": (data("source: mind, path: x, most_malformed: 2"), "study.yaml:2: data.most_malformed: must be at most 1 (got 2)"),
    "ratings upside down": (data("source: yelp, reviews: a, businesses: b, lowest_rating: 5, highest_rating: 1"), "study.yaml:2: data: lowest_rating must be at most highest_rating"),
    "hours below zero": (data("source: steam, reviews: a, games: b, min_hours: -1"), "study.yaml:2: data.min_hours: must be at least 0 (got -1)"),
    "images that are text": (data("source: tables, interactions: a.csv, items: b.csv, images: yes"), "study.yaml:2: data.images: must be a mapping of names to values (got 'yes')"),
}  # fmt: skip

KNOB_CASES = {
    "an unknown knob": (fixed("learning_rat: 1e-4"), "study.yaml:3: fixed.learning_rat: there is no such knob; did you mean 'learning_rate'?"),
    "a knob of another library": (fixed("per_device_train_batch_size: 8"), "study.yaml:3: fixed.per_device_train_batch_size: there is no such knob; valid: candidates, collaborative_scores, compile_layers, dora, dpo_beta, dpo_epochs, effective_batch, epochs, examples_per_user, first_candidates, gradient_checkpointing, history_dropout, history_length, image_mode, label_position, label_prior, label_style, learning_rate, list_correction, list_sharing, lora_alpha, lora_dropout, lora_init, lora_plus_ratio, lora_rank, lora_targets, max_grad_norm, max_image_pixels, max_prompt_tokens, max_title_tokens, micro_batch, model, model_weight, negatives, objective, permutations, positive_grades, positives, precision, prompt_order, quantisation, rslora, schedule, scoring, seed, shard_base, shuffle_candidates, skill_mix, skill_steps, teacher, teacher_temperature, teacher_weight, vision_lora, warmup_epochs, weight_decay"),
    "a base that is divided perhaps": (fixed("shard_base: perhaps"), "study.yaml:3: fixed.shard_base: must be auto, true or false (got 'perhaps')"),
    "checkpointing that is null": (fixed("gradient_checkpointing: null"), "study.yaml:3: fixed.gradient_checkpointing: must be auto, true or false"),
    "a validation at the end of time": (data("source: demo, split: time, validation_from: 1e400"), "study.yaml:2: data.validation_from: must be a share between 0 and 1, a date such as 2018-06-30, or a timestamp as the data have it (got inf)"),
    "a rate above one": (fixed("learning_rate: 2"), "study.yaml:3: fixed.learning_rate: must be at most 1 (got 2)"),
    "a rate of nothing": (fixed("learning_rate: 0"), "study.yaml:3: fixed.learning_rate: must be above 0 (got 0)"),
    "a rate that is no number": (fixed("learning_rate: .nan"), "study.yaml:3: fixed.learning_rate: must be a number (got '.nan')"),
    "a rate without end": (fixed("learning_rate: .inf"), "study.yaml:3: fixed.learning_rate: must be a number (got '.inf')"),
    "a rate in words": (fixed("learning_rate: fast"), "study.yaml:3: fixed.learning_rate: must be a number (got 'fast')"),
    "a rate that is a list": (fixed("learning_rate: [1e-4, 1e-3]"), "study.yaml:3: fixed.learning_rate: must be a number (got [0.0001, 0.001])"),
    "a rate too large for a number": (fixed("learning_rate: 1e999"), "study.yaml:3: fixed.learning_rate: must be a finite number (got inf)"),
    "a rank that is a fraction": (fixed("lora_rank: 8.5"), "study.yaml:3: fixed.lora_rank: must be a whole number (got 8.5)"),
    "a rank that is true": (fixed("lora_rank: true"), "study.yaml:3: fixed.lora_rank: must be a whole number (got True)"),
    "a dropout of one": (fixed("lora_dropout: 1"), "study.yaml:3: fixed.lora_dropout: must be below 1 (got 1)"),
    "one candidate": (fixed("candidates: 1"), "study.yaml:3: fixed.candidates: must be at least 2 (got 1)"),
    "more candidates than letters": (fixed("candidates: 60"), "study.yaml:3: fixed: candidates must be at most 52 with label_style: letters; numbers, mixed and id_tokens have more labels"),
    "a label style that is none": (fixed("label_style: emoji"), "study.yaml:3: fixed.label_style: must be letters, numbers, mixed or id_tokens (got 'emoji')"),
    "a model that is none": (fixed("model: gpt-4"), "study.yaml:3: fixed.model: there is no such model (got 'gpt-4'); valid: demo-small, demo-tiny, gemma3-1b, gemma3-270m, llama3.2-1b, llama3.2-3b, phi4-mini, qwen3-0.6b, qwen3-1.7b, qwen3-4b, qwen3-4b-2507, qwen3-8b, qwen3-reranker-0.6b, qwen3-reranker-4b, qwen3.5-0.8b, qwen3.5-2b, qwen3.5-4b, qwen3vl-2b, qwen3vl-4b, qwen3vl-8b, smollm2-1.7b, smollm2-135m, smollm2-360m, smollm3-3b"),
    "a model misspelt": (fixed("model: qwen3-0.6"), "study.yaml:3: fixed.model: there is no such model (got 'qwen3-0.6'); did you mean 'qwen3-0.6b'?"),
    "a model of another size": (fixed("model: qwen3-14b"), "study.yaml:3: fixed.model: there is no such model (got 'qwen3-14b'); did you mean 'qwen3-8b'? qwen3 comes as qwen3-0.6b, qwen3-1.7b, qwen3-4b, qwen3-8b"),
    "a model folder that is not there": (fixed("model: ./models/mine"), "study.yaml:3: fixed.model: there is no such model folder or .gguf file (got './models/mine')"),
    "a GGUF file that is not there": (fixed("model: mine.gguf"), "study.yaml:3: fixed.model: there is no such model folder or .gguf file (got 'mine.gguf')"),
    "a model that leads out of the Hub": (fixed('model: "../../etc/passwd"'), "study.yaml:3: fixed.model: there is no such model folder or .gguf file (got '../../etc/passwd')"),
    "a model that is an address": (fixed('model: "https://huggingface.co/Qwen/Qwen3-0.6B"'), "study.yaml:3: fixed.model: there is no such model (got 'https://huggingface.co/Qwen/Qwen3-0.6B'); valid: demo-small, demo-tiny, gemma3-1b, gemma3-270m, llama3.2-1b, llama3.2-3b, phi4-mini, qwen3-0.6b, qwen3-1.7b, qwen3-4b, qwen3-4b-2507, qwen3-8b, qwen3-reranker-0.6b, qwen3-reranker-4b, qwen3.5-0.8b, qwen3.5-2b, qwen3.5-4b, qwen3vl-2b, qwen3vl-4b, qwen3vl-8b, smollm2-1.7b, smollm2-135m, smollm2-360m, smollm3-3b"),
    "a model that is empty": (fixed('model: ""'), "study.yaml:3: fixed.model: must not be empty (got '')"),
    "a model that is null": (fixed("model: ~"), "study.yaml:3: fixed.model: must be text"),
    "a model with a line break": (fixed('model: "a\\nb"'), "study.yaml:3: fixed.model: a path must not hold NUL or another control character (got 'a\\nb')"),
    "targets that are none": (fixed("lora_targets: q_proj"), "study.yaml:3: fixed.lora_targets: must be all_linear, attention or qv (got 'q_proj')"),
    "negatives that sum to two": (fixed("negatives: {uniform: 1, popularity: 1}"), "study.yaml:3: fixed.negatives: the shares of the negatives must sum to 1"),
    "negatives that are a word": (fixed("negatives: hard"), "study.yaml:3: fixed.negatives: must be a mapping of names to values (got 'hard')"),
    "negatives of an unknown kind": (fixed("negatives: {random: 1}"), "study.yaml:3: fixed.negatives.random: there is no such field here; valid: popularity, retriever, uniform"),
    "no rank": (fixed("lora_rank: 0"), "study.yaml:3: fixed.lora_rank: must be at least 1 (got 0)"),
    "a method that is none": (fixed("method: qlora"), "study.yaml:3: fixed.method: method must be qwen3vl or left out: `model` says what other models are (got 'qlora')"),
    "a knob fixed and searched": (HEAD + "fixed: {epochs: 2}\n" + SPACE, "study.yaml:4: space.epochs: a knob must not be both fixed and searched, but where its entry has a condition (got 'epochs')"),
    "a space without a kind": (space("epochs: {}"), "study.yaml:3: space.epochs: exactly one of choice, int, uniform, log_uniform must be given (got [])"),
    "a space of a value": (space("epochs: 3"), "study.yaml:3: space.epochs: how a knob varies must be a mapping, such as {choice: […]} or {log_uniform: [low, high]} (got 3)"),
    "a space of a list": (space("epochs: [1, 3]"), "study.yaml:3: space.epochs: how a knob varies must be a mapping, such as {choice: […]} or {log_uniform: [low, high]} (got [1, 3])"),
    "a space of an unknown kind": (space("epochs: {uniform_int: [1, 3]}"), "study.yaml:3: space.epochs: exactly one of choice, int, uniform, log_uniform must be given (got ['uniform_int']); did you mean 'uniform'?"),
    "a space of two kinds": (space("epochs: {int: [1, 3], choice: [1, 3]}"), "study.yaml:3: space.epochs: exactly one of choice, int, uniform, log_uniform must be given (got ['int', 'choice'])"),
    "a range upside down": (space("epochs: {int: [3, 1]}"), "study.yaml:3: space.epochs.int: the low end must be below the high end (got [3, 1])"),
    "a range of one end": (space("epochs: {int: [3]}"), "study.yaml:3: space.epochs.int: a range must be [low, high], two numbers (got [3])"),
    "a range of words": (space("epochs: {int: [few, many]}"), "study.yaml:3: space.epochs.int: a range must be [low, high], two numbers (got ['few', 'many'])"),
    "a range of nulls": (space("epochs: {int: [~, ~]}"), "study.yaml:3: space.epochs.int: a range must be [low, high], two numbers (got [None, None])"),
    "a range that is no number": (space("learning_rate: {uniform: [.nan, 1]}"), "study.yaml:3: space.learning_rate.uniform: a range must be [low, high], two numbers (got ['.nan', 1])"),
    "a range without end": (space("learning_rate: {uniform: [1e-5, .inf]}"), "study.yaml:3: space.learning_rate.uniform: a range must be [low, high], two numbers (got [1e-05, '.inf'])"),
    "a range too large for a number": (space("learning_rate: {uniform: [1e-5, 1e999]}"), "study.yaml:3: space.learning_rate.uniform.1: both ends of [1e-05, inf] must be valid: must be a finite number (got inf)"),
    "a range that is a mapping": (space("epochs: {int: {low: 1, high: 3}}"), "study.yaml:3: space.epochs.int: must be a list that is not empty (got {'low': 1, 'high': 3})"),
    "a log range from zero": (space("learning_rate: {log_uniform: [0, 1e-3]}"), "study.yaml:3: space.learning_rate.log_uniform: a logarithmic range must be above 0 (got [0, 0.001])"),
    "a range of a knob of words": (space("schedule: {int: [1, 3]}"), "study.yaml:3: space.schedule.int.0: both ends of [1, 3] must be valid: must be constant, linear or cosine (got 1)\nstudy.yaml:3: space.schedule.int.1: both ends of [1, 3] must be valid: must be constant, linear or cosine (got 3)"),
    "a range beyond the knob's": (space("lora_dropout: {uniform: [0, 2]}"), "study.yaml:3: space.lora_dropout.uniform.1: both ends of [0, 2] must be valid: must be below 1 (got 2.0)"),
    "a step of nothing": (space("epochs: {int: [1, 3], step: 0}"), "study.yaml:3: space.epochs.int: step must be a whole number from 1, log true or false, and not both (got {'step': 0, 'log': False})"),
    "a step beyond the range": (space("epochs: {int: [1, 3], step: 9}"), "study.yaml:3: space.epochs.int: the high end must be a number of steps of 9 above the low one (got [1, 3])"),
    "a choice of nothing": (space("epochs: {choice: []}"), "study.yaml:3: space.epochs.choice: must be a list that is not empty (got [])"),
    "a choice that is a value": (space("epochs: {choice: 3}"), "study.yaml:3: space.epochs.choice: must be a list that is not empty (got 3)"),
    "a choice of a value that is none": (space("schedule: {choice: [cosine, spiral]}"), "study.yaml:3: space.schedule.choice.1: each choice must be valid: must be constant, linear or cosine (got 'spiral')"),
    "a choice listed twice": (space("epochs: {choice: [1, 1]}"), "study.yaml:3: space.epochs.choice: a choice must not be listed twice (got [1, 1])"),
    "a condition on itself": (space("epochs: {int: [1, 3], when: {epochs: 2}}"), "study.yaml:3: space.epochs.when.epochs: a condition must name another knob; did you mean 'dpo_epochs'?"),
    "a condition on nobody": (space("epochs: {int: [1, 3], when: {nothing: 2}}"), "study.yaml:3: space.epochs.when.nothing: a condition must name another knob; valid: candidates, collaborative_scores, compile_layers, dora, dpo_beta, dpo_epochs, effective_batch, examples_per_user, first_candidates, gradient_checkpointing, history_dropout, history_length, image_mode, label_position, label_prior, label_style, learning_rate, list_correction, list_sharing, lora_alpha, lora_dropout, lora_init, lora_plus_ratio, lora_rank, lora_targets, max_grad_norm, max_image_pixels, max_prompt_tokens, max_title_tokens, micro_batch, model, model_weight, negatives, objective, permutations, positive_grades, positives, precision, prompt_order, quantisation, rslora, schedule, scoring, seed, shard_base, shuffle_candidates, skill_mix, skill_steps, teacher, teacher_temperature, teacher_weight, vision_lora, warmup_epochs, weight_decay"),
    "a condition that is text": (space("epochs: {int: [1, 3], when: always}"), "study.yaml:3: space.epochs.when: a condition must be a mapping {knob: value} (got 'always')"),
    "an unknown knob that is searched": (space("learning-rate: {uniform: [1e-5, 1e-3]}"), "study.yaml:3: space.learning-rate: there is no such knob (got 'learning-rate'); did you mean 'learning_rate'?"),
    "a knob that may not be searched": (space("candidates: {int: [5, 10]}"), "study.yaml:3: space.candidates: this knob can't be searched: lists of different length can't be compared"),
    "a start outside the space": (study(start_from="[{epochs: 9}]"), "study.yaml:1: study.start_from.0.epochs: must be a whole number from 1 to 3 (got 9)"),
    "a start of an unknown knob": (study(start_from="[{epoch: 2}]"), "study.yaml:1: study.start_from.0.epoch: there is no such knob; did you mean 'epochs'?"),
    "workers below one": (resources("workers: 0"), "study.yaml:4: resources.workers: must be at least 1 (got 0)"),
    "workers in words": (resources("workers: all"), "study.yaml:4: resources.workers: must be a whole number (got 'all')"),
    "GPUs below zero": (resources("gpus_per_trial: -1"), "study.yaml:4: resources.gpus_per_trial: must be auto or a number from 0 (got -1)"),
    "GPUs that are true": (resources("gpus_per_trial: true"), "study.yaml:4: resources.gpus_per_trial: must be auto or a number from 0 (got True)"),
    "GPUs without end": (resources("gpus_per_trial: 1e400"), "study.yaml:4: resources.gpus_per_trial: must be auto or a number from 0 (got inf)"),
    "an isolation that is none": (resources("isolation: docker"), "study.yaml:4: resources.isolation: must be slot or trial (got 'docker')"),
    "an unknown resource": (resources("memory: 8G"), "study.yaml:4: resources.memory: there is no such field here; valid: cpus_per_worker, cuda_mps, gpus_per_trial, hang_minutes, idle_seconds, isolation, workers"),
}  # fmt: skip


def answer_gguf(content: bytes) -> Told:
    """A study whose base is a file of this content."""
    Path("mine.gguf").write_bytes(content)
    return answer(fixed("model: mine.gguf"))


GGUF_CASES = {
    "nothing": (b"", "study.yaml:3: fixed.model: the file must be a model in the GGUF format (got b'')"),
    "text": (b"hello", "study.yaml:3: fixed.model: the file must be a model in the GGUF format (got b'hell')"),
    "a checkpoint of another kind": ((2).to_bytes(8, "little") + b"{}", "study.yaml:3: fixed.model: the file must be a model in the GGUF format (got b'\\x02\\x00\\x00\\x00')"),
    "an older format": (b"GGML" + bytes(40), "study.yaml:3: fixed.model: the file must be a model in the GGUF format (got b'GGML')"),
    "the first four bytes": (b"GGUF", "study.yaml:3: fixed.model: the .gguf file must be whole; it is too short for what its header claims; fetch it again"),
    "half a header": (b"GGUF" + (3).to_bytes(4, "little") + bytes(8), "study.yaml:3: fixed.model: the .gguf file must be whole; it is too short for what its header claims; fetch it again"),
    "a billion tensors": (b"GGUF" + (3).to_bytes(4, "little") + (10**9).to_bytes(8, "little") + bytes(8), "study.yaml:3: fixed.model: the .gguf file must be whole; it is too short for what its header claims; fetch it again"),
    "facts without end": (b"GGUF" + (3).to_bytes(4, "little") + bytes(8) + (2**64 - 1).to_bytes(8, "little"), "study.yaml:3: fixed.model: the .gguf file must be whole; it is too short for what its header claims; fetch it again"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "says"), table(GGUF_CASES))
def test_a_base_that_is_no_gguf_file(content, says):
    assert answer_gguf(content) == (2, says)


@pytest.mark.parametrize(("content", "says"), table(BYTES_CASES))
def test_bytes_that_are_no_study(content, says):
    assert answer(content) == (2, says)


@pytest.mark.parametrize(("content", "says"), table(YAML_CASES))
def test_yaml_that_is_no_study(content, says):
    assert answer(content) == (2, says)


@pytest.mark.slow  # PyYAML takes seconds for them
def test_two_hundred_thousand_values():
    says = (
        "study.yaml: a file must have at most 100,000 values, its aliases written out; the variable "
        "RERANKER_MOST_STUDY_VALUES raises that"
    )
    assert answer("study: [" + "1," * 200_000 + "1]\n") == (2, says)


@pytest.mark.parametrize(("content", "says"), table(SECTION_CASES))
def test_sections_that_are_wrong(content, says):
    assert answer(content) == (2, says)


@pytest.mark.parametrize(("content", "says"), table(STUDY_CASES))
def test_settings_of_a_study(content, says):
    assert answer(content) == (2, says)


@pytest.mark.parametrize(("content", "says"), table(DATA_CASES))
def test_settings_of_data(content, says):
    assert answer(content) == (2, says)


@pytest.mark.parametrize(("content", "says"), table(KNOB_CASES))
def test_knobs_and_resources(content, says):
    assert answer(content) == (2, says)


def test_all_rules_among_fields_are_told_at_once():
    """Not the first of them, and the next one once that is mended."""
    content = (
        "study: {name: a, trials: 2}\n"
        "data: {source: demo, retriever: dense, split: time, validation_from: 0.9, test_from: 0.5}\n"
        "fixed: {candidates: 60, first_candidates: 70, epochs: 2, dpo_epochs: 2}\n"
        "space: {lora_rank: {choice: [4, 8]}}\n"
    )
    says = (
        "study.yaml:2: data: validation_from must be below test_from, which is 0.5; it is 0.9\n"
        "study.yaml:2: data: retriever: dense needs dense_model, a sentence encoder: a folder, or an id of the Hub such as "
        "sentence-transformers/all-MiniLM-L6-v2\n"
        "study.yaml:3: fixed: dpo_epochs must be less than `epochs`: what is trained before is what it starts from\n"
        "study.yaml:3: fixed: candidates must be at most 52 with label_style: letters; numbers, mixed and id_tokens have "
        "more labels\n"
        "study.yaml:3: fixed: first_candidates must be at most `candidates`"
    )
    assert answer(content) == (2, says)
