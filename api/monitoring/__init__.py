"""What Prometheus is told of the service: requests of this process, and the lab's jobs as the database has them."""
