"""The release's own lists: what answers when nothing else does."""
