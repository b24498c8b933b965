"""What a classifier and its photos are like: explore, evaluate, explain, and their pages."""
