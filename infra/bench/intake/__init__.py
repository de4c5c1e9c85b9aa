"""Events told to a real region: how many a core takes, and whether each counts once while its processes are killed."""
