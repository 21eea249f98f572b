"""What a task is: how it is asked, how an answer is read out of a reply, how one row is scored. No model, no numpy."""
