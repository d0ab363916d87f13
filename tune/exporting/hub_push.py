"""An exported folder → the Hugging Face Hub, or what would be sent there."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from reranker.errors import EnvironmentFault, first_line


def contents(folder: Path) -> list[str]:
    """Each file with its size."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [f"{path.relative_to(folder)}  {path.stat().st_size:,} bytes" for path in files]


def push(folder: Path, name: str, *, private: bool) -> str:
    """Make the repository if there is none, and send the folder; its address.

    Raises:
        EnvironmentFault: the Hub does not take it.
    """
    api = HfApi()
    try:
        api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Exported by reranker-tuner")
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise EnvironmentFault(
            f"the Hub does not take {name}: {first_line(error)}; `hf auth login` tells it who you are"
        ) from error
    return f"{api.endpoint}/{name}"
