"""How good forecasts are: metrics, baselines and scores. Pure functions over arrays."""
