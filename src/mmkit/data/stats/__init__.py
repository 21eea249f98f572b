"""What a set of records holds, what it cost, where a record comes from; no model is run."""
