# One image for every process of the exchange; compose.yaml says which runs what.
FROM python:3.11-slim-bookworm AS packages

WORKDIR /build
COPY image.lock ./
RUN python -m venv /opt/exchange \
    && /opt/exchange/bin/pip install --no-cache-dir --only-binary :all: --require-hashes -r image.lock
COPY build.lock pyproject.toml README.md LICENSE ./
COPY alembic alembic
COPY exchange exchange
COPY projections projections
RUN pip install --no-cache-dir --only-binary :all: --require-hashes -r build.lock \
    && pip wheel --no-index --no-deps --no-build-isolation -w wheels . \
    && /opt/exchange/bin/pip install --no-cache-dir --no-index --no-deps wheels/*.whl

FROM python:3.11-slim-bookworm

RUN useradd --system --uid 10001 --no-create-home exchange
COPY --from=packages /opt/exchange /opt/exchange
WORKDIR /app

# PYTHONPATH is for `python -S`, which asks for health.
ENV PATH=/opt/exchange/bin:$PATH PYTHONPATH=/opt/exchange/lib/python3.11/site-packages \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOST=0.0.0.0
USER exchange
EXPOSE 3000
ENTRYPOINT ["exchange"]
CMD ["gateway", "--port", "3000"]
