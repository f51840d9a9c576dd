# llmauth as a container: not root, no compilers, and nothing that has to be written to but /data.
# docs/deploy.md tells how to run it; compose.yaml has it behind Caddy.

# Any image with python3 (3.10 or newer), its venv module, and certificates.
ARG BASE=docker.io/library/python:3.13-slim

FROM ${BASE} AS build
# For pip, such as --index-url=...
ARG PIP_ARGS=
WORKDIR /src
COPY setup.cfg setup.py README.md LICENSE ./
COPY llmauth llmauth
RUN python3 -m venv /opt/llmauth \
    && /opt/llmauth/bin/pip install --no-cache-dir --use-pep517 ${PIP_ARGS} '.[redis]' \
    && /opt/llmauth/bin/pip uninstall -qy setuptools pip

FROM ${BASE}
COPY --from=build /opt/llmauth /opt/llmauth
RUN mkdir /data && chown 10001:10001 /data && chmod 700 /data
ENV PATH=/opt/llmauth/bin:$PATH APP_HOST=0.0.0.0 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /data
# The database and the wire capture, where they are configured.
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["python3", "-c", "import os, urllib.request; urllib.request.urlopen(f\"http://127.0.0.1:{os.environ.get('APP_PORT', 8000)}/livez\", timeout=4)"]
# SIGTERM lets streams finish for APP_SHUTDOWN_TIMEOUT, which is 30 seconds.
ENTRYPOINT ["llmauth"]
