# The program `impala` with Atari, ViZDoom and films. docs/cluster.md
# Debian's mirrors keep no older versions; TENSORFLOW has its own.
# hadolint global ignore=DL3008,DL3013

# The compiler, and what else building takes, stay behind in this stage.
FROM debian:trixie-slim AS build
RUN apt-get update \
  && apt-get install --yes --no-install-recommends g++ python3-venv
RUN python3 -m venv /opt/impala
ENV PATH=/opt/impala/bin:$PATH
# For learners on GPUs: --build-arg TENSORFLOW='tensorflow[and-cuda]==2.21.*'
ARG TENSORFLOW='tensorflow==2.21.*'
# A layer of its own, as it is large and seldom changes.
RUN pip install --no-cache-dir setuptools wheel "$TENSORFLOW"
COPY . /src
# The ops are compiled against the TensorFlow that they will be loaded into.
RUN pip install --no-cache-dir --no-build-isolation '/src[atari,doom,video]'

FROM debian:trixie-slim
# tini is process 1: it passes signals on, and takes leave of orphans.
RUN apt-get update \
  && apt-get install --yes --no-install-recommends python3 tini \
  && rm -rf /var/lib/apt/lists/* \
  && useradd --uid 1000 --create-home impala \
  && install --directory --owner=impala /logs
COPY --from=build /opt/impala /opt/impala
ENV PATH=/opt/impala/bin:$PATH
# With docker run --user, a home can be neither entered nor written to.
ENV MPLCONFIGDIR=/tmp
WORKDIR /impala
COPY configs configs
USER 1000
VOLUME /logs
ENTRYPOINT ["tini", "--", "impala"]
