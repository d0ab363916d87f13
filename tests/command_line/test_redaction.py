"""What is shown or stored has no password, token, key or webhook in it, and loses nothing else."""

from __future__ import annotations

import pytest

from reranker.command_line.redaction import masked, masked_command

# What must vanish is written SECRET.
CORPUS = {
    "the password of an address": "postgres://me:SECRET@db/x",
    "a password with a slash": "https://me:SECR/SECRET@db/x",
    "a password with an at sign": "https://me:SECRET@SECRET@db/x",
    "a password with an apostrophe": "postgresql://me:SECR'SECRET@db/x",
    "a password with a double quote": 'postgresql://me:SECR"SECRET@db/x',
    "a password with brackets": "postgresql://me:<SECRET>SECRET@db/x",
    "a token as a user": "https://SECRET@git.example/x",
    "a query": "x?api_key=SECRET&y=1",
    "a signature": "https://store.example/b?se=2026&sig=SECRET%3D&sp=r",
    "a signature of AWS": "https://b.example/o?X-Amz-Signature=SECRET&X-Amz-Credential=SECRET",
    "a variable": "MLFLOW_TRACKING_PASSWORD=SECRET",
    "a key of AWS": "AWS_SECRET_ACCESS_KEY=SECRET",
    "a key of Azure": "AZURE_STORAGE_KEY=SECRET==",
    "a line of Python": "os.environ['HF_TOKEN'] = 'SECRET'",
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
    "a query's token": "https://h.example/x?token=SECRET",
    "a query's key": "https://maps.example/x?q=1&key=SECRET",
    "a percent-encoded one": "https://h.example/?next=%3Ftoken%3DSECRET",
    "a temporary key of AWS": "ASIASECRETSECRETSECRET",
    "a session token of AWS": "export AWS_SESSION_TOKEN='SECRET/SECRET+SECRET=='",
    "a signed header of AWS": "Authorization: AWS4-HMAC-SHA256 Credential=SECRET/20261128, SignedHeaders=host, Signature=SECRET",
    "a digest": 'Authorization: Digest username="me", response="SECRET"',
    "a proxy's header": "Proxy-Authorization: Basic SECRET",
    "a header in JSON": '{"Authorization": "Bearer SECRET"}',
    "a header in a list of pairs": "[('Authorization', 'Bearer SECRET')]",
    "a header of an API": "X-Api-Key: SECRET",
    "another one": "Ocp-Apim-Subscription-Key: SECRET",
    "a cookie": "Cookie: session=SECRET; other=SECRET",
    "a cookie that is set": "Set-Cookie: id=SECRET; Path=/",
    "JSON within JSON": r'{"body": "{\\"api_key\\": \\"SECRET SECRET\\", \\"y\\": 1}"}',
    "bytes": "{b'password': b'SECRET SECRET'}",
    "a pair": "('password', 'SECRET')",
    "Ruby": ":password => 'SECRET'",
    "YAML with spaces": "  password: SECRET SECRET SECRET",
    "YAML in a block": "token: |\n  SECRET\n  SECRET\nother: 1",
    "a list in YAML": "- secret: SECRET",
    "short in a variable": "DB_PASS=SECRET",
    "a DSN": "SENTRY_DSN=https://SECRET@o1.ingest.example/2",
    "a connection string": "connection_string='Server=db;SECRET'",
    "an address without a scheme": "me:SECRET@db.example:5432/x",
    "an address with a user alone": "redis://:SECRET@cache:6379/0",
    "a store": "mysql+pymysql://me:SECRET@db/mlflow?ssl=true",
    "curl's user": "curl -u me:SECRET https://h.example",
    "netrc": "machine h.example login me password SECRET",
    "a login of W&B": "WANDB_API_KEY=SECRET wandb login",
    "a token of GitLab": "glpat-SECRETSECRETSECRETSECRET",
    "a token of OpenAI": "sk-proj-SECRETSECRETSECRET_SECRET-SECRET",
    "a token of Anthropic": "sk-ant-api03-SECRETSECRETSECRETSECRET",
    "a token of Stripe": "sk_live_SECRETSECRETSECRETSECRET",
    "a token of Google": "AIzaSECRETSECRETSECRETSECRETSECRETSEC",
    "a token of npm": "npm_SECRETSECRETSECRETSECRETSECRETSECRET",
    "a token of PyPI": "pypi-SECRETSECRETSECRETSECRETSECRET",
    "a token of Databricks": "dapiSECRETSECRETSECRETSECRETSECRETSE",
    "a token of Slack": "xoxb-SECRETSECRET-SECRETSECRET-SECRETSECRET",
    "a token of Replicate": "r8_SECRETSECRETSECRETSECRETSECRET",
    "a token in a sentence": "401: hf_SECRETSECRETSECRETSECRETSECRETSECRET, which has expired",
    "a JSON web token": "eyJSECRETSECRET.eyJSECRETSECRET.SECRETSECRET",
    "a private key's file": "-----BEGIN RSA PRIVATE KEY-----\nSECRET\nSECRET\n-----END RSA PRIVATE KEY-----\n",
    "one that is cut": "-----BEGIN OPENSSH PRIVATE KEY-----\nSECRET\nSEC",
    "a webhook of Teams": "https://x.webhook.office.com/webhookb2/SECRET@SECRET/IncomingWebhook/SECRET",
    "a webhook of Mattermost": "https://chat.example/hooks/SECRET",
    "a webhook of Zapier": "https://hooks.zapier.com/hooks/catch/1/SECRET/",
    "a webhook of Google": "https://chat.googleapis.com/v1/spaces/SECRET/messages?key=SECRET&token=SECRET",
    "a bot of Telegram": "https://api.telegram.org/bot1:SECRET/sendMessage",
    "a webhook's name": "WEBHOOK_URL=https://h.example/SECRET",
    "an error of requests": "401 Client Error: Unauthorized for url: https://me:SECRET@h.example/api?token=SECRET",
}  # fmt: skip

HARMLESS = [
    "NDCG@10 of https://x.example",
    '{"a":"http://127.0.0.1:5000","b":"me@host"}',
    "['http://127.0.0.1:5000','me@host']",
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
    "mailto:user@host.example",
    "python:3.11@sha256:0123",
    "git@host.example:me/x.git",
    'curl http://127.0.0.1:8000/rank -H "Authorization: Bearer $RERANKER_SERVE_TOKEN" --json x',
    "export RERANKER_SERVE_TOKEN=$TOKEN",
    "max_tokens = 512, label_style: id_tokens",
    "objective: token_ce",
    "commit 0123456789abcdef0123456789abcdef01234567",
    "trial 3 epoch 1/4: loss 4.113, Recall@1 0.143",
    "asks for a token, which this prints: ray get-auth-token",
    "[2:05] Heat (1995), 12:30 @ home",
    "sk-learn is scikit-learn",
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
    assert masked("a:" * 20_000) == "a:" * 20_000
    assert masked("password\n" * 5_000) == "password\n" * 5_000
