"""An address of MLflow's → whether it is a database's, and whether the package that talks to it is here. Connects to
nothing."""

from __future__ import annotations

from urllib.parse import urlsplit

from reranker.command_line.redaction import masked
from reranker.errors import EnvironmentFault, first_line

_DATABASES = ("postgresql", "mysql", "mssql")
_IN_MEMORY = ("sqlite:", "sqlite:/", "sqlite://", "sqlite:///", "sqlite:///:memory:")
_EXTRAS = {"psycopg": "'reranker-tuner[postgres]'"}  # driver → what has it


def is_database(uri: str) -> bool:
    """Whether MLflow talks to it without a server of its own between; SQLite's files are not meant."""
    return uri.partition("://")[0].partition("+")[0] in _DATABASES


def check_driver(uri: str) -> None:
    """
    Raises:
        EnvironmentFault: the driver is missing or broken, or the address is none, or none of a database.
    """
    try:
        urlsplit(uri)
    except ValueError as error:
        raise EnvironmentFault(f"--tracking-uri {masked(uri)} is no address: {first_line(error)}") from None
    if uri.startswith("sqlite:") and uri.partition("?")[0] in _IN_MEMORY:
        raise EnvironmentFault(
            f"--tracking-uri {uri} is kept in memory alone: name a file, as in sqlite:////FOLDER/mlflow.db"
        )
    if not is_database(uri):
        return
    from sqlalchemy.engine import make_url  # takes a while, and comes with MLflow
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    try:
        make_url(uri).get_dialect().import_dbapi()
    except NoSuchModuleError as error:
        raise EnvironmentFault(f"--tracking-uri {masked(uri)}: SQLAlchemy knows no such driver") from error
    except (ArgumentError, ValueError):
        raise EnvironmentFault(f"--tracking-uri {masked(uri)} is no address of a database") from None
    except ModuleNotFoundError as error:
        name = str(error.name).partition(".")[0]
        install = f"pip install {_EXTRAS.get(name, name)}"
        raise EnvironmentFault(f"--tracking-uri {masked(uri)} needs the package {name}: {install}") from None
    except ImportError as error:
        raise EnvironmentFault(
            f"--tracking-uri {masked(uri)}: its driver can't be used: {first_line(error)}"
        ) from error
