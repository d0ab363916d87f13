"""Words that a command does not take: what each says of them."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

import reranker_tuner
from tests.told import Told, table, told

STUDY = "study: {name: a, trials: 2}\ndata: {source: demo, users: 60}\nspace: {epochs: {int: [1, 3]}}\n"
ITEMS, CLICKS = "item_id,text\na,Apple\n", "user_id,item_id,timestamp\nu,a,1\n"


def answer(line: str) -> Told:
    """A command line in a folder with a study file, two tables, an empty folder, and a file that is no study."""
    Path("study.yaml").write_text(STUDY, encoding="utf-8")
    Path("clicks.csv").write_text(CLICKS, encoding="utf-8")
    Path("items.csv").write_text(ITEMS, encoding="utf-8")
    Path("semicolons.csv").write_text("user;item;time\nu;a;1\n", encoding="utf-8")
    Path("figures.csv").write_text("name,kind,recall_at_1\nx,trial,2\n", encoding="utf-8")
    Path("empty").mkdir()
    return told(*shlex.split(line))


CASES = {
    "no such command": ("serch", "there is no command 'serch'; did you mean 'search'? reranker-tuner --help lists them"),
    "an option in the place of a command": ("--verbose", "there is no command '--verbose'; reranker-tuner --help lists them"),
    "a command in capitals": ("SEARCH", "there is no command 'SEARCH'; reranker-tuner --help lists them"),
    "an empty command": ("''", "there is no command ''; reranker-tuner --help lists them"),
    "search: no such file": ("search studdy.yaml", "studdy.yaml: there is no such study file; did you mean 'study.yaml'?"),
    "search: a folder": ("search empty", "empty: a study file must be a file, not a folder; valid: study.yaml"),
    "search: two files": ("search study.yaml study.yaml", "unrecognized arguments: study.yaml; reranker-tuner search --help lists what there is"),
    "search: an unknown option": ("search study.yaml --epochs 3", "unrecognized arguments: --epochs 3; reranker-tuner search --help lists what there is"),
    "search: an option cut short": ("search study.yaml --concur 3", "unrecognized arguments: --concur 3; did you mean '--concurrency'?; reranker-tuner search --help lists what there is"),
    "search: an option without a value": ("search study.yaml --trials", "argument --trials: expected one argument; reranker-tuner search --help lists what there is"),
    "search: no trials": ("search study.yaml --trials 0", "argument --trials: must be a whole number from 1, not '0'; reranker-tuner search --help lists what there is"),
    "search: trials in words": ("search study.yaml --trials many", "argument --trials: must be a whole number from 1, not 'many'; reranker-tuner search --help lists what there is"),
    "search: trials in Arabic digits": ("search study.yaml --trials ²", "argument --trials: must be a whole number from 1, not '²'; reranker-tuner search --help lists what there is"),
    "search: no restarts": ("search study.yaml --max-restarts 0", "argument --max-restarts: must be a whole number from 1, not '0'; reranker-tuner search --help lists what there is"),
    "search: workers below zero": ("search study.yaml --workers -1", "argument --workers: must be a whole number from 1, not '-1'; reranker-tuner search --help lists what there is"),
    "search: a seed in words": ("search study.yaml --seed x", "argument --seed: must be a whole number, not 'x'; reranker-tuner search --help lists what there is"),
    "search: an unknown sampler": ("search study.yaml --sampler bayes", "--set study.sampler=bayes: study.sampler: must be tpe, random, gp, cmaes or grid (got 'bayes'); did you mean 'cmaes'?"),
    "search: an unknown isolation": ("search study.yaml --isolation docker", "--set resources.isolation=docker: resources.isolation: must be slot or trial (got 'docker')"),
    "search: an empty name": ("search study.yaml --name ''", "argument --name: must not be empty; reranker-tuner search --help lists what there is"),
    "search: a name that leads out": ("search study.yaml --name ../../x", '--set study.name="../../x": study.name: must be letters, digits, \'.\', \'_\' and \'-\', the first one a letter or digit (got \'../../x\')'),
    "search: a name with an escape sequence": ("search study.yaml --name $'\\e[31m'", '--set study.name="$\\\\e[31m": study.name: must be letters, digits, \'.\', \'_\' and \'-\', the first one a letter or digit (got \'$\\\\e[31m\')'),
    "search: an unknown knob": ("search study.yaml --set lerning_rate=1", "--set lerning_rate=1: there is no such knob or section; did you mean 'learning_rate'?"),
    "search: a knob without a value": ("search study.yaml --set epochs", "--set epochs: an override must be KNOB=VALUE or section.field=VALUE"),
    "search: a value without a knob": ("search study.yaml --set =3", "--set =3: an override must be KNOB=VALUE or section.field=VALUE"),
    "search: a value that is none": ("search study.yaml --set epochs=[1", "--set epochs=[1: not a value (got '[1')"),
    "search: a value beyond the range": ("search study.yaml --set lora_rank=0", "--set lora_rank=0: fixed.lora_rank: must be at least 1 (got 0)"),
    "search: an unknown section": ("search study.yaml --set stude.trials=3", "--set stude.trials=3: there is no such knob or section; did you mean 'study'?"),
    "search: a section as a value": ("search study.yaml --set study=3", "--set study=3: an override must be KNOB=VALUE or section.field=VALUE"),
    "search: an unknown field": ("search study.yaml --set study.trails=3", "--set study.trails=3: study.trails: there is no such field here; did you mean 'trials'?"),
    "search: a dot too many": ("search study.yaml --set study..trials=3", "--set study..trials=3: an override must be KNOB=VALUE or section.field=VALUE"),
    "search: resume of nothing": ("search --resume nothing", "there is no study 'nothing' in HERE/runs; there are: none"),
    "search: resume of an empty folder": ("search --resume empty", "there is no study 'empty' in HERE/runs; there are: none"),
    "search: resume and a file": ("search study.yaml --resume empty", "a study file is for a new study; with --resume the study's own counts; reranker-tuner search --help lists what there is"),
    "search: retry without resume": ("search study.yaml --retry-failed", "--retry-failed takes --resume STUDY: it is for trials that have failed; reranker-tuner search --help lists what there is"),
    "search: top without replicate": ("search study.yaml --top 3", "--top takes --replicate N: it is how many of the best are replicated; reranker-tuner search --help lists what there is"),
    "search: a port beyond the last": ("search study.yaml --dashboard-port 70000", "argument --dashboard-port: must be from 1 to 65535, not '70000'; reranker-tuner search --help lists what there is"),
    "search: a port and no dashboard": ("search study.yaml --dashboard-port 9000 --no-dashboard", "--dashboard-port and --no-dashboard can't go together; reranker-tuner search --help lists what there is"),
    "search: a cluster and a dashboard": ("search study.yaml --address auto --no-dashboard", "--no-dashboard is for a Ray of this search's own, not with --address; reranker-tuner search --help lists what there is"),
    "search: a webhook without a scheme": ("search study.yaml --webhook hooks.example/x", "argument --webhook: must be an address with http:// or https://; reranker-tuner search --help lists what there is"),
    "search: a store that is none": ("search study.yaml --tracking-uri ftp://x", "argument --tracking-uri: must be a store of MLflow's, such as http://HOST:5000 or sqlite:///FILE; reranker-tuner search --help lists what there is"),
    "search: a copy at no address": ("search study.yaml --copy-to bucket", "argument --copy-to: must be an address such as s3://BUCKET/FOLDER, gs://BUCKET/FOLDER or file:///FOLDER; reranker-tuner search --help lists what there is"),
    "search: a copy with a key in its address": ("search study.yaml --copy-to s3://AKIA:hunter2@bucket/x", "argument --copy-to: must not have a user, password or key in it: those come from where the store's own commands find them, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; reranker-tuner search --help lists what there is"),
    "search: resume of a bucket": ("search --resume s3://bucket", "argument --resume: an address must have the study's name at its end, as s3://BUCKET/FOLDER/NAME; reranker-tuner search --help lists what there is"),
    "search: resume of a copy that is not there": ("search --resume file:///nowhere/demo", "there is no study at file:///nowhere/demo; in file:///nowhere there are: none"),
    "search: a summary never": ("search study.yaml --summary-minutes 0", "argument --summary-minutes: must be a number above 0, not '0'; reranker-tuner search --help lists what there is"),
    "search: a summary in words": ("search study.yaml --summary-minutes nan", "argument --summary-minutes: must be a number above 0, not 'nan'; reranker-tuner search --help lists what there is"),
    "search: runs that is a file": ("search study.yaml --runs study.yaml", "cannot write study.yaml/a: study.yaml is no folder; --runs FOLDER or the variable RERANKER_TUNER_HOME names another place"),
    "search: warm start of nothing": ("search study.yaml --warm-start nothing", "there is no study 'nothing' in HERE/runs; there are: none"),
    "check: no such file": ("check nothing.yaml", "nothing.yaml: there is no such study file; valid: study.yaml"),
    "check: a name of 300 letters": (f"check {'x' * 300}.yaml", "argument study_file: a path's names must have at most 255 bytes each, and 4095 together; reranker-tuner check --help lists what there is"),
    "init: no tables": ("init", "the following arguments are required: interactions, items; reranker-tuner init --help lists what there is"),
    "init: one table": ("init clicks.csv", "the following arguments are required: items; reranker-tuner init --help lists what there is"),
    "init: a table that is not there": ("init click.csv items.csv --output new.yaml", "click.csv: the file must exist; looked for HERE/click.csv"),
    "init: another ending": ("init study.yaml items.csv --output new.yaml", "study.yaml: the file's name must end in .csv or .parquet (got 'study.yaml')"),
    "init: the output is there": ("init clicks.csv items.csv --output study.yaml", "study.yaml is there already; name another file with --output"),
    "init: semicolons": ("init semicolons.csv items.csv --output new.yaml", "semicolons.csv:1: the table must have at least two columns, with their names in the first line, between commas (got 'user;item;time')"),
    "init: an unknown column": ("init clicks.csv items.csv --user-column customer --output new.yaml", "clicks.csv:1: customer: the table has no such column; valid: item_id, timestamp, user_id"),
    "init: the tables in the wrong order": ("init items.csv clicks.csv --output new.yaml", "items.csv:1: none of the columns looks like the user; name it with --user-column; there are: item_id, text\nitems.csv:1: none of the columns looks like when: numbers or ISO dates; name it with --timestamp-column; there are: item_id, text"),
    "init: a folder in the place of a table": ("init empty items.csv --output new.yaml", "empty: the file must exist; looked for HERE/empty"),
    "control: no act": ("control demo", "the following arguments are required: act; reranker-tuner control --help lists what there is"),
    "control: an unknown act": ("control demo restart", "argument act: invalid choice: 'restart' (choose from 'stop', 'keep', 'add', 'pause', 'resume'); reranker-tuner control --help lists what there is"),
    "control: an option behind the act": ("control nothing pause --runs runs", "unrecognized arguments: --runs runs; --runs stands before STUDY and what to do; reranker-tuner control --help lists what there is"),
    "control: no such study": ("control nothing pause", "there is no study 'nothing' in HERE/runs; there are: none"),
    "control: a trial in words": ("control nothing stop first", "argument trial: must be a whole number, not 'first'; reranker-tuner control --help lists what there is"),
    "control: no trial": ("control nothing stop", "the following arguments are required: trial; reranker-tuner control --help lists what there is"),
    "control: no knob": ("control nothing add", "the following arguments are required: KNOB=VALUE; reranker-tuner control --help lists what there is"),
    "control: a knob without a value": ("control nothing add epochs", "add: a knob must be given as knob=value (got 'epochs')"),
    "control: a value that is none": ("control nothing add epochs=[1", "--add epochs=[1: not a value (got '[1')"),
    "track: no study": ("track", "the following arguments are required: study; reranker-tuner track --help lists what there is"),
    "track: no such study": ("track nothing", "there is no study 'nothing' in HERE/runs; there are: none"),
    "train: nothing to train on": ("train", "say what to train on: --source demo, movielens, tables, amazon, recbole, mind, steam, yelp, or a --config that holds `data`; a study's best_config.yaml does"),
    "train: an unknown source": ("train --source netflix", "argument --source: invalid choice: 'netflix' (choose from 'demo', 'movielens', 'tables', 'amazon', 'recbole', 'mind', 'steam', 'yelp'); reranker-tuner train --help lists what there is"),
    "train: an unknown metric": ("train --source demo --metric accuracy", "--metric: there is no such metric (got 'accuracy'); valid: mrr_at_10, ndcg_at_10, ndcg_at_5, recall_at_1, recall_at_10, recall_at_5, val_loss"),
    "train: no such configuration": ("train --config nothing.yaml", "nothing.yaml: there is no such configuration; valid: study.yaml"),
    "train: a study file as a configuration": ("train --config study.yaml", "study.yaml:1: study: there is no such knob; valid: candidates, collaborative_scores, compile_layers, dora, dpo_beta, dpo_epochs, effective_batch, epochs, examples_per_user, first_candidates, gradient_checkpointing, history_dropout, history_length, image_mode, label_position, label_prior, label_style, learning_rate, list_correction, list_sharing, lora_alpha, lora_dropout, lora_init, lora_plus_ratio, lora_rank, lora_targets, max_grad_norm, max_image_pixels, max_prompt_tokens, max_title_tokens, micro_batch, model, model_weight, negatives, objective, permutations, positive_grades, positives, precision, prompt_order, quantisation, rslora, schedule, scoring, seed, shard_base, shuffle_candidates, skill_mix, skill_steps, teacher, teacher_temperature, teacher_weight, vision_lora, warmup_epochs, weight_decay\nstudy.yaml:3: space: there is no such knob; valid: candidates, collaborative_scores, compile_layers, dora, dpo_beta, dpo_epochs, effective_batch, epochs, examples_per_user, first_candidates, gradient_checkpointing, history_dropout, history_length, image_mode, label_position, label_prior, label_style, learning_rate, list_correction, list_sharing, lora_alpha, lora_dropout, lora_init, lora_plus_ratio, lora_rank, lora_targets, max_grad_norm, max_image_pixels, max_prompt_tokens, max_title_tokens, micro_batch, model, model_weight, negatives, objective, permutations, positive_grades, positives, precision, prompt_order, quantisation, rslora, schedule, scoring, seed, shard_base, shuffle_candidates, skill_mix, skill_steps, teacher, teacher_temperature, teacher_weight, vision_lora, warmup_epochs, weight_decay"),
    "train: an unknown knob": ("train --source demo --lerning-rate 1", "unrecognized arguments: --lerning-rate 1; did you mean '--learning-rate'?; reranker-tuner train --help lists what there is"),
    "train: a rate in words": ("train --source demo --learning-rate fast", "--learning-rate: learning_rate: must be a number (got 'fast')"),
    "train: a field of another source": ("train --source demo --data-path x", "--data-path: data.path: there is no such knob; valid: candidate_mode, candidate_order, dense_model, evaluation, evaluation_negatives, evaluation_users, interactions_per_user, min_item, min_user, pointwise_model, retriever, seed, source, split, targets_per_user, teacher_scores, test_from, test_users, training_users, users, validation_from"),
    "train: an unknown model": ("train --source demo --model qwen3-0.6", "model: there is no such model (got 'qwen3-0.6'); did you mean 'qwen3-0.6b'?"),
    "rank: no adapter": ("rank --history a --candidates b c", "the following arguments are required: --adapter; reranker-tuner rank --help lists what there is"),
    "rank: no such adapter": ("rank --adapter nothing --history a --candidates b c", "there is no adapter in nothing: an adapter's folder must hold adapter_config.json and adapter_model.safetensors"),
    "rank: an empty folder": ("rank --adapter empty --history a --candidates b c", "there is no adapter in empty: an adapter's folder must hold adapter_config.json and adapter_model.safetensors"),
    "rank: nothing to rank": ("rank --adapter empty", "give --history and --candidates, or --jsonl; reranker-tuner rank --help lists what there is"),
    "rank: a history alone": ("rank --adapter empty --history a", "give --history and --candidates, or --jsonl; reranker-tuner rank --help lists what there is"),
    "rank: two kinds of lists": ("rank --adapter empty --history a --candidates b --jsonl x", "give --history and --candidates, or --jsonl; reranker-tuner rank --help lists what there is"),
    "rank: no orders": ("rank --adapter empty --history a --candidates b --permutations 0", "argument --permutations: must be a whole number from 1, not '0'; reranker-tuner rank --help lists what there is"),
    "rank: a server without a scheme": ("rank --adapter empty --history a --candidates b --vllm localhost:8000", "argument --vllm: must be an address with http:// or https://; reranker-tuner rank --help lists what there is"),
    "rank: a server and a device": ("rank --adapter empty --history a --candidates b --vllm http://localhost --device cpu", "with --vllm the server has the model; --device and --base are of models on this machine; reranker-tuner rank --help lists what there is"),
    "rank: ids of a stream": ("rank --adapter empty --jsonl x --candidate-ids a", "with --jsonl ids and images stand in its lines: candidate_ids, history_images, candidate_images; reranker-tuner rank --help lists what there is"),
    "rank: images of a stream": ("rank --adapter empty --jsonl x --history-images a", "with --jsonl ids and images stand in its lines: candidate_ids, history_images, candidate_images; reranker-tuner rank --help lists what there is"),
    "serve: no adapter": ("serve", "the following arguments are required: adapter; reranker-tuner serve --help lists what there is"),
    "serve: no such adapter": ("serve nothing", "there is no adapter in nothing: an adapter's folder must hold adapter_config.json and adapter_model.safetensors"),
    "serve: to everybody without a token": ("serve empty --host 0.0.0.0", "--host 0.0.0.0: others can reach it, so the variable RERANKER_SERVE_TOKEN must hold a token; reranker-tuner serve --help lists what there is"),
    "serve: a port in words": ("serve empty --port http", "argument --port: must be from 1 to 65535, not 'http'; reranker-tuner serve --help lists what there is"),
    "serve: port zero": ("serve empty --port 0", "argument --port: must be from 1 to 65535, not '0'; reranker-tuner serve --help lists what there is"),
    "serve: replicas upside down": ("serve empty --replicas 4 1", "--replicas: the fewest must not be above the most; reranker-tuner serve --help lists what there is"),
    "serve: one number of replicas": ("serve empty --replicas 4", "argument --replicas: expected 2 arguments; reranker-tuner serve --help lists what there is"),
    "serve: GPUs without end": ("serve empty --gpus-per-replica inf", "argument --gpus-per-replica: must be a number from 0 to 64, not 'inf'; reranker-tuner serve --help lists what there is"),
    "serve: a wait that is no number": ("serve empty --batch-wait-ms nan", "argument --batch-wait-ms: must be a number from 0 to 60000, not 'nan'; reranker-tuner serve --help lists what there is"),
    "serve: a batch of nothing": ("serve empty --batch 0", "argument --batch: must be a whole number from 1, not '0'; reranker-tuner serve --help lists what there is"),
    "export: no form": ("export empty --output out", "the following arguments are required: --form; reranker-tuner export --help lists what there is"),
    "export: an unknown form": ("export empty --form onnx --output out", "argument --form: invalid choice: 'onnx' (choose from 'merged', 'lora', 'gguf'); reranker-tuner export --help lists what there is"),
    "export: the output is there": ("export empty --form lora --output empty", "--output: the output must not exist yet (got 'empty')"),
    "export: no such adapter": ("export nothing --form lora --output out", "there is no adapter in nothing: an adapter's folder must hold adapter_config.json and adapter_model.safetensors"),
    "export: public without a place": ("export empty --form lora --output out --public", "--public and --dry-run take --push OWNER/NAME; reranker-tuner export --help lists what there is"),
    "export: a place that is none": ("export empty --form lora --output out --push me/you/demo", "--push: a repository is named OWNER/NAME; reranker-tuner export --help lists what there is"),
    "compare: no study": ("compare", "the following arguments are required: STUDY; reranker-tuner compare --help lists what there is"),
    "compare: no such study": ("compare nothing", "there is no study 'nothing' in HERE/runs; there are: none"),
    "compare: an empty folder": ("compare empty", "there is no study 'empty' in HERE/runs; there are: none"),
    "compare: a file": ("compare study.yaml", "there is no study 'study.yaml' in HERE/runs; there are: none"),
    "history: no studies": ("history", "there is no study in HERE/runs; --runs says where studies are kept"),
    "history: no such study": ("history nothing", "there is no study 'nothing' in HERE/runs; there are: none"),
    "diagnose: nothing": ("diagnose", "name a study, or give --table; reranker-tuner diagnose --help lists what there is"),
    "diagnose: a study and a table": ("diagnose empty --table figures.csv", "name a study, or give --table; reranker-tuner diagnose --help lists what there is"),
    "diagnose: a table alone": ("diagnose --table figures.csv", "--table needs --users and --candidates; reranker-tuner diagnose --help lists what there is"),
    "diagnose: a study and its size": ("diagnose empty --users 9", "--users and --candidates take --table: a study knows its own; reranker-tuner diagnose --help lists what there is"),
    "diagnose: a table that is not there": ("diagnose --table nothing.csv --users 9 --candidates 9", "cannot read nothing.csv: No such file or directory"),
    "diagnose: a figure beyond one": ("diagnose --table figures.csv --users 9 --candidates 9", "figures.csv:2: recall_at_1: must be from 0 to 1, not in percent (got '2')"),
    "diagnose: a table of something else": ("diagnose --table clicks.csv --users 9 --candidates 9", "clicks.csv:1: user_id: there is no such column; valid: applied/learning_rate, applied/optimizer_steps, candidates, collaborative_scores, compile_layers, dora, dpo_beta, dpo_epochs, effective_batch, epoch, epochs, examples_per_user, first_candidates, gradient_checkpointing, history_dropout, history_length, hit, image_mode, kind, label_mass, label_position, label_prior, label_style, learning_rate, list_correction, list_sharing, lora_alpha, lora_dropout, lora_init, lora_plus_ratio, lora_rank, lora_targets, max_grad_norm, max_image_pixels, max_prompt_tokens, max_title_tokens, micro_batch, model, model_weight, mrr_at_10, name, ndcg_at_10, ndcg_at_5, negatives, objective, optimizer_steps, permutations, positive_grades, positives, precision, prompt_order, quantisation, rank, reason, recall_at_1, recall_at_10, recall_at_5, rslora, schedule, scored_share, scoring, seconds, seed, shard_base, shuffle_candidates, skill_mix, skill_steps, status, teacher, teacher_temperature, teacher_weight, titles_asked, titles_found, train_loss, val_loss, vision_lora, warmup_epochs, weight_decay\nclicks.csv:1: item_id: there is no such column; valid: applied/learning_rate, applied/optimizer_steps, candidates, collaborative_scores, compile_layers, dora, dpo_beta, dpo_epochs, effective_batch, epoch, epochs, examples_per_user, first_candidates, gradient_checkpointing, history_dropout, history_length, hit, image_mode, kind, label_mass, label_position, label_prior, label_style, learning_rate, list_correction, list_sharing, lora_alpha, lora_dropout, lora_init, lora_plus_ratio, lora_rank, lora_targets, max_grad_norm, max_image_pixels, max_prompt_tokens, max_title_tokens, micro_batch, model, model_weight, mrr_at_10, name, ndcg_at_10, ndcg_at_5, negatives, objective, optimizer_steps, permutations, positive_grades, positives, precision, prompt_order, quantisation, rank, reason, recall_at_1, recall_at_10, recall_at_5, rslora, schedule, scored_share, scoring, seconds, seed, shard_base, shuffle_candidates, skill_mix, skill_steps, status, teacher, teacher_temperature, teacher_weight, titles_asked, titles_found, train_loss, val_loss, vision_lora, warmup_epochs, weight_decay\nclicks.csv:1: timestamp: there is no such column; valid: applied/learning_rate, applied/optimizer_steps, candidates, collaborative_scores, compile_layers, dora, dpo_beta, dpo_epochs, effective_batch, epoch, epochs, examples_per_user, first_candidates, gradient_checkpointing, history_dropout, history_length, hit, image_mode, kind, label_mass, label_position, label_prior, label_style, learning_rate, list_correction, list_sharing, lora_alpha, lora_dropout, lora_init, lora_plus_ratio, lora_rank, lora_targets, max_grad_norm, max_image_pixels, max_prompt_tokens, max_title_tokens, micro_batch, model, model_weight, mrr_at_10, name, ndcg_at_10, ndcg_at_5, negatives, objective, optimizer_steps, permutations, positive_grades, positives, precision, prompt_order, quantisation, rank, reason, recall_at_1, recall_at_10, recall_at_5, rslora, schedule, scored_share, scoring, seconds, seed, shard_base, shuffle_candidates, skill_mix, skill_steps, status, teacher, teacher_temperature, teacher_weight, titles_asked, titles_found, train_loss, val_loss, vision_lora, warmup_epochs, weight_decay\nclicks.csv:1: one of these columns must be there: ndcg_at_10, recall_at_1, recall_at_5, recall_at_10, ndcg_at_5, mrr_at_10, val_loss"),
    "report: no study": ("report", "the following arguments are required: study; reranker-tuner report --help lists what there is"),
    "report: no such study": ("report nothing", "there is no study 'nothing' in HERE/runs; there are: none"),
    "report: a page and a paragraph": ("report empty --summary --live", "argument --live: not allowed with argument --summary; reranker-tuner report --help lists what there is"),
    "report: a port without a page": ("report empty --port 9000", "--port takes --live; reranker-tuner report --help lists what there is"),
    "seal: no such study": ("seal nothing", "there is no study 'nothing' in HERE/runs; there are: none"),
    "seal: a reason without a study": ("seal --unseal again", "the following arguments are required: study; reranker-tuner seal --help lists what there is"),
    "integrity: no such study": ("integrity nothing", "there is no study 'nothing' in HERE/runs; there are: none"),
    "integrity: a trial in words": ("integrity empty --leave-out first", "argument --leave-out: must be a whole number, not 'first'; reranker-tuner integrity --help lists what there is"),
    "doctor: an unknown option": ("doctor --fast", "unrecognized arguments: --fast; reranker-tuner doctor --help lists what there is"),
    "completion: no shell": ("completion", "the following arguments are required: shell; reranker-tuner completion --help lists what there is"),
    "completion: an unknown shell": ("completion nushell", "argument shell: invalid choice: 'nushell' (choose from 'bash', 'zsh', 'tcsh', 'fish', 'powershell'); reranker-tuner completion --help lists what there is"),
}  # fmt: skip


@pytest.mark.parametrize(("line", "says"), table(CASES))
def test_words_that_a_command_does_not_take(line, says):
    assert answer(line) == (2, says)


def test_every_command_has_a_case():
    assert set(reranker_tuner.COMMANDS) <= {line.split()[0] for line, _ in CASES.values()}


@pytest.mark.parametrize("command", reranker_tuner.COMMANDS)
def test_no_command_takes_a_nul_character(command):
    assert told(command, "a\0b").code == 2
