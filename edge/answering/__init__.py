"""From the question to the list that answers it: the ladder climbed down with real hands."""
