# The image of the API, the migrations and the scheduler; the worker's, which holds torch, is Dockerfile.gpu.

FROM python:3.12-slim AS installer
COPY requirements/uv.txt /tmp/
RUN python -m venv /uv && /uv/bin/pip install --no-cache-dir --require-hashes -r /tmp/uv.txt

FROM python:3.12-slim
# Volumes take their owner from the directories that they are first mounted on.
RUN groupadd --gid 10001 trainyard \
    && useradd --uid 10001 --gid trainyard --no-create-home --home-dir /tmp --shell /usr/sbin/nologin trainyard \
    && install --directory --owner trainyard --group trainyard /data/artifacts

# The certificates are the system's, to which a network with an authority of its own can add it.
RUN --mount=type=bind,from=installer,source=/uv/bin/uv,target=/usr/local/bin/uv \
    --mount=type=bind,source=requirements/api.txt,target=/tmp/api.txt \
    python -m venv --without-pip /venv \
    && SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt uv pip install --python /venv/bin/python \
       --no-cache --compile-bytecode --require-hashes --no-deps -r /tmp/api.txt

WORKDIR /app
COPY models models
COPY migrations migrations
COPY recipes recipes
COPY api api
# What the scheduler imports; training stays out.
COPY worker/__init__.py worker/leases.py worker/outage.py worker/preemption.py worker/reaper.py worker/retention.py \
     worker/scheduler.py worker/settings.py worker/
COPY worker/sweeps worker/sweeps
RUN /venv/bin/python -m compileall -q .

ARG GIT_COMMIT=unknown
ENV PATH=/venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    TRAINYARD_GIT_COMMIT=$GIT_COMMIT \
    TRAINYARD_HOST=0.0.0.0
USER trainyard
CMD ["python", "-m", "api"]
