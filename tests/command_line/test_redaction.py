"""What is shown or stored has no password, token, key or webhook in it, and loses nothing else."""

from __future__ import annotations

import pytest

from reranker.command_line.redaction import masked, masked_command

# What must vanish is written SECRET.
CORPUS = {
    "the password of an address": "postgres://me:SECRET@db/x",
    "a password with a slash": "https://me:SECR/SECRET@db/x",
    "a password with an at sign": "https://me:SECRET@SECRET@db/x",
    "a token as a user": "https://SECRET@git.example/x",
    "a query": "x?api_key=SECRET&y=1",
    "a signature": "https://store.example/b?se=2026&sig=SECRET%3D&sp=r",
    "a signature of AWS": "https://b.example/o?X-Amz-Signature=SECRET&X-Amz-Credential=SECRET",
    "a variable": "MLFLOW_TRACKING_PASSWORD=SECRET",
    "a key of AWS": "AWS_SECRET_ACCESS_KEY=SECRET",
    "an id of a key": "AWS_ACCESS_KEY_ID=SECRET",
    "an account key": "AccountName=x;AccountKey=SECRET==;y=1",
    "short for a password": "Server=db;Uid=me;Pwd=SECRET;Database=x",
    "PGPASSWORD": "PGPASSWORD=SECRET psql",
    "a value in single quotes": "password='SECRET SECRET' y",
    "a value in double quotes": 'token="SECRET SECRET" y',
    "an escaped quote": r'password="SECRET\" SECRET"',
    "YAML": "password: SECRET",
    "JSON": '{"api_key": "SECRET SECRET", "y": 1}',
    "a Python dict": "{'client_secret': 'SECRET'}",
    "a header": "Authorization: Bearer SECRET",
    "a header with a user": "authorization: Basic SECRET==",
    "a bearer alone": "Bearer SECRET.SECRET-SECRET_x",
    "an option": "--api-key SECRET",
    "an option with a dash in its value": "--token=SECRET-SECRET",
    "a token by its form": "hf_SECRETSECRETSECRETSECRETSECRETSECRET",
    "a token of GitHub": "ghp_SECRETSECRETSECRETSECRETSECRETSECRET",
    "a webhook of Slack": "https://hooks.slack.com/services/SECRET/SECRET/SECRET",
    "a webhook of Discord": "https://discord.com/api/webhooks/SECRET/SECRET",
    "a passphrase": "passphrase=SECRET",
    "a private key": "private_key: SECRET",
}  # fmt: skip

HARMLESS = [
    "NDCG@10 of https://x.example",
    "sqlite:////home/me/runs/demo/mlflow.db",
    "http://127.0.0.1:5000/#/experiments/1",
    "max_prompt_tokens: 512",
    "max_prompt_tokens=40",
    "7,000 tokens per second",
    "tokens_per_second: 3",
    "design=3, signal=4, assign=5",
    "keys: [a, b]",
    "key=value",
    "the bearer of news",
    "study: {name: demo}",
    "user@host.example",
]


@pytest.mark.parametrize("case", CORPUS)
def test_no_secret_is_left(case):
    assert "SECRET" not in masked(CORPUS[case]).replace("AWS_SECRET_ACCESS_KEY", "")
    assert "***" in masked(CORPUS[case])


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_no_secret_stays(text):
    assert masked(text) == text


def test_what_stands_around_a_secret_stays():
    assert masked("postgres://me:hunter2@db/x") == "postgres://***@db/x"
    assert masked("x?api_key=abc&y=1") == "x?api_key=***&y=1"
    assert masked("password='a b' y") == "password=*** y"
    assert masked('{"api_key": "a b", "y": 1}') == '{"api_key": ***, "y": 1}'
    assert masked("Server=db;Pwd=abc;Database=x") == "Server=db;Pwd=***;Database=x"


def test_a_text_that_is_masked_already_stays_as_it_is():
    for text in CORPUS.values():
        assert masked(masked(text)) == masked(text)


@pytest.mark.parametrize("option", ["--webhook", "--webh", "--web", "--api-key", "--token"])
def test_the_value_of_a_secret_option_is_hidden_however_it_is_written(option):
    assert "T0" not in masked_command(["s.py", option, "https://h.example/T0"])
    assert "T0" not in masked_command(["s.py", f"{option}=https://h.example/T0", "a b"])


def test_a_command_is_quoted_for_a_shell():
    assert masked_command(["s.py", "--webhook=https://h.example/T0", "a b"]) == "s.py --webhook=*** 'a b'"


def test_masking_a_long_text_takes_no_longer_than_reading_it():
    assert masked("a" * 300_000) == "a" * 300_000
    assert masked("x://" * 50_000) == "x://" * 50_000
    assert masked("token" * 50_000) == "token" * 50_000
