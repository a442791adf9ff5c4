# The service as an image: the program alone, on a base with glibc and certificates, as a user without rights.
#
#   docker build -t orchestrator .
#   docker run --rm -p 8080:8080 -v orchestrator:/data -e API_KEYS=… orchestrator

# The version of rust-toolchain.toml; that file stays out, as rustup would fetch clippy and rustfmt for it.
FROM rust:1.95.0-bookworm AS build
WORKDIR /src

# Dependencies first, below an empty program: this layer is built again only when they change.
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src benches/bench \
    && echo 'fn main() {}' > src/main.rs \
    && touch src/lib.rs benches/bench/main.rs benches/hot.rs \
    && cargo build --release --locked

COPY . .
# What was copied is older than the empty program's build, so that cargo would take that for the real one.
RUN touch src/lib.rs src/main.rs \
    && cargo build --release --locked \
    && strip target/release/orchestrator \
    && install -d /data

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /src/target/release/orchestrator /usr/local/bin/orchestrator
COPY --from=build --chown=65532:65532 /data /data

# glibc keeps what threads free; with these two it gives most of it back (docs/ARCHITECTURE.md has what was measured).
ENV MALLOC_ARENA_MAX=1 \
    MALLOC_MMAP_THRESHOLD_=131072 \
    HOST=0.0.0.0 \
    PORT=8080 \
    DATA_DIR=/data

EXPOSE 8080
USER 65532:65532
HEALTHCHECK --interval=15s --timeout=4s --start-period=30s --retries=3 CMD ["orchestrator", "healthcheck"]
ENTRYPOINT ["orchestrator"]
CMD ["serve"]
