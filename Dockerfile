# docker build --target cpu  -t reranker-tuner .
# docker build --target cuda -t reranker-tuner:cuda .
# docker run --rm -it --shm-size 4g -p 8265:8265 -v "$PWD:/work" reranker-tuner search
# docker run --rm -it --gpus all --shm-size 8g -p 8265:8265 -v "$PWD:/work" reranker-tuner:cuda search study.yaml

FROM python:3.12-slim AS build
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src

FROM build AS cpu-build
COPY constraints.txt requirements-cpu.txt ./
RUN pip install uv==0.13.9 \
 && uv pip install --python /opt/venv --torch-backend cpu "$(grep '^torch==' constraints.txt)" \
 && pip install --no-deps --require-hashes --requirement requirements-cpu.txt
COPY . .
RUN pip install --no-deps .

FROM build AS cuda-build
COPY requirements-cuda.txt ./
RUN pip install --no-deps --require-hashes --requirement requirements-cuda.txt
COPY . .
RUN pip install --no-deps .

FROM python:3.12-slim AS runtime
# OpenMP for implicit (item-kNN). Debian keeps no old versions that could be pinned.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends libgomp1 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --uid 1000 tuner \
 && install -d --owner tuner /work
ENV PATH=/opt/venv/bin:$PATH RERANKER_TUNER_HOME=/work
USER 1000
WORKDIR /work
EXPOSE 8265
ENTRYPOINT ["reranker-tuner"]
CMD ["--help"]

FROM runtime AS cuda
COPY --from=cuda-build /opt/venv /opt/venv

FROM runtime AS cpu
COPY --from=cpu-build /opt/venv /opt/venv
