"""Flower imports typer, which uses a name that click 8.5 deprecates; warnings are errors here, that one is not ours."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import flwr.app
    import flwr.clientapp
    import flwr.serverapp  # noqa: F401
