"""A model's shape and a pass → the memory that it takes; and what to do when there is too little."""
