"""What is remembered of a night: runs, pictures, bundle and registry. The only code that imports mlflow."""
