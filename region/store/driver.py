"""The SQLite that this region uses: SQLCipher 4, which encrypts pages and write-ahead log alike when it is given a key.

It is the standard library's module by its interface, and is typed as that. Its errors are its own: catch
`sqlite3.Error` of this module.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3
else:
    from sqlcipher3 import dbapi2 as sqlite3

__all__ = ["sqlite3"]
