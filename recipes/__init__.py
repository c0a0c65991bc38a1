"""What is trained: recipes, free of any framework and of any worker count."""
