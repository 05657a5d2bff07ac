"""What runs jobs: the Celery app, claiming and supervising of jobs, and the training itself."""
