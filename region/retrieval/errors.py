"""What can go wrong between a region and its retrieval process."""

from infra.plumbing.errors import AtollError, InvalidInputError, UnavailableError


class RetrievalUnavailableError(UnavailableError):
    """The retrieval process does not run, or has all the work it takes."""


class QueryRefusedError(InvalidInputError):
    """A vector that must not reach the index: not finite, or not of the index's dimension."""


class IndexUnusableError(AtollError):
    """The release's index cannot be loaded."""
