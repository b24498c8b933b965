"""What a classifier and its photos are like: explore, evaluate, explain, predict, and their pages."""
