"""The demo: the whole story on real data, each act with what it proves and its figure."""
