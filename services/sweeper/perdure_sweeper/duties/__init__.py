"""What the sweeper does again and again: each duty is a function of the rows, the logs and the broker's clock."""
