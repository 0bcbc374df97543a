"""Looking inside a trained network: its gates, how far its gradient reaches, what its forecasts rest on."""
