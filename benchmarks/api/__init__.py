"""How our API stands under load, beside an MLflow tracking server and beside the least that a service can do."""
