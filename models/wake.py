"""The one message of the service, as data without Celery: it holds no job, it says that there is work in a queue."""

from typing import Any

from models.settings import Settings

WAKE_TASK = "trainyard.wake"  # its one argument is the queue's name


def celery_settings(settings: Settings, *, socket_timeout_seconds: float) -> dict[str, Any]:
    """Return the Celery configuration of senders and workers: JSON only, results ignored, every wait bounded."""
    return {
        "broker_url": settings.redis_url,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_connection_timeout": socket_timeout_seconds,
        "broker_transport_options": {
            "global_keyprefix": settings.redis_key_prefix,
            "socket_timeout": socket_timeout_seconds,
            "socket_connect_timeout": socket_timeout_seconds,
        },
        "accept_content": ["json"],
        "task_serializer": "json",
        "task_ignore_result": True,
        "task_acks_late": False,
        "worker_prefetch_multiplier": 1,
        "worker_hijack_root_logger": False,
        "worker_enable_remote_control": False,
    }
