# syntax=docker/dockerfile:1
# llmkit in a container. On CPUs:
#   docker build -t llmkit .
#   docker run --rm -v "$PWD:/work" llmkit pretrain bert_mlm
# On NVIDIA GPUs (the host has the driver and the NVIDIA container toolkit):
#   docker build -t llmkit:cuda --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 .
#   docker run --rm --gpus all -v "$PWD:/work" llmkit:cuda pretrain bert_mlm
# Behind a mirror of PyPI: --build-arg PIP_INDEX_URL=https://pypi.tuna.tsinghua.edu.cn/simple

FROM python:3.12-slim AS build
ARG PIP_INDEX_URL=https://pypi.org/simple
ENV PIP_INDEX_URL=$PIP_INDEX_URL PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /source
COPY . .
RUN pip wheel --no-deps --wheel-dir /wheels .

FROM python:3.12-slim
ARG PIP_INDEX_URL=https://pypi.org/simple
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=serve,search,json,chinese
ENV PIP_INDEX_URL=$PIP_INDEX_URL PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
COPY constraints.txt /tmp/constraints.txt
COPY --from=build /wheels /wheels
# torch first and alone: PyPI's own wheel for Linux brings gigabytes of CUDA that a CPU has no use for
RUN pip install --index-url "$TORCH_INDEX" --extra-index-url "$PIP_INDEX_URL" -c /tmp/constraints.txt torch \
    && pip install -c /tmp/constraints.txt "$(ls /wheels/*.whl)[$EXTRAS]" \
    && rm -r /wheels /tmp/constraints.txt
# nobody's files are root's: runs and models that are written into /work belong to this user, or to `docker run --user`
RUN useradd --create-home --uid 1000 llmkit && mkdir -p /cache /work && chown llmkit:llmkit /cache /work
ENV LLMKIT_CACHE=/cache/llmkit HF_HOME=/cache/huggingface PYTHONUNBUFFERED=1
USER llmkit
VOLUME ["/cache"]
WORKDIR /work
EXPOSE 8000
STOPSIGNAL SIGTERM
ENTRYPOINT ["llmkit"]
CMD ["--help"]
