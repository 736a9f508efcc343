"""`d3bed compare`: one grid of models, networks and strategies, predicted from profiles or really run."""
