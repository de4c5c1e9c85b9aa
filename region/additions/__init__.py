"""Items that come between two releases: posted, kept, embedded, seated, searched beside the index, until released."""
