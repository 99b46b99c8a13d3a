# Everything that is done with gangplank. Needs cargo and make, and nothing else but for `fuzz`, which says what.

CARGO ?= cargo
# Where cargo puts what it builds; the demo takes the binary from there.
TARGET_DIR = $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)

# The tests that a machine cannot run write themselves into this file; by its whole name, as tests run in another directory.
NOT_RUN = '$(abspath $(TARGET_DIR))/not-run.txt'

# Tests wait for processes more than they compute, so twice as many run at once as there are processors.
TEST_THREADS ?= $(shell echo $$((2 * $$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2))))

# How long each fuzz target runs.
FUZZ_SECONDS ?= 600
FUZZ_TARGETS ?= head body multipart sse archive cbor package delta
# Memory in MB, of the whole and of one allocation, and seconds for one input: none of it grows with what a client sends.
FUZZ_LIMITS = -rss_limit_mb=512 -malloc_limit_mb=12 -timeout=10
# The sanitizer keeps what was freed for a while: by default more than half of that limit.
FUZZ_ASAN = quarantine_size_mb=64

.PHONY: build static cross demo test check msrv bench crash soak power inject fleet fuzz help

build: ## the release binary (the default)
	$(CARGO) build --release --locked

static: ## a binary that runs on any Linux of this processor, target/static/gangplank
	@sh tests/build/static.sh

cross: ## a static binary for another processor (TARGET=aarch64-unknown-linux-gnu, or armv7-unknown-linux-gnueabihf)
	@sh tests/build/cross.sh '$(TARGET)'

demo: build ## serve and deploy a sample component, and show what happens
	GANGPLANK='$(TARGET_DIR)/release/gangplank' sh tests/demo.sh

test: ## all tests, and at the end what was not run and what that needs
	@mkdir -p '$(TARGET_DIR)' && rm -f $(NOT_RUN)
	@GANGPLANK_NOT_RUN=$(NOT_RUN) RUST_TEST_THREADS=$(TEST_THREADS) $(CARGO) test --locked; code=$$?; \
	if [ -s $(NOT_RUN) ]; then \
	  echo "Not run, and what each needs ($$(wc -l <$(NOT_RUN))):"; sort $(NOT_RUN) | sed 's/^/  /'; \
	fi; exit $$code

check: ## format, lints and docs, of the fuzz targets too, warnings being errors
	$(CARGO) fmt --check
	$(CARGO) fmt --check --manifest-path tests/fuzz/Cargo.toml
	$(CARGO) clippy --locked --all-targets -- -D warnings
	@# Without a nightly toolchain and C++ the fuzz targets cannot be linked, but looked at.
	RUSTFLAGS="--cfg fuzzing" CUSTOM_LIBFUZZER_PATH=./libfuzzer.a $(CARGO) clippy --locked --manifest-path tests/fuzz/Cargo.toml \
	  --target-dir '$(TARGET_DIR)/fuzz-check' -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --no-deps --locked --document-private-items

msrv: ## check that the oldest Rust that may build it does (from rustup, or from Debian's packages below target/)
	@sh tests/build/msrv.sh

bench: ## measure, beside tar and rsync over ssh (GANGPLANK_BENCH=quick: smaller data; =events: that part alone)
	$(CARGO) bench --locked --bench bench

crash: ## kill the server N times (50) at random steps of a deployment, and look at what the next start makes of it
	GANGPLANK_CRASH=$(or $(N),50) $(CARGO) test --locked --test it crash:: -- --nocapture

soak: ## let many clients do everything while servers are killed, alone and as peers (SECONDS: 120 for each; SEED=N: again)
	GANGPLANK_SOAK=$(or $(SECONDS),120) $(if $(SEED),GANGPLANK_SOAK_SEED=$(SEED)) \
	  $(CARGO) test --locked --test it soak:: -- --nocapture --test-threads=1

power: ## take the power away N times (10) at each of several moments, and start a server on what the disk has
	GANGPLANK_POWER=$(or $(N),10) $(CARGO) test --locked --test it power::loss -- --nocapture

inject: ## let every system call of a deployment fail, one after the other (ONLY=scenario:call:errno:n, brief: one error a call)
	GANGPLANK_INJECT='$(or $(ONLY),all)' $(CARGO) test --locked --test it inject::every -- --nocapture

fleet: ## a fleet of N hosts (1000) that deploy nothing, at a real etcd: how long a rollout takes, and what etcd has to do
	ulimit -n $$(ulimit -Hn) && GANGPLANK_FLEET=$(or $(N),1000) \
	  $(CARGO) test --release --config profile.release.lto=false --config profile.release.codegen-units=16 \
	    --locked --lib simulation:: -- --nocapture

fuzz: ## throw bytes at what reads bytes of clients (FUZZ_SECONDS: 600 for each of FUZZ_TARGETS)
	@$(CARGO) +nightly fuzz --version >/dev/null 2>&1 || { \
	  echo 'make fuzz needs a nightly toolchain and cargo-fuzz:' \
	    'rustup toolchain install nightly && cargo install cargo-fuzz --locked'; exit 1; }
	@for target in $(FUZZ_TARGETS); do \
	  mkdir -p tests/fuzz/work/$$target && \
	  ASAN_OPTIONS=$(FUZZ_ASAN) $(CARGO) +nightly fuzz run --fuzz-dir tests/fuzz --target-dir '$(TARGET_DIR)/fuzz' $$target \
	    tests/fuzz/work/$$target tests/fuzz/seeds/$$target \
	    -- -max_total_time=$(FUZZ_SECONDS) $(FUZZ_LIMITS) -print_final_stats=1 || exit 1; \
	done

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile
