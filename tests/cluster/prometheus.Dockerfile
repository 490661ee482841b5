# Prometheus as Debian packages it, for the long form of the cluster tests.
ARG DEBIAN_IMAGE=localhost/debian:1
FROM ${DEBIAN_IMAGE}
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends prometheus && rm -rf /var/lib/apt/lists/*
USER 65534:65534
ENTRYPOINT ["/usr/bin/prometheus"]
