"""This machine → whether W&B sends runs to its server, keeps them here, or is switched off. Light: does not import W&B.

W&B itself asks for a key in the terminal where it finds none, which a search can't wait for.
"""

from __future__ import annotations

import configparser
import netrc
import os
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from reranker.errors import EnvironmentFault

Mode = Literal["online", "offline", "disabled"]

_SERVER = "https://api.wandb.ai"
_MODES: dict[str, Mode] = {"offline": "offline", "dryrun": "offline", "disabled": "disabled"}
_KEYS = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")


def wandb_mode() -> Mode:
    """How W&B is set up: by its variables, or by what `wandb offline` and `wandb login` have written.

    Raises:
        EnvironmentFault: runs would be sent, and there is no key.
    """
    settings = _settings()
    mode = _MODES.get(os.environ.get("WANDB_MODE") or settings.get("mode", ""), "online")
    if mode == "online" and not _has_key(settings):
        raise EnvironmentFault(
            "study.trackers: wandb needs a key of Weights & Biases, and there is none: run `wandb login`, or set "
            "WANDB_API_KEY; with WANDB_MODE=offline runs are kept in the study's folder, for `wandb sync` later"
        )
    return mode


def _settings() -> dict[str, str]:
    """What W&B's own commands have written: for this user, then for the present folder."""
    of_user = Path(os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb").expanduser() / "settings"
    files = configparser.ConfigParser(interpolation=None)
    try:
        files.read([of_user, Path("wandb") / "settings"], encoding="utf-8")
    except (configparser.Error, OSError, UnicodeDecodeError):
        return {}
    return dict(files["default"]) if files.has_section("default") else {}


def _has_key(settings: dict[str, str]) -> bool:
    if settings.get("api_key") or any(os.environ.get(name) for name in _KEYS):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or settings.get("base_url") or _SERVER).netloc
    for path in filter(None, (os.environ.get("NETRC"), "~/.netrc", "~/_netrc")):
        try:
            login = netrc.netrc(Path(path).expanduser()).authenticators(host)
        except (netrc.NetrcParseError, OSError):
            continue
        if login and login[2]:
            return True
    return False
