# One image for every process of the exchange; compose.yaml says which runs what.
FROM python:3.11-slim-bookworm AS packages

WORKDIR /build
COPY image.lock ./
RUN python -m venv /opt/exchange \
    && /opt/exchange/bin/pip install --no-cache-dir --only-binary :all: --require-hashes -r image.lock

FROM python:3.11-slim-bookworm

RUN useradd --system --uid 10001 --no-create-home exchange
COPY --from=packages /opt/exchange /opt/exchange
WORKDIR /app
COPY alembic.ini ./
COPY alembic alembic
COPY exchange exchange
COPY projections projections

ENV PATH=/opt/exchange/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOST=0.0.0.0
USER exchange
EXPOSE 3000
ENTRYPOINT ["python", "-m", "exchange"]
CMD ["gateway", "--port", "3000"]
