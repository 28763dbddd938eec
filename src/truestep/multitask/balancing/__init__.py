"""How a balancer sees the tasks and sets their weights; the room exports what is public."""
