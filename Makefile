# Every target is a script in scripts/. The workflows use the same targets.
.DEFAULT_GOAL := help
.PHONY: help run test chaos test-cluster test-cluster-full bench lint build images fmt coverage fuzz sqlx-prepare clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## build and run a server and an agent on this machine, until Ctrl-C
	@scripts/run

test: ## run all tests, with a private PostgreSQL
	@scripts/test

chaos: ## run the full fault injection tests (1 hour)
	@scripts/chaos

test-cluster: ## test the chart in the cluster of KUBECONFIG
	@GOLECTRA_CLUSTER_TESTS=required scripts/test -p golectra-tests --test cluster

test-cluster-full: ## the same with ten rollouts, a long outage and Prometheus
	@GOLECTRA_CLUSTER_TESTS=required GOLECTRA_CLUSTER_FULL=1 scripts/test -p golectra-tests --test cluster

bench: ## run the benchmarks (1.5 hours)
	@scripts/bench

lint: ## check formatting, clippy, documentation, licences, scripts, types of page scripts and workflows
	@scripts/lint

build: ## build the release programs into target/release
	@scripts/build

images: ## build the container images and load them into kind, k3d or minikube
	@scripts/images

fmt: ## format the code
	@cargo fmt --all

coverage: ## measure test coverage (needs cargo-llvm-cov)
	@scripts/coverage

fuzz: ## fuzz each decoder for a minute (needs nightly and cargo-fuzz)
	@scripts/fuzz

sqlx-prepare: ## update .sqlx after a change of a query or a migration
	@scripts/sqlx-prepare

clean: ## remove build outputs; data/ is kept
	@cargo clean
