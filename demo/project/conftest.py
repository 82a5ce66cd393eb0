"""Its place makes pytest put this folder on sys.path."""
