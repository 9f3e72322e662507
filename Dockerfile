# CPU:  docker build -t unclip .
# CUDA: docker build -t unclip --build-arg TORCH=cu130 \
#         --build-arg BASE=nvidia/cuda:13.0.1-base-ubuntu24.04 .
# Run:  docker run --rm -it -v "$PWD:/work" unclip doctor      (and --gpus all)
#
# TORCH is what uv's --torch-backend takes (cpu, cu130, ...). torch brings its own CUDA libraries, so
# the base only has to let the driver in.
ARG BASE=debian:bookworm-slim
FROM ${BASE} AS base
ARG TORCH=cpu
ARG EXTRAS=demo,datasets,remote,finetune,interop,evaluation
COPY --from=ghcr.io/astral-sh/uv:0.13 /uv /usr/local/bin/uv
ENV UV_PYTHON_INSTALL_DIR=/opt/python UV_LINK_MODE=copy PATH=/opt/unclip/bin:$PATH
RUN uv venv --python 3.12 /opt/unclip
COPY pyproject.toml constraints.txt README.md LICENSE /src/
COPY src /src/src
COPY data_modules /src/data_modules
COPY experiments /src/experiments
RUN uv pip install --no-cache --python /opt/unclip/bin/python --torch-backend ${TORCH} \
      -c /src/constraints.txt "/src[${EXTRAS}]"

# The dev container: the tools of `make`, and nothing of unclip, which `make setup` installs.
FROM base AS dev
RUN apt-get update && apt-get install -y --no-install-recommends bash ca-certificates git make \
      && rm -rf /var/lib/apt/lists/*

# Nobody's files become root's.
FROM base
RUN useradd --create-home unclip && mkdir /work && chown unclip /work
USER unclip
WORKDIR /work
ENTRYPOINT ["unclip"]
CMD ["--help"]
