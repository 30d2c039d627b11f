"""Running what the other rooms make: evaluation, statistics, comparison, reports, the command line."""
