"""Which interpreter runs a tier."""

import sys
from pathlib import Path

import infra


def source_root() -> Path:
    """The folder that holds `edge/`, `region/`, ... : where child processes run, so that Python finds them."""
    return Path(infra.__path__[0]).resolve().parent


def tier_python(tier: str, environments: Path) -> str:
    """`<environments>/<tier>/bin/python` when it is there, else the interpreter that runs this."""
    own = environments / tier / "bin" / "python"
    return str(own) if own.exists() else sys.executable
