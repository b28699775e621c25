# syntax=docker/dockerfile:1
# Dagmill as a service:  docker build -t dagmill .
#   docker run -v dagmill:/var/lib/dagmill -p 8080:8080 -e DAGMILL_HOOK_SECRET dagmill serve URL

FROM python:3.12-slim AS build
RUN pip install --no-cache-dir "uv>=0.9,<1"
ENV UV_PYTHON_DOWNLOADS=never \
    UV_LINK_MODE=copy \
    UV_COMPILE_BYTECODE=1 \
    UV_PROJECT_ENVIRONMENT=/opt/dagmill
WORKDIR /src
# The dependencies first: they change less often than the code.
COPY pyproject.toml uv.lock ./
RUN uv sync --frozen --no-install-project
COPY . .
RUN uv sync --frozen --no-editable

FROM python:3.12-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends git ca-certificates \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --uid 10001 --shell /bin/sh dagmill \
 && install -d -m 0700 -o dagmill -g dagmill /var/lib/dagmill
COPY --from=build /opt/dagmill /opt/dagmill
# Not the whole folder on PATH: steps get the system's python, not the one that Dagmill uses.
RUN ln -s /opt/dagmill/bin/dagmill /usr/local/bin/dagmill
ENV PYTHONUNBUFFERED=1 \
    DAGMILL_DATA=/var/lib/dagmill \
    DAGMILL_HOST=0.0.0.0
USER dagmill
WORKDIR /home/dagmill
VOLUME /var/lib/dagmill
EXPOSE 8080
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/health', timeout=4)"]
# Dagmill itself is process 1: at a stop it waits for running steps (DAGMILL_DRAIN_S), then ends them.
STOPSIGNAL SIGTERM
ENTRYPOINT ["dagmill"]
CMD ["serve", "--help"]
