"""One module for each task, which is its TASK; a new module here is a new task"""
