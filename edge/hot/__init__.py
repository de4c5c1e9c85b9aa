"""The way of a cached list: from the bytes of a plain request to the bytes of its answer, in one step."""
