"""A release's catalogue in columns: written once by central, mapped and read row by row by everybody else.

Nothing is built when it is opened, whatever its size. All arrays are .npy files in the folder `CATALOGUE` of a release,
so that a delta of rows (`infra.plumbing.deltas`) carries what changed. Needs NumPy; edges do not import it.
"""
