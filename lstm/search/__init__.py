"""The search for a configuration: an Optuna study that any number of worker processes share."""
